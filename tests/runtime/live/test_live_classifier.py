"""The live loop as an application embeds it: results, events, the end, freezes and a replaced model."""

import threading

import numpy as np
import pytest

from edgeclf.runtime import (
    Classifier,
    Connected,
    Disconnected,
    Ended,
    Frozen,
    LabelChanged,
    LiveClassifier,
    ModelKept,
    ModelReloaded,
    Reconnected,
    Recovered,
    Smoothing,
)
from edgeclf.runtime.errors import ModelFileError, SourceError

from ...clocks import FakeClock, wait_until

COLOURS_BGR = {"red": (0, 0, 200), "green": (0, 200, 0), "blue": (200, 0, 0)}


def image(colour, brightness=0):
    return np.clip(np.full((48, 64, 3), COLOURS_BGR[colour], np.int16) + brightness, 0, 255).astype(np.uint8)


@pytest.fixture
def classifier(colour_model):
    return Classifier(colour_model, threads=1)


def kinds(events):
    return [type(event) for event in events]


def test_results_and_events_of_a_camera_until_it_is_closed(scripted, clock, classifier):
    events, found = [], []
    scripted.send(image("red"))
    with LiveClassifier(classifier, scripted.url, clock=clock, on_event=events.append) as live:
        for result in live:
            found.append(result)
            if len(found) == 3:
                live.close()
            else:
                scripted.send(image(("red", "green")[len(found) - 1]))
    assert [result.label for result in found] == ["red", "red", "green"]
    assert [result.frame.number for result in found] == [0, 1, 2]
    assert {result.camera for result in found} == {scripted.url} == {live.camera}
    assert all(result.confidence == pytest.approx(result.outcome.prediction.confidence) for result in found)
    assert live.newest is found[-1]
    assert kinds(events) == [Connected, LabelChanged, LabelChanged, Ended]
    assert [(event.previous, event.label, event.frame_number) for event in events[1:3]] == [
        (None, "red", 0), ("red", "green", 2),
    ]  # fmt: skip
    ended = events[-1]
    assert (ended.error, ended.freezes, ended.figures.done, ended.statistics.taken) == (None, None, 3, 3)
    assert (list(live), scripted.opened) == ([], 1)


def test_a_path_is_enough_and_a_missing_model_opens_no_camera(scripted, clock, colour_model, tmp_path):
    scripted.send(image("blue"))
    with LiveClassifier(colour_model, scripted.url, clock=clock) as live:
        assert next(iter(live)).label == "blue"
    with pytest.raises(ModelFileError):
        LiveClassifier(tmp_path / "none.onnx", scripted.url, clock=clock)
    assert scripted.opened == 1


def test_the_first_result_is_of_the_newest_frame(scripted, clock, classifier):
    scripted.send(image("red"))
    with LiveClassifier(classifier, scripted.url, clock=clock) as live:
        clock.advance(4)  # another camera is waited for meanwhile
        scripted.send(image("green"), image("blue"))
        scripted.wait_until_read()
        clock.advance(0.125)
        first = next(iter(live))
    assert (first.label, first.frame.number, first.age_ms) == ("blue", 2, 125)


def test_close_from_another_thread_ends_it_and_nothing_is_opened_again(scripted, clock, classifier):
    events, found = [], []
    scripted.send(image("red"))
    live = LiveClassifier(classifier, scripted.url, clock=clock, freeze_after_s=1, on_event=events.append)
    reader = threading.Thread(target=lambda: found.extend(live))
    reader.start()
    wait_until(lambda: live.newest is not None)
    live.close()
    live.close()
    reader.join(60)
    assert not reader.is_alive()
    assert kinds(events) == [Connected, LabelChanged, Ended]
    assert (len(found), events[-1].error, scripted.opened) == (1, None, 1)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name in {"edgeclf-camera", "edgeclf-freeze"}])


def test_leaving_the_loop_closes_the_camera(scripted, clock, classifier):
    events = []
    scripted.send(image("red"))
    for _ in LiveClassifier(classifier, scripted.url, clock=clock, on_event=events.append):
        break
    wait_until(lambda: isinstance(events[-1], Ended))
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "edgeclf-camera"])


def test_a_cut_is_two_events_and_a_loss_is_an_error_and_the_last_event(scripted, clock, classifier):
    events, labels, errors = [], [], []

    def read():
        try:
            labels.extend(result.label for result in live)
        except SourceError as error:
            errors.append(error)

    scripted.send(image("red"), "the stream ended", image("green"), "cut", "cut again")
    live = LiveClassifier(classifier, scripted.url, clock=clock, reconnects=2, on_event=events.append, timeout_s=1e6)
    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: clock.advance(0.05) or not reader.is_alive())
    assert "went away: got cut again, and 2 attempts" in str(errors[0])
    assert kinds(events) == [
        Connected, LabelChanged, Disconnected, Reconnected, LabelChanged, Disconnected, Ended,
    ]  # fmt: skip
    assert [event.attempt for event in events if isinstance(event, Disconnected)] == [1, 2]
    assert [events[-1].error] == errors
    assert events[-1].statistics.reconnects == 1


