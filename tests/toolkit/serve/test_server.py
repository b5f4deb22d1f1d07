"""What the preview answers, over real connections: pictures, figures, health, metrics."""

import contextlib
import re
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeclf.runtime import Smoothing
from edgeclf.runtime.live.results import CameraStatistics
from edgeclf.toolkit.serve import pictures

from ...randomness import fresh_rng
from .clients import CLIENT, LABELS, get, messages


def test_status_holds_the_newest_result_of_every_camera(start_preview, make_result):
    preview = start_preview(cameras=["door", "gate", "roof"])
    preview.on_result(make_result("red", 3, camera="gate"))
    preview.on_result(make_result("blue", 8, camera="gate", latency_ms=4.25, statistics=CameraStatistics(20, 12, 2)))
    smoothing = Smoothing(time_constant_s=2.0, hold_s=0.5)
    preview.on_result(
        make_result("red", camera="a camera that nobody named", smoothed_label="green", smoothing=smoothing)
    )
    preview.on_result(make_result(None, 1, camera="roof"))
    document = get(preview, "api/status").json()
    assert document["model"]["labels"] == list(LABELS)
    door, gate, roof, other = document["cameras"]
    assert (door["camera"], door["state"], door["frames_classified"]) == ("door", "waiting", 0)
    assert gate["label"] == "blue"
    assert gate["frame"] == 8
    assert gate["confidence"] == 0.8
    assert gate["top_k"][0] == ["blue", 0.8]
    assert gate["latency_ms"] == 4.25
    assert gate["frames_classified"] == 2
    assert (gate["frames_dropped"], gate["reconnects"]) == (8, 2)
    assert gate["size_hw"] == [90, 160]
    assert gate["smoothing"] is None
    assert (other["id"], other["label"]) == (3, "green")
    # Which is not this frame's.
    assert other["top_k"][0] == ["red", 0.8]
    assert other["smoothing"] == {"time_constant_s": 2.0, "margin": 0.0, "hold_s": 0.5}
    assert (roof["label"], roof["frames_failed"], roof["frames_classified"]) == (None, 1, 0)
    assert "cannot read the frame" in roof["error"]


def test_events_are_kept_in_order_and_as_json(start_preview):
    preview = start_preview()
    for number in range(250):
        preview.on_event({"event": "enter", "source": "0", "number": number, "path": Path("a/b"), "bad": float("nan")})
    found = get(preview, "api/events").json()["events"]
    assert [entry["event"]["number"] for entry in found] == list(range(200, 250))
    assert found[-1]["event"] == {"event": "enter", "source": "0", "number": 249, "path": "a/b", "bad": None}
    assert found[-1]["id"] == 250
    assert len(get(preview, "api/events?last=1000").json()["events"]) == 200
    assert get(preview, "api/events?last=0").json()["events"] == []
    for bad in ("-1", "x", "1.5", "9" * 40):
        assert get(preview, f"api/events?last={bad}").status_code == 400


