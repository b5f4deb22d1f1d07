"""What the preview sends on and on, over real connections: pictures, messages, limits, and a prompt end."""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from edgeclf.runtime import Camera, SourceError
from edgeclf.toolkit.serve import connections, pictures

from .clients import LABELS, get, messages, send_request

pytestmark = pytest.mark.slow


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


def test_opencv_reads_the_stream_of_pictures(start_preview, make_result, publishing):
    preview = start_preview(cameras=["0"])
    with publishing(lambda number: preview.on_result(make_result(LABELS[number // 8 % 3], number))):
        capture = cv2.VideoCapture(preview.url + "cameras/0/stream.mjpg", cv2.CAP_FFMPEG)
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


def test_a_camera_of_edgeclf_reads_a_preview_that_needs_its_token(start_preview, make_result, publishing):
    preview = start_preview("127.0.0.1:0", "the-token-of-a-preview", cameras=["0"])
    with publishing(lambda number: preview.on_result(make_result("blue", number))):
        address = f"{preview.url}cameras/0/stream.mjpg?token="
        with Camera(address + "the-token-of-a-preview", timeout_s=60) as camera:
            assert next(iter(camera)).image_bgr.mean(axis=(0, 1)).argmax() == 0
            assert "the-token" not in camera.name
        with pytest.raises(SourceError, match="HTTP 401"):
            Camera(address + "another")


def test_nothing_is_encoded_unless_somebody_watches(start_preview, make_result, encoded):
    preview = start_preview()
    for number in range(50):
        preview.on_result(make_result("red", number))
    for path in ("", "api/status", "healthz", "metrics"):
        assert get(preview, path).status_code == 200
    stream = messages(preview)
    next(stream)
    stream.close()
    assert encoded == []


def test_a_frame_is_encoded_once_for_any_number_of_clients(start_preview, make_result, publishing, encoded):
    preview = start_preview(cameras=["0"])
    frames = [np.full((90, 160, 3), value, np.uint8) for value in range(256)]
    with publishing(lambda number: preview.on_result(make_result("red", number, image_bgr=frames[number % 256]))):
        clients = [send_request(preview.url, "/cameras/0/stream.mjpg") for _ in range(5)]
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
    preview = start_preview(cameras=["0"])
    preview.on_event({"event": "enter", "label": "before"})
    with publishing(lambda number: preview.on_result(make_result(LABELS[number % 3], number))):
        stream = messages(preview)
        name, hello = next(stream)
        assert name == "hello"
        assert hello["model"]["file"] == "colours.onnx"
        assert [entry["event"]["label"] for entry in hello["events"]] == ["before"]
        preview.on_event({"event": "enter", "label": "after"})
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
    preview = start_preview(cameras=["0"])
    stream = messages(preview)
    names = [next(stream)[0] for _ in range(3)]
    stream.close()
    assert names == ["hello", "status", "status"]


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_clients_that_do_not_read_cost_no_memory_and_hold_nobody_up(start_preview, make_result, publishing, decode):
    preview = start_preview(cameras=["0"])
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    frames = [np.roll(noise, number, axis=0) for number in range(8)]

    def publish(number):
        preview.on_result(make_result("red", number, image_bgr=frames[number % 8]))
        preview.on_event({"event": "enter", "text": "x" * 2000})

    with contextlib.ExitStack() as stack:
        stack.enter_context(publishing(publish, 0.01))
        for path in ("/cameras/0/stream.mjpg", "/api/stream") * 8:
            stack.enter_context(send_request(preview.url, path))
        time.sleep(1.0)
        before_mb = resident_mb()
        sequence = 0
        # One picture of noise is 0.3 MB: kept for eight clients, those of 400 frames would be more than 100 MB.
        while sequence < 400:
            answer = get(preview, f"cameras/0/picture.jpg?after={sequence}")
            sequence = int(answer.headers["edgeclf-sequence"])
        assert decode(answer.content).shape == (480, 640, 3)
        assert resident_mb() - before_mb < 40


def test_streams_are_limited_and_health_still_answers(start_preview, make_result):
    preview = start_preview()
    preview.on_result(make_result("red"))
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            client = stack.enter_context(send_request(preview.url, "/api/stream"))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        refused = get(preview, "cameras/0/stream.mjpg")
        assert (refused.status_code, refused.json()) == (503, {"error": "32 streams are open; close one"})
        assert get(preview, "healthz").status_code == 200
    # Those that went away make room.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with send_request(preview.url, "/api/stream") as client:
            if client.recv(15) == b"HTTP/1.1 200 OK":
                return
        time.sleep(0.1)
    pytest.fail("no room after all clients went away")


def connected(preview):
    parts = urlsplit(preview.url)
    return socket.create_connection((parts.hostname, parts.port), 20)


def wait_until_closed(client):
    """Reads until the server has closed the connection; what came."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            received += part
    return received


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localh"])
def test_a_connection_that_sends_no_whole_request_is_closed(start_preview, monkeypatch, sent):
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.3)
    with connected(start_preview()) as client:
        client.sendall(sent)
        assert wait_until_closed(client) == b""


def test_a_connection_that_sends_a_byte_now_and_then_is_closed_also_after_a_request(start_preview, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.5)
    preview = start_preview()
    for first in (b"", b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with connected(preview) as client:
            client.sendall(first + b"GET /")
            with pytest.raises(OSError, match=r"Broken pipe|reset by peer"):  # noqa: PT012 - it may take any number
                for _ in range(10_000):
                    client.sendall(b"x")
                    time.sleep(0.02)


def test_a_stream_stays_however_long_it_asks_for_nothing_more(start_preview, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.1)
    stream = messages(start_preview(cameras=["0"]))
    # Between two there are 0.2 s or more.
    assert [next(stream)[0] for _ in range(4)] == ["hello", *["status"] * 3]
    stream.close()


def test_a_connection_may_ask_more_than_once(start_preview):
    preview = start_preview()
    with connected(preview) as client:
        for _ in range(3):
            client.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"events": []}'):
                part = client.recv(65536)
                assert part
                answer += part


def test_idle_connections_make_room_and_lock_nobody_out(start_preview, make_result, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 12)
    preview = start_preview()
    preview.on_result(make_result("red"))
    with contextlib.ExitStack() as stack:
        watching = stack.enter_context(send_request(preview.url, "/api/stream"))
        assert watching.recv(15) == b"HTTP/1.1 200 OK"
        idle = [stack.enter_context(connected(preview)) for _ in range(40)]
        assert get(preview, "healthz").status_code == 200
        # The oldest of them, and not the one that is watched.
        assert wait_until_closed(idle[0]) == b""
        assert watching.recv(65536)
        idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200")


def test_where_every_connection_watches_there_is_no_room(start_preview, make_result, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    preview = start_preview()
    preview.on_result(make_result("red"))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(send_request(preview.url, "/api/stream"))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        with connected(preview) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wait_until_closed(client)[:12] in {b"HTTP/1.1 503", b""}


def test_the_end_is_prompt_with_clients_of_every_kind(start_preview, make_result, publishing, monkeypatch):
    from edgeclf.toolkit.serve.server import preview_server

    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with contextlib.ExitStack() as stack:
        with (
            preview_server(":0", None, model=dict, cameras=["0"]) as preview,
            publishing(lambda number: preview.on_result(make_result("red", number, image_bgr=noise)), 0.01),
        ):
            for path in ("/cameras/0/stream.mjpg", "/api/stream", "/cameras/0/picture.jpg?after=99999999"):
                stack.enter_context(send_request(preview.url, path))
            parts = urlsplit(preview.url)
            half = stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
            half.sendall(b"GET / HTTP/1.1\r\nHost:")
            time.sleep(1.5)
        # The end waits for the server's thread for three seconds, and goes on without it then.
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgeclf-serve")]
        # What goes on afterwards does no harm: a camera may deliver once more.
        preview.on_result(make_result("red"))
        preview.on_event({"event": "enter"})