def test_smoothing_keeps_flicker_out_of_the_label(scripted, clock, classifier):
    events, found = [], []
    scripted.send(image("red"))
    smoothing = Smoothing(time_constant_s=1.0, margin=0.2)
    with LiveClassifier(classifier, scripted.url, smoothing=smoothing, clock=clock, on_event=events.append) as live:
        for result in live:
            found.append(result)
            if len(found) == 20:
                break
            clock.advance(0.1)
            scripted.send(image("green" if len(found) == 5 or len(found) > 8 else "red"))
    flicker = found[5]
    assert (flicker.label, flicker.outcome.prediction.label) == ("red", "green")
    assert [event.label for event in events if isinstance(event, LabelChanged)] == ["red", "green"]


def test_a_camera_that_freezes_and_recovers_while_the_loop_waits(scripted, clock, classifier):
    events = []
    scripted.send(image("red"))
    live = LiveClassifier(
        classifier, scripted.url, clock=clock, freeze_after_s=2, timeout_s=100, on_event=events.append
    )
    reader = threading.Thread(target=lambda: list(live))
    reader.start()
    wait_until(lambda: live.newest is not None)
    clock.advance(2.5)
    wait_until(lambda: Frozen in kinds(events))
    scripted.send(image("red", 20))
    wait_until(lambda: clock.advance(0.05) or Recovered in kinds(events))
    assert live.freezes == 1
    live.close()
    reader.join(60)
    frozen = next(event for event in events if isinstance(event, Frozen))
    assert frozen == Frozen(live.camera, "silent", 2.5)
    assert events[-1].freezes == 1


def test_a_replaced_model_file_is_taken_while_the_camera_runs(scripted, clock, make_colour_model, tmp_path):
    events = []
    model = make_colour_model(tmp_path / "m.onnx")
    other = make_colour_model(tmp_path / "other.onnx", spec_changes={"labels": ("rot", "green", "blue")})
    scripted.send(image("red"))
    live = LiveClassifier(model, scripted.url, clock=clock, watch_model=True, timeout_s=1e6, on_event=events.append)
    reader = threading.Thread(target=lambda: list(live))
    reader.start()
    wait_until(lambda: live.newest is not None)
    (tmp_path / "broken").write_bytes(model.read_bytes()[:100])
    (tmp_path / "broken").replace(model)
    wait_until(lambda: clock.advance(0.2) or ModelKept in kinds(events))
    assert live.newest.label == "red"
    other.replace(model)
    wait_until(lambda: clock.advance(0.2) or ModelReloaded in kinds(events))
    scripted.send(image("red"))
    wait_until(lambda: live.newest.label == "rot")
    live.close()
    reader.join(60)
    assert [event for event in events if isinstance(event, ModelReloaded)] == [
        ModelReloaded(model, ("rot", "green", "blue"), ("red", "green", "blue"))
    ]


def test_cameras_share_a_classifier(classifier, stream_server):
    import cv2

    def frames_of(colour):
        jpeg = cv2.imencode(".jpg", image(colour))[1].tobytes()
        return lambda _: (item for _ in range(1000) for item in (jpeg, 0.02))

    with stream_server(frames_of("red")) as red, stream_server(frames_of("green")) as green:
        both = [LiveClassifier(classifier, server.url) for server in (red, green)]
        labels = [[result.label for result, _ in zip(live, range(3), strict=False)] for live in both]
        for live in both:
            assert live.classifier is classifier
            live.close()
    assert labels == [["red"] * 3, ["green"] * 3]


def test_figures_count_on_the_clock_of_the_camera(scripted, clock, classifier):
    scripted.send(image("red"))
    with LiveClassifier(classifier, scripted.url, clock=clock) as live:
        for result in live:
            if result.frame.number == 10:
                break
            clock.advance(0.25)
            scripted.send(image("red"))
        assert live.figures.done == 11
        assert (result.fps, live.figures.fps) == (pytest.approx(4), pytest.approx(4))
        assert live.figures.seconds == pytest.approx(2.5)
        assert live.figures.age_percentiles_ms() == (0, 0)


def test_a_duration_ends_the_results(scripted, clock, classifier):
    scripted.send(image("red"))
    live = LiveClassifier(classifier, scripted.url, clock=clock)
    results = live.results(duration_s=5)
    next(results)
    clock.skips = True
    assert list(results) == []
    assert live.figures.seconds == pytest.approx(5)


def test_the_fake_clock_is_a_clock():
    clock = FakeClock()
    clock.skips = True
    assert not clock.wait(threading.Event(), 3)
    clock.sleep(4)
    assert clock.now_s() == 1007
