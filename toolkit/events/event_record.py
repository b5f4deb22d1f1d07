"""Events as JSON records and as words: the one place where a typed event becomes text."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, TypeAlias

from edgeclf.runtime import (
    Connected,
    Disconnected,
    Ended,
    Frozen,
    LabelChanged,
    LiveEvent,
    ModelKept,
    ModelReloaded,
    Reconnected,
    Recovered,
)
from edgeclf.runtime.live.events import CameraEvent
from edgeclf.runtime.live.results import CameraStatistics, LiveFigures

# Events that a terminal shows as a line; labels and ends have places of their own there.
NewsEvent: TypeAlias = Connected | Disconnected | Reconnected | Frozen | Recovered | ModelReloaded | ModelKept
_KINDS: dict[type, str] = {
    # A camera that was not there when the run began has the record of one that came back.
    Connected: "reconnected",
    Disconnected: "disconnected",
    Reconnected: "reconnected",
    Frozen: "frozen",
    Recovered: "moving",
    LabelChanged: "label",
    Ended: "ended",
    ModelReloaded: "model_reloaded",
    ModelKept: "model_kept",
}


def make_record(kind: str, source: str, **details: object) -> dict[str, Any]:
    """An event record: `event`, `time` (UTC, ISO 8601, milliseconds), `source`, and the details of its kind.

    Args:
        kind: The kind, such as `label`.
        source: Name of the camera, or path of the model.
        details: Plain JSON values.
    """
    now = dt.datetime.now(dt.timezone.utc).isoformat(timespec="milliseconds")
    return {"event": kind, "time": now.replace("+00:00", "Z"), "source": source, **details}


def event_record(event: LiveEvent) -> dict[str, Any]:
    """A typed event as its documented JSON record."""
    source = event.camera if isinstance(event, CameraEvent) else str(event.path)
    return make_record(_KINDS[type(event)], source, **_details(event))


def _details(event: LiveEvent) -> dict[str, Any]:
    match event:
        case LabelChanged():
            return {
                "label": event.label,
                "previous": event.previous,
                "rejected": event.rejected,
                "confidence": round(event.confidence, 6),
                "frame": event.frame_number,
                "age_ms": round(event.age_ms, 1),
            }
        case Ended():
            error = {} if event.error is None else {"error": str(event.error)}
            freezes = {} if event.freezes is None else {"freezes": event.freezes}
            return figures_json(event.figures, event.statistics) | error | freezes
        case ModelReloaded():
            return {"labels": event_phrase(event)}
        case Connected() | Recovered():
            return {}
        case _:
            return {"reason": event_phrase(event)}


def event_phrase(event: NewsEvent) -> str:
    """The event as a phrase, to stand behind the name of the camera or model."""
    match event:
        case Connected():
            phrase = "delivers now"
        case Disconnected():
            phrase = f"{event.reason}; opening it anew ({event.attempt} of {event.attempts})"
        case Reconnected():
            phrase = "delivers again"
        case Frozen(kind="silent"):
            phrase = f"no new frame for {event.seconds:.1f} s"
        case Frozen():
            phrase = f"the same picture for {event.seconds:.1f} s"
        case Recovered():
            phrase = "moves again"
        case ModelReloaded():
            phrase = label_changes(event.previous_labels, event.labels) or "the same labels"
        case ModelKept():
            phrase = event.reason
    return phrase


def event_sentence(event: NewsEvent) -> str:
    """The event as a line for the terminal or a log, with the name of the camera or model."""
    phrase = event_phrase(event)
    match event:
        case Frozen():
            return f"camera {event.camera} is frozen: {phrase}"
        case Recovered():
            return f"camera {event.camera} {phrase}"
        case ModelReloaded():
            return f"model {event.path} was replaced and reloaded: {phrase}"
        case ModelKept():
            return f"model {event.path} cannot be reloaded, the old one is kept: {phrase}"
        case _:
            return f"camera {event.camera}: {phrase}"


def figures_json(figures: LiveFigures, statistics: CameraStatistics) -> dict[str, Any]:
    """The figures of a run as plain JSON values."""
    ages_ms = figures.age_percentiles_ms()
    return {
        "frames": figures.done,
        "errors": figures.errors,
        "seconds": round(figures.seconds, 3),
        "captured": statistics.captured,
        "dropped": statistics.dropped,
        "skipped": statistics.skipped,
        "unreadable": statistics.unreadable,
        "size_changes": statistics.size_changes,
        "reconnects": statistics.reconnects,
        "age_p50_ms": None if ages_ms is None else round(ages_ms[0], 1),
        "age_p95_ms": None if ages_ms is None else round(ages_ms[1], 1),
    }


def label_changes(before: Sequence[str], after: Sequence[str]) -> str:
    """The differences between two lists of class names, as a phrase; empty where there is none."""
    added = [label for label in after if label not in before]
    removed = [label for label in before if label not in after]
    phrases = [f"{verb} {', '.join(labels)}" for verb, labels in (("new:", added), ("gone:", removed)) if labels]
    if not phrases and tuple(before) != tuple(after):
        phrases = ["the same labels in another order"]
    return "; ".join(phrases)
