"""Prometheus metrics of the preview: counts are read from the state for each request, histograms see every result."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeclf.runtime import LiveResult
from edgeclf.toolkit.console import printable
from edgeclf.toolkit.serve.state import PreviewState

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_COUNTERS = {
    "frames_classified": "Frames that were classified.",
    "frames_failed": "Frames that could not be classified.",
    "frames_captured": "Frames that the camera delivered.",
    "frames_dropped": "Frames that a newer one replaced before they were classified.",
    "reconnects": "Times the camera went away and delivered again.",
}


class PreviewMetrics:
    """Metrics of one preview, in a registry of their own.

    Args:
        state: Source of the counts, and of every further result.
    """

    def __init__(self, state: PreviewState) -> None:
        # A time of creation beside every counter would double the document.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # of prometheus_client
        self._registry = CollectorRegistry()
        self._latency = self._histogram("edgeclf_latency_seconds", "Preprocessing and inference of one frame.")
        self._age = self._histogram("edgeclf_frame_age_seconds", "Age of a frame when its result was there.")
        self._observers: dict[str, tuple[Callable[[float], None], Callable[[float], None]]] = {}
        self._registry.register(_Counts(state))
        ProcessCollector(registry=self._registry)
        state.listen(self._observe)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The document and its media type, in the newest format that the Accept header allows."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("camera",), buckets=_BUCKETS_S, registry=self._registry)

    def _observe(self, result: LiveResult) -> None:
        observers = self._observers.get(result.camera)
        if observers is None:
            # Looking up the series of a label takes longer than counting in it.
            name = printable(result.camera)
            observers = self._latency.labels(name).observe, self._age.labels(name).observe
            self._observers[result.camera] = observers
        observers[0](result.outcome.latency_ms / 1e3)
        observers[1](result.age_ms / 1e3)


class _Counts(Collector):
    def __init__(self, state: PreviewState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        model = InfoMetricFamily("edgeclf_model", "The model that classifies.")
        model.add_metric(
            (), {key: printable(str(value)) for key, value in state.model.items() if isinstance(value, (str, int))}
        )
        yield model
        statuses = state.status()
        for key, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"edgeclf_{key}", text, labels=("camera",))
            for status in statuses:
                counter.add_metric((printable(status["camera"]),), status.get(key, 0))
            yield counter
        yield from self._labels_and_events()
        yield _gauge("frames_per_second", "Frames classified per second; 0 while none arrives.", statuses, "fps")
        yield _gauge("seconds_since_frame", "Seconds since the newest result.", statuses, "seconds_since_frame")

    def _labels_and_events(self) -> Iterator[Metric]:
        names = ("camera", "label")
        labels = CounterMetricFamily("edgeclf_labels", "Frames by the label they were given.", labels=names)
        counts: Counter[tuple[str, str]] = Counter()
        for camera in self._state.cameras:
            for label, count in camera.label_counts().items():
                # Of names that look alike once they are escaped, one series.
                counts[printable(camera.name), printable(label)] += count
        for values, count in sorted(counts.items()):
            labels.add_metric(values, count)
        yield labels
        events = CounterMetricFamily("edgeclf_events", "Events by kind.", labels=("camera", "event"))
        for (name, kind), count in sorted(self._state.counted_events().items()):
            events.add_metric((printable(name), printable(kind)), count)
        yield events


def _gauge(name: str, text: str, statuses: list[dict[str, Any]], key: str) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"edgeclf_{name}", text, labels=("camera",))
    for status in statuses:
        gauge.add_metric((printable(status["camera"]),), status.get(key, 0.0))
    return gauge