def test_health_says_which_camera_is_missing_and_recovers(start_preview, make_result):
    preview = start_preview(cameras=["door"], stale_after_s=60)
    answer = get(preview, "healthz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "reason": "camera door: no frame yet"}
    for _ in range(2):
        preview.on_result(make_result("red", camera="door"))
        assert (get(preview, "healthz").status_code, get(preview, "healthz").json()) == (200, {"status": "ok"})
        preview.cameras[0].newest_at_s -= 70
        answer = get(preview, "healthz")
        assert answer.status_code == 503
        assert re.fullmatch(r"camera door: no frame for \d+\.\d s", answer.json()["reason"])
        (status,) = get(preview, "api/status").json()["cameras"]
        assert (status["state"], status["fps"]) == ("stale", 0.0)


def test_one_missing_camera_of_two_is_not_healthy(start_preview, make_result):
    preview = start_preview(cameras=["door", "gate"])
    preview.on_result(make_result("red", camera="door"))
    answer = get(preview, "healthz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "camera gate: no frame yet")


def test_metrics_count_what_was_published(start_preview, make_result):
    preview = start_preview(cameras=["silent"])
    rng = fresh_rng()
    published = [(LABELS[rng.integers(3)], f"camera {rng.integers(2)}") for _ in range(60)]
    published += [("red", "camera 0"), ("red", "camera 1")]
    for number, (label, camera) in enumerate(published):
        statistics = CameraStatistics(captured=3 * number, taken=number, reconnects=2)
        preview.on_result(
            make_result(label, number, camera=camera, latency_ms=20.0, age_ms=300.0, statistics=statistics)
        )
    newest = CameraStatistics(captured=200, taken=61, reconnects=0)
    preview.on_result(make_result(None, camera="camera 1", statistics=newest))
    preview.on_event({"event": "enter", "source": "camera 0"})
    preview.on_event({"event": "enter", "source": "camera 0"})
    preview.on_event({"message": "no name"})
    text = get(preview, "metrics").text
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def value(name, **labels):
        return values["edgeclf_" + name, tuple(sorted(labels.items()))]

    for camera in ("camera 0", "camera 1"):
        count = sum(where == camera for _, where in published)
        failed = camera == "camera 1"
        assert value("frames_classified_total", camera=camera) == count
        assert value("frames_failed_total", camera=camera) == failed
        assert value("latency_seconds_count", camera=camera) == count + failed
        assert value("latency_seconds_bucket", camera=camera, le="0.01") == failed
        assert value("latency_seconds_bucket", camera=camera, le="0.025") == count + failed
        assert value("frame_age_seconds_bucket", camera=camera, le="0.5") == count + failed
        assert value("frame_age_seconds_sum", camera=camera) == pytest.approx(0.3 * count + 0.009 * failed)
        for label, times in Counter(label for label, where in published if where == camera).items():
            assert value("labels_total", camera=camera, label=label) == times
    assert value("frames_dropped_total", camera="camera 1") == 139
    assert value("frames_dropped_total", camera="camera 0") == 2 * (len(published) - 2)
    assert value("reconnects_total", camera="camera 0") == 2
    assert value("frames_per_second", camera="camera 0") == 25
    assert value("frames_classified_total", camera="silent") == 0
    assert value("events_total", camera="camera 0", event="enter") == 2
    assert value("events_total", camera="", event="other") == 1
    assert value("model_info", file="colours.onnx", architecture="mean-colour", precision="fp32") == 1
    # Prometheus' conventions: counters end in _total, everything is in base units.
    assert not [name for name, _ in values if name.endswith(("_ms", "_created"))]


def test_the_model_that_runs_is_shown_also_after_another_took_its_place(colour_model, make_colour_model, tmp_path):
    from edgeclf.runtime import Classifier
    from edgeclf.toolkit.serve.cli_option import preview_of

    other = make_colour_model(tmp_path / "other.onnx", spec_changes={"labels": ("rot", "green", "blue")})
    classifier = Classifier(colour_model)
    with preview_of(classifier, [], ":0", None, None) as preview:
        stream = messages(preview)
        name, hello = next(stream)
        assert (name, hello["model"]["labels"]) == ("hello", list(LABELS))
        classifier.session = Classifier(other).session
        assert get(preview, "api/status").json()["model"]["labels"] == ["rot", "green", "blue"]
        assert "edgeclf_model_info{" in get(preview, "metrics").text
        assert 'file="other.onnx"' in get(preview, "metrics").text
        changed = next(message for name, message in stream if name == "model")
        assert (changed["file"], changed["labels"]) == ("other.onnx", ["rot", "green", "blue"])
        # Said once.
        assert [next(stream)[0] for _ in range(2)] == ["status", "status"]
        stream.close()


def test_a_camera_that_has_ended_is_no_lost_one(start_preview, make_result):
    preview = start_preview(cameras=["clip.mp4", "door", "gate"], stale_after_s=0.0)

    def states():
        return [status["state"] for status in get(preview, "api/status").json()["cameras"]]

    for camera in ("clip.mp4", "door"):
        preview.on_result(make_result("red", camera=camera))
    preview.on_event({"event": "ended", "source": "clip.mp4"})
    preview.on_event({"event": "ended", "source": "door", "error": "went away"})
    assert states() == ["ended", "stale", "waiting"]
    reason = get(preview, "healthz").json()["reason"]
    assert "clip.mp4" not in reason
    assert "camera door: no frame for" in reason
    # A camera that was never there is none that ended either.
    preview.on_event({"event": "ended", "source": "gate", "error": "never there"})
    assert states()[2] == "waiting"
    preview.on_event({"event": "ended", "source": "door"})
    preview.on_event({"event": "ended", "source": "gate"})
    assert get(preview, "healthz").status_code == 200


def test_a_camera_of_few_frames_is_not_lost_between_them(colour_model):
    from edgeclf.runtime import Classifier
    from edgeclf.toolkit.serve.cli_option import preview_of

    for max_fps, stale_after_s in ((None, 10), (25, 10), (0.05, 60)):
        with preview_of(Classifier(colour_model), [], ":0", None, None, max_fps=max_fps) as preview:
            assert preview.stale_after_s == pytest.approx(stale_after_s)


def test_metrics_come_in_the_format_that_is_asked_for(start_preview):
    preview = start_preview()
    plain = get(preview, "metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    opened = get(preview, "metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


def test_a_picture_shows_the_newest_frame_and_waits_for_a_newer_one(start_preview, make_result, decode):
    preview = start_preview()
    preview.on_result(make_result("blue", 0))
    first = get(preview, "cameras/0/picture.jpg")
    assert first.headers["content-type"] == "image/jpeg"
    assert decode(first.content).mean(axis=(0, 1)).argmax() == 0
    published = threading.Event()

    def publish():
        published.set()
        preview.on_result(make_result("red", 1))

    timer = threading.Timer(0.4, publish)
    timer.start()
    second = get(preview, f"cameras/0/picture.jpg?after={first.headers['edgeclf-sequence']}")
    assert published.is_set()
    assert decode(second.content).mean(axis=(0, 1)).argmax() == 2
    assert get(preview, "cameras/1/picture.jpg").status_code == 404
    assert "cache-control" in second.headers


@pytest.mark.parametrize(
    ("size_hw", "expected_hw"),
    [
        ((90, 160), (90, 160)),
        ((1080, 1920), (360, 640)),
        ((2000, 1000), (640, 320)),
        ((1, 4000), (1, 640)),
        ((1, 1), (1, 1)),
    ],
)
def test_pictures_are_no_larger_than_a_page_needs(decode, size_hw, expected_hw):
    image_bgr = fresh_rng().integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    before = image_bgr.copy()
    assert decode(pictures.encode_jpeg(image_bgr)).shape[:2] == expected_hw
    assert (image_bgr == before).all()


@pytest.mark.parametrize("path", ["api/stream", "cameras/0/stream.mjpg", "cameras/0/picture.jpg", "api/status"])
def test_head_requests_end(start_preview, make_result, path):
    preview = start_preview()
    preview.on_result(make_result("red"))
    answer = CLIENT.head(preview.url + path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_results_from_many_threads_are_all_counted(start_preview, make_result):
    preview = start_preview()
    stream = messages(preview)
    next(stream)

    def publish(camera):
        for number in range(500):
            preview.on_result(make_result(LABELS[number % 3], number, camera=f"camera {camera}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(4)))
    stream.close()
    cameras = get(preview, "api/status").json()["cameras"]
    assert sorted(camera["camera"] for camera in cameras) == [f"camera {number}" for number in range(4)]
    assert {camera["frames_classified"] for camera in cameras} == {500}
    assert {camera["sequence"] for camera in cameras} == {500}


def test_requests_that_make_no_sense_leave_no_trace(start_preview, capfd):
    preview = start_preview()
    parts = urlsplit(preview.url)
    capfd.readouterr()
    for request in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"x" * 10**6,
        # Refused while its first half is being answered, or was.
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n",
        b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\nno request\r\n\r\n",
        b"GET /cameras/" + b"9" * 5000 + b"/picture.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /cameras/\u0661/picture.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    ):
        with socket.create_connection((parts.hostname, parts.port), 10) as client, contextlib.suppress(OSError):
            client.sendall(request)
            client.recv(1000)
    assert get(preview, "api/status").status_code == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("path", ["api/stream", "api/events"])
def test_a_request_that_goes_on_with_no_http_behind_its_answer_leaves_no_trace(start_preview, capfd, path):
    preview = start_preview(cameras=["0"])
    parts = urlsplit(preview.url)
    capfd.readouterr()
    with socket.create_connection((parts.hostname, parts.port), 10) as client:
        head = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        client.sendall(b"no length\r\n")
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass
    # A stream that is cut is no open one any more.
    assert [get(preview, "api/events").status_code for _ in range(3)] == [200] * 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", ["1", "-1", "x", "9" * 5000, "%D9%A1"])
def test_a_camera_that_is_not_there_is_not_found(start_preview, number):
    answer = get(start_preview(cameras=["0"]), f"cameras/{number}/picture.jpg")
    assert answer.status_code == 404
    assert "/api/status lists 1" in answer.json()["error"]


def test_a_bug_is_said_once_on_stderr(start_preview, capfd, monkeypatch):
    preview = start_preview()
    monkeypatch.setattr(preview, "status", lambda: 1 / 0)
    capfd.readouterr()
    for _ in range(3):
        assert get(preview, "api/status").status_code == 500
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("ZeroDivisionError") == 1
    assert "please report" in err


def test_names_that_are_no_unicode_or_command_terminals_are_served(start_preview, make_result):
    hostile = "cam \x1b[2J\x9b\u202e \udcff"
    preview = start_preview(model=lambda: {"file": hostile, "labels": [hostile]})
    preview.on_result(make_result("red", 1, camera=hostile))
    preview.on_event({"event": "label", "source": hostile, "label": hostile})
    status, events, metrics = (get(preview, path) for path in ("api/status", "api/events", "metrics"))
    assert status.text.isprintable()
    assert status.json()["model"] == {"file": hostile, "labels": [hostile]}
    assert status.json()["cameras"][0]["camera"] == hostile
    assert events.text.isprintable()
    assert events.json()["events"][0]["event"]["label"] == hostile
    assert all(line.isprintable() for line in metrics.text.split("\n"))
    samples = [sample for family in text_string_to_metric_families(metrics.text) for sample in family.samples]
    shown = "cam \\x1b[2J\\x9b\\u202e \\xff"
    assert {sample.labels["camera"] for sample in samples if "camera" in sample.labels} == {shown}
