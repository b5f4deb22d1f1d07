"""The thread of one camera, as the command runs it beside those of others."""

import threading

import pytest

from edgeclf.runtime import Camera, Classifier, Smoothing
from edgeclf.runtime.live.source import parse_cameras
from edgeclf.toolkit.infer.camera_thread import CameraSinks, CameraThread
from edgeclf.toolkit.infer.options import LiveOptions
from edgeclf.toolkit.infer.records import SinkOptions

from ..colours import write_video


def test_stopping_many_cameras_waits_for_none_of_them(colour_model, tmp_path, monkeypatch):
    waits_s = []
    close = Camera.close

    def recorded_close(camera, *, wait_s=0.5):
        if threading.current_thread() is threading.main_thread():
            waits_s.append(wait_s)
        close(camera, wait_s=wait_s)

    monkeypatch.setattr(Camera, "close", recorded_close)
    classifier, results = Classifier(colour_model, threads=1), threading.Semaphore(0)
    limits = SinkOptions("jsonl", 1, out=None, show=False, save=None, max_frames=None, duration_s=None)
    sinks = CameraSinks(lambda _: results.release(), lambda _: None, None, None, lambda: None)
    cameras = [
        CameraThread(source, classifier, limits, LiveOptions(loop=True), is_only_camera=False)
        for source in parse_cameras([write_video(tmp_path / f"{name}.avi", ["red"] * 4) for name in "ab"])
    ]
    for camera in cameras:
        camera.start(sinks)
    assert all(results.acquire(timeout=60) for _ in range(8))
    for camera in cameras:
        camera.stop()
    for camera in cameras:
        camera.join(60)
    assert waits_s == [0.0, 0.0]
    assert not any(camera.is_alive for camera in cameras)
    assert [(camera.error, camera.ended.error) for camera in cameras] == [(None, None)] * 2


@pytest.mark.parametrize("time_constant_s", [0.0, 1e6])
def test_a_smoothed_label_is_drawn_beside_this_frames(colour_model, tmp_path, monkeypatch, time_constant_s):
    drawn = []

    def annotate(frame_bgr, prediction, note):
        drawn.append((prediction.label, note))
        return frame_bgr

    monkeypatch.setattr("edgeclf.toolkit.infer.camera_thread.annotate", annotate)
    limits = SinkOptions("jsonl", 1, out=None, show=True, save=None, max_frames=None, duration_s=None)
    options = LiveOptions(smoothing=Smoothing(time_constant_s))
    results = []
    sinks = CameraSinks(results.append, lambda _: None, None, lambda _: None, lambda: None)
    (source,) = parse_cameras([write_video(tmp_path / "a.avi", ["red"] * 3 + ["blue"] * 12)])
    camera = CameraThread(source, Classifier(colour_model, threads=1), limits, options, is_only_camera=True)
    camera.start(sinks)
    camera.join(60)
    assert camera.error is None
    label, note = drawn[-1]
    assert results[-1].outcome.prediction.label == "blue"
    if time_constant_s:
        assert label == "red"
        assert "smoothed (this frame: blue " in note
    else:
        assert label == "blue"
        assert "smoothed" not in note
