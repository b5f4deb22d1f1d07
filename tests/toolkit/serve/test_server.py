"""What the preview answers, over real connections: pictures, figures, health, metrics, and a prompt end."""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeclf.runtime.camera import CameraStatistics
from edgeclf.toolkit.serve import pictures

LABELS = ("red", "green", "blue")


# Without certificates, which take longer to load than everything else takes.
CLIENT = httpx.Client(verify=False, timeout=20)


def get(feeds, path, **options):
    return CLIENT.get(feeds.url + path, **options)


@pytest.fixture
def encoded(monkeypatch):
    """Frames that were encoded, as the value of their first pixel."""
    found = []
    encode = pictures.encode_jpeg

    def encode_and_tell(image_bgr):
        found.append(int(image_bgr[0, 0, 0]))
        return encode(image_bgr)

    monkeypatch.setattr(pictures, "encode_jpeg", encode_and_tell)
    return found


def messages(feeds):
    """The stream's messages as pairs of name and document; ends when the stream ends."""
    with CLIENT.stream("GET", feeds.url + "api/stream") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        name = None
        for line in answer.iter_lines():
            kind, _, rest = line.partition(": ")
            if kind == "event":
                name = rest
            elif kind == "data":
                yield name, json.loads(rest)


def send_request(url: str, path: str) -> socket.socket:
    """A client that sends a request and reads nothing yet."""
    parts = urlsplit(url)
    client = socket.create_connection((parts.hostname, parts.port), 20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def test_status_holds_the_newest_result_of_every_camera(start_preview, make_result):
    feeds = start_preview(cameras=["door", "gate", "roof"])
    feeds.on_result(make_result("red", 3, camera="gate"))
    feeds.on_result(make_result("blue", 8, camera="gate", latency_ms=4.25, statistics=CameraStatistics(20, 12, 2)))
    feeds.on_result(make_result("green", camera="a camera that nobody named"))
    feeds.on_result(make_result(None, 1, camera="roof"))
    document = get(feeds, "api/status").json()
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
    assert (other["id"], other["label"]) == (3, "green")
    assert (roof["label"], roof["frames_failed"], roof["frames_classified"]) == (None, 1, 0)
    assert "cannot read the frame" in roof["error"]


def test_events_are_kept_in_order_and_as_json(start_preview):
    feeds = start_preview()
    for number in range(250):
        feeds.on_event({"event": "enter", "source": "0", "number": number, "path": Path("a/b"), "bad": float("nan")})
    found = get(feeds, "api/events").json()["events"]
    assert [entry["event"]["number"] for entry in found] == list(range(200, 250))
    assert found[-1]["event"] == {"event": "enter", "source": "0", "number": 249, "path": "a/b", "bad": None}
    assert found[-1]["id"] == 250
    assert len(get(feeds, "api/events?last=1000").json()["events"]) == 200
    assert get(feeds, "api/events?last=0").json()["events"] == []
    for bad in ("-1", "x", "1.5", "9" * 40):
        assert get(feeds, f"api/events?last={bad}").status_code == 400


def test_health_says_which_camera_is_missing_and_recovers(start_preview, make_result):
    feeds = start_preview(cameras=["door"], stale_after_s=60)
    answer = get(feeds, "healthz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "reason": "camera door: no frame yet"}
    for _ in range(2):
        feeds.on_result(make_result("red", camera="door"))
        assert (get(feeds, "healthz").status_code, get(feeds, "healthz").json()) == (200, {"status": "ok"})
        feeds.cameras[0].newest_at_s -= 70
        answer = get(feeds, "healthz")
        assert answer.status_code == 503
        assert re.fullmatch(r"camera door: no frame for \d+\.\d s", answer.json()["reason"])
        (status,) = get(feeds, "api/status").json()["cameras"]
        assert (status["state"], status["fps"]) == ("stale", 0.0)


def test_one_missing_camera_of_two_is_not_healthy(start_preview, make_result):
    feeds = start_preview(cameras=["door", "gate"])
    feeds.on_result(make_result("red", camera="door"))
    answer = get(feeds, "healthz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "camera gate: no frame yet")


def test_metrics_count_what_was_published(start_preview, make_result):
    feeds = start_preview(cameras=["silent"])
    rng = np.random.default_rng()
    published = [(LABELS[rng.integers(3)], f"camera {rng.integers(2)}") for _ in range(60)]
    published += [("red", "camera 0"), ("red", "camera 1")]
    for number, (label, camera) in enumerate(published):
        statistics = CameraStatistics(captured=3 * number, taken=number, reconnects=2)
        feeds.on_result(make_result(label, number, camera=camera, latency_ms=20.0, age_ms=300.0, statistics=statistics))
    feeds.on_result(make_result(None, camera="camera 1"))
    feeds.on_event({"event": "enter", "source": "camera 0"})
    feeds.on_event({"event": "enter", "source": "camera 0"})
    feeds.on_event({"message": "no name"})
    text = get(feeds, "metrics").text
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
    assert value("frames_dropped_total", camera="camera 1") == 2 * (len(published) - 1) or failed
    assert value("frames_dropped_total", camera="camera 0") == 2 * (len(published) - 2)
    assert value("reconnects_total", camera="camera 0") == 2
    assert value("frames_per_second", camera="camera 0") == 25
    assert value("frames_classified_total", camera="silent") == 0
    assert value("events_total", camera="camera 0", event="enter") == 2
    assert value("events_total", camera="", event="other") == 1
    assert value("model_info", file="colours.onnx", architecture="mean-colour", precision="fp32") == 1
    # Prometheus' conventions: counters end in _total, everything is in base units.
    assert not [name for name, _ in values if name.endswith(("_ms", "_created"))]


def test_metrics_come_in_the_format_that_is_asked_for(start_preview):
    feeds = start_preview()
    plain = get(feeds, "metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    opened = get(feeds, "metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


def test_a_picture_shows_the_newest_frame_and_waits_for_a_newer_one(start_preview, make_result, decode):
    feeds = start_preview()
    feeds.on_result(make_result("blue", 0))
    first = get(feeds, "cameras/0/picture.jpg")
    assert first.headers["content-type"] == "image/jpeg"
    assert decode(first.content).mean(axis=(0, 1)).argmax() == 0
    timer = threading.Timer(0.4, lambda: feeds.on_result(make_result("red", 1)))
    timer.start()
    started = time.monotonic()
    second = get(feeds, f"cameras/0/picture.jpg?after={first.headers['edgeclf-sequence']}")
    assert time.monotonic() - started > 0.3
    assert decode(second.content).mean(axis=(0, 1)).argmax() == 2
    assert get(feeds, "cameras/1/picture.jpg").status_code == 404
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
    image_bgr = np.random.default_rng().integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    before = image_bgr.copy()
    assert decode(pictures.encode_jpeg(image_bgr)).shape[:2] == expected_hw
    assert (image_bgr == before).all()


def test_opencv_reads_the_stream_of_pictures(start_preview, make_result, publishing):
    feeds = start_preview(cameras=["0"])
    with publishing(lambda number: feeds.on_result(make_result(LABELS[number // 8 % 3], number))):
        capture = cv2.VideoCapture(feeds.url + "cameras/0/stream.mjpg", cv2.CAP_FFMPEG)
        try:
            seen = set()
            for _ in range(200):
                ok, image_bgr = capture.read()
                assert ok
                assert image_bgr.shape == (90, 160, 3)
                seen.add(int(image_bgr.mean(axis=(0, 1)).argmax()))
                if len(seen) == 3:
                    break
        finally:
            capture.release()
    assert seen == {0, 1, 2}


def test_nothing_is_encoded_unless_somebody_watches(start_preview, make_result, encoded):
    feeds = start_preview()
    for number in range(50):
        feeds.on_result(make_result("red", number))
    for path in ("", "api/status", "healthz", "metrics"):
        assert get(feeds, path).status_code == 200
    stream = messages(feeds)
    next(stream)
    stream.close()
    assert encoded == []


def test_a_frame_is_encoded_once_for_any_number_of_clients(start_preview, make_result, publishing, encoded):
    feeds = start_preview(cameras=["0"])
    frames = [np.full((90, 160, 3), value, np.uint8) for value in range(256)]
    with publishing(lambda number: feeds.on_result(make_result("red", number, image_bgr=frames[number % 256]))):
        clients = [send_request(feeds.url, "/cameras/0/stream.mjpg") for _ in range(5)]
        counts = [0] * 5
        deadline = time.monotonic() + 20
        while min(counts) < 10 and time.monotonic() < deadline:
            for number, client in enumerate(clients):
                counts[number] += client.recv(65536).count(b"image/jpeg")
        for client in clients:
            client.close()
    assert min(counts) >= 10
    assert len(encoded) == len(set(encoded))
    # Not five times as many as one client got.
    assert len(encoded) < 2 * max(counts)


def test_the_stream_begins_with_everything_and_goes_on_with_what_is_new(start_preview, make_result, publishing):
    feeds = start_preview(cameras=["0"])
    feeds.on_event({"event": "enter", "label": "before"})
    with publishing(lambda number: feeds.on_result(make_result(LABELS[number % 3], number))):
        stream = messages(feeds)
        name, hello = next(stream)
        assert name == "hello"
        assert hello["model"]["file"] == "colours.onnx"
        assert [entry["event"]["label"] for entry in hello["events"]] == ["before"]
        feeds.on_event({"event": "enter", "label": "after"})
        events, sequences, seconds = [], [], {}
        deadline = time.monotonic() + 20
        while (len(sequences) < 12 or len(seconds) < 2) and time.monotonic() < deadline:
            name, message = next(stream)
            if name == "event":
                events.append(message["event"]["label"])
            else:
                sequences.append(message["cameras"][0].get("sequence", 0))
                seconds.update((second[0], second[1:]) for second in message["cameras"][0]["seconds"])
        stream.close()
    assert events == ["after"]
    assert sequences == sorted(set(sequences))
    assert all(figures == [5.0, 5.0, 9.0, 9.0] for figures in seconds.values())
    assert len(seconds) >= 2


def test_the_stream_speaks_even_when_no_camera_does(start_preview):
    feeds = start_preview(cameras=["0"])
    stream = messages(feeds)
    names = [next(stream)[0] for _ in range(3)]
    stream.close()
    assert names == ["hello", "status", "status"]


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_clients_that_do_not_read_cost_no_memory_and_hold_nobody_up(start_preview, make_result, publishing, decode):
    feeds = start_preview(cameras=["0"])
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    frames = [np.roll(noise, number, axis=0) for number in range(8)]

    def publish(number):
        feeds.on_result(make_result("red", number, image_bgr=frames[number % 8]))
        feeds.on_event({"event": "enter", "text": "x" * 2000})

    with contextlib.ExitStack() as stack:
        stack.enter_context(publishing(publish, 0.01))
        for path in ("/cameras/0/stream.mjpg", "/api/stream") * 8:
            stack.enter_context(send_request(feeds.url, path))
        time.sleep(1.0)
        before_mb = resident_mb()
        sequence, taken = 0, 0
        started = time.monotonic()
        # One picture of noise is 0.3 MB: kept for eight clients, those of a few seconds would be more than 100 MB.
        while time.monotonic() - started < 4:
            answer = get(feeds, f"cameras/0/picture.jpg?after={sequence}")
            sequence, taken = int(answer.headers["edgeclf-sequence"]), taken + 1
        assert decode(answer.content).shape == (480, 640, 3)
        assert resident_mb() - before_mb < 40
        assert taken > 3


def test_streams_are_limited_and_health_still_answers(start_preview, make_result):
    feeds = start_preview()
    feeds.on_result(make_result("red"))
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            client = stack.enter_context(send_request(feeds.url, "/api/stream"))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        refused = get(feeds, "cameras/0/stream.mjpg")
        assert (refused.status_code, refused.json()) == (503, {"error": "32 streams are open; close one"})
        assert get(feeds, "healthz").status_code == 200
    # Those that went away make room.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with send_request(feeds.url, "/api/stream") as client:
            if client.recv(15) == b"HTTP/1.1 200 OK":
                return
        time.sleep(0.1)
    pytest.fail("no room after all clients went away")


@pytest.mark.parametrize("path", ["api/stream", "cameras/0/stream.mjpg", "cameras/0/picture.jpg", "api/status"])
def test_head_requests_end(start_preview, make_result, path):
    feeds = start_preview()
    feeds.on_result(make_result("red"))
    answer = CLIENT.head(feeds.url + path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_end_is_prompt_with_clients_of_every_kind(start_preview, make_result, publishing, monkeypatch):
    from edgeclf.toolkit.serve.server import preview_server

    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with contextlib.ExitStack() as stack:
        with preview_server(":0", None, model={}, cameras=["0"]) as feeds:
            with publishing(lambda number: feeds.on_result(make_result("red", number, image_bgr=noise)), 0.01):
                for path in ("/cameras/0/stream.mjpg", "/api/stream", "/cameras/0/picture.jpg?after=99999999"):
                    stack.enter_context(send_request(feeds.url, path))
                parts = urlsplit(feeds.url)
                half = stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
                half.sendall(b"GET / HTTP/1.1\r\nHost:")
                time.sleep(1.5)
            started = time.monotonic()
        assert time.monotonic() - started < 4
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgeclf-serve")]
        # What goes on afterwards does no harm: a camera may deliver once more.
        feeds.on_result(make_result("red"))
        feeds.on_event({"event": "enter"})


def test_results_from_many_threads_are_all_counted(start_preview, make_result):
    feeds = start_preview()
    stream = messages(feeds)
    next(stream)

    def publish(camera):
        for number in range(500):
            feeds.on_result(make_result(LABELS[number % 3], number, camera=f"camera {camera}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(4)))
    stream.close()
    cameras = get(feeds, "api/status").json()["cameras"]
    assert sorted(camera["camera"] for camera in cameras) == [f"camera {number}" for number in range(4)]
    assert {camera["frames_classified"] for camera in cameras} == {500}
    assert {camera["sequence"] for camera in cameras} == {500}


def test_requests_that_make_no_sense_leave_no_trace(start_preview, capfd):
    feeds = start_preview()
    parts = urlsplit(feeds.url)
    capfd.readouterr()
    for request in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"x" * 10**6,
    ):
        with socket.create_connection((parts.hostname, parts.port), 10) as client, contextlib.suppress(OSError):
            client.sendall(request)
            client.recv(1000)
    assert get(feeds, "api/status").status_code == 200
    assert capfd.readouterr() == ("", "")


def test_a_bug_is_said_once_on_stderr(start_preview, capfd, monkeypatch):
    feeds = start_preview()
    monkeypatch.setattr(feeds, "status", lambda: 1 / 0)
    capfd.readouterr()
    for _ in range(3):
        assert get(feeds, "api/status").status_code == 500
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("ZeroDivisionError") == 1
    assert "please report" in err
