"""Typed events as records and as words."""

import dataclasses
from pathlib import Path
from typing import get_args

import pytest

from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.live.events import (
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
from edgeclf.runtime.live.results import CameraStatistics, LiveFigures
from edgeclf.toolkit.events.event_record import event_record, event_sentence, label_changes

FIGURES = LiveFigures()
FIGURES.add(12.0, is_error=False)
COUNTS = CameraStatistics(captured=5, taken=2, reconnects=1, skipped=1)
RGB, RGX = ("red", "green", "blue"), ("red", "green", "x")
EXAMPLES = {
    Connected("cam"): {"event": "reconnected"},
    Disconnected("cam", "the stream ended", 2, 5): {
        "event": "disconnected", "reason": "the stream ended; opening it anew (2 of 5)",
    },
    Reconnected("cam"): {"event": "reconnected", "reason": "delivers again"},
    Frozen("cam", "silent", 2.14): {"event": "frozen", "reason": "no new frame for 2.1 s"},
    Frozen("cam", "still", 2.14): {"event": "frozen", "reason": "the same picture for 2.1 s"},
    Recovered("cam"): {"event": "moving"},
    LabelChanged("cam", "red", None, 0.12345678, 7, 3.14159): {
        "event": "label", "label": "red", "previous": None, "rejected": False, "confidence": 0.123457, "frame": 7,
        "age_ms": 3.1,
    },
    ModelReloaded(Path("m.onnx"), RGX, RGB): {"event": "model_reloaded", "labels": "new: x; gone: blue"},
    ModelReloaded(Path("m.onnx"), RGB, RGB): {"event": "model_reloaded", "labels": "the same labels"},
    ModelKept(Path("m.onnx"), "the file is gone"): {"event": "model_kept", "reason": "the file is gone"},
}  # fmt: skip


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_has_its_documented_record(event):
    record = event_record(event)
    assert record.pop("time")
    source = "m.onnx" if isinstance(event, ModelReloaded | ModelKept) else "cam"
    assert record == {"source": source, **EXAMPLES[event]}


def test_every_kind_of_event_has_an_example():
    assert {type(event) for event in EXAMPLES} | {Ended} == set(get_args(LiveEvent))


def test_the_end_of_a_camera_has_its_figures_and_error():
    ended = Ended("cam", FIGURES, COUNTS, 3, SourceError("camera cam went away"))
    record = event_record(ended)
    expected = {"frames": 1, "captured": 5, "dropped": 2, "age_p50_ms": 12.0, "freezes": 3}
    assert expected.items() <= record.items()
    assert record["error"] == "camera cam went away."
    assert not {"freezes", "error"} & set(event_record(dataclasses.replace(ended, freezes=None, error=None)))


def test_a_line_names_the_camera_or_the_model():
    assert event_sentence(Disconnected("cam", "closed", 1, 5)) == "camera cam: closed; opening it anew (1 of 5)"
    assert event_sentence(Frozen("cam", "still", 3)) == "camera cam is frozen: the same picture for 3.0 s"
    assert event_sentence(Recovered("cam")) == "camera cam moves again"
    assert event_sentence(ModelKept(Path("m.onnx"), "x")) == "model m.onnx cannot be reloaded, the old one is kept: x"
    assert event_sentence(ModelReloaded(Path("m.onnx"), RGB, RGB)).endswith("and reloaded: the same labels")


def test_differences_of_labels_are_named():
    assert label_changes(("a", "b"), ("b", "a")) == "the same labels in another order"
    assert label_changes(("a", "b"), ("a", "b")) == ""
    assert label_changes(("a",), ("a", "b", "c")) == "new: b, c"
