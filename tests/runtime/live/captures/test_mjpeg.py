"""Multipart streams: what is cut out of them, whatever the bytes are, and what a server's answer means."""

import base64
import hashlib
import http.server
import itertools
import threading
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.live.camera import Camera
from edgeclf.runtime.live.captures.capture import CaptureEndedError
from edgeclf.runtime.live.captures.mjpeg import MAX_PART_BYTES, PartReader, open_http

from ....clocks import FakeClock
from ....randomness import fresh_rng


def jpeg(size_hw=(48, 64)):
    return cv2.imencode(".jpg", fresh_rng().integers(0, 256, (*size_hw, 3), dtype=np.uint8))[1].tobytes()


def as_part(body: bytes, *, with_length: bool, line_end: bytes = b"\r\n", boundary: bytes = b"frame") -> bytes:
    head = b"--" + boundary + line_end + b"Content-Type: image/jpeg" + line_end
    if with_length:
        head += b"content-length: %d" % len(body) + line_end
    return head + line_end + body + line_end


def cut_randomly(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(
    bodies=st.lists(st.binary(max_size=200), max_size=8),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    line_end=st.sampled_from([b"\r\n", b"\n"]),
    named=st.sampled_from(["frame", "--frame", '"frame"']),
)
def test_parts_with_a_length_come_out_as_they_went_in_however_the_bytes_arrive(bodies, cuts, line_end, named):
    stream = b"".join(as_part(body, with_length=True, line_end=line_end) for body in bodies)
    reader = PartReader(named)
    assert [part for piece in cut_randomly(stream, cuts) for part in reader.feed(piece)] == bodies


@given(bodies=st.lists(st.binary(max_size=200), max_size=8), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_parts_without_a_length_reach_to_the_next_boundary(bodies, cuts):
    bodies = [body for body in bodies if b"--frame" not in body]
    stream = b"".join(as_part(body, with_length=False) for body in bodies) + b"--frame--"
    reader = PartReader("frame")
    found = [part for piece in cut_randomly(stream, cuts) for part in reader.feed(piece)]
    assert found == [body + b"\r\n" for body in bodies]  # the line end before a boundary does a picture no harm


@given(before=st.binary(max_size=300), between=st.binary(max_size=300), cuts=st.lists(st.integers(0, 10_000)))
def test_bytes_between_parts_are_passed_over(before, between, cuts):
    before, between = before.replace(b"--", b""), between.replace(b"--", b"")
    stream = before + b"\n" + as_part(b"one", with_length=True) + between + b"\n" + as_part(b"two", with_length=True)
    reader = PartReader("frame")
    assert [part for piece in cut_randomly(stream, cuts) for part in reader.feed(piece)] == [b"one", b"two"]


@given(st.lists(st.binary(max_size=2000)))
def test_no_bytes_at_all_upset_it(pieces):
    reader = PartReader("frame")
    for piece in pieces:
        reader.feed(piece)
    reader.feed(b"\r\n--frame\r\n" + b"x" * 70_000)
    assert b"last" in reader.feed(as_part(b"last", with_length=True) + as_part(b"", with_length=True))[-2:]


def test_a_header_that_never_ends_costs_neither_the_stream_nor_its_end():
    reader = PartReader("b")
    # Delimiters without end, each of which may begin a header: more than Python calls itself, and more than anyone scans twice.
    assert reader.feed(b"--b" * 700_000) == []
    assert reader.feed(b"--b" * 700_000 + b"\r\ncontent-length: 5\r\n\r\nwhole--b\r\n\r\nanother--b") == [
        b"whole",
        b"another",
    ]
    # A header that is too long, and ends: what stands behind it is found, and what begins within the limit.
    endless = b"--b\r\nx: " + b"y" * 70_000
    assert reader.feed(endless + b"--b\r\n\r\nnext--b") == [b"next"]
    assert reader.feed(endless + b"\r\n\r\nlost--b\r\n\r\nfound--b") == [b"found"]


def test_a_part_that_never_ends_is_given_up():
    reader = PartReader("frame")
    with pytest.raises(CaptureEndedError, match="says it has"):
        reader.feed(b"--frame\r\nContent-Length: 99999999999\r\n\r\n")
    reader = PartReader("frame")
    reader.feed(b"--frame\r\n\r\n")
    reader.feed(bytes(MAX_PART_BYTES // 2))
    with pytest.raises(CaptureEndedError, match="more than 64 MiB"):
        reader.feed(bytes(MAX_PART_BYTES))


@pytest.fixture
def answering():
    """A server whose answers the test writes; gives a function that starts it."""
    servers = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(handler, code, headers, body=b""):
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


MULTIPART = {"Content-Type": "multipart/x-mixed-replace;boundary=--frame"}


def test_chunked_answers_and_redirects_are_followed(answering):
    picture = jpeg()

    def answer(handler):
        if handler.path == "/":
            send(handler, 302, {"Location": "/stream", "Content-Length": "0"})
            return
        handler.protocol_version = "HTTP/1.1"
        body = as_part(picture, with_length=True)
        send(handler, 200, {**MULTIPART, "Transfer-Encoding": "chunked"}, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    capture = open_http(f"http://{answering(answer)}/", 5, lambda: False)
    capture.grab()
    assert capture.skip()
    assert capture.retrieve().shape == (48, 64, 3)
    with pytest.raises(CaptureEndedError, match="the stream ended"):
        capture.grab()
    capture.close()


def test_what_is_no_multipart_stream_is_left_to_others(answering):
    address = answering(lambda h: send(h, 200, {"Content-Type": "application/vnd.apple.mpegurl"}, b"#EXTM3U"))
    assert open_http(f"http://{address}/live.m3u8", 5, lambda: False) is None


def test_errors_say_what_the_server_said(answering):
    address = answering(lambda h: h.send_error(404))
    with pytest.raises(CaptureEndedError, match="HTTP 404 Not Found"):
        open_http(f"http://{address}/", 5, lambda: False)
    with pytest.raises(CaptureEndedError, match=r"no connection \(Connection refused\)"):
        open_http("http://127.0.0.1:9/", 5, lambda: False)
    with pytest.raises(CaptureEndedError, match="no connection"):
        open_http("http://127.0.0.1:port/", 5, lambda: False)


@pytest.mark.parametrize(
    ("code", "headers", "said"),
    [
        (404, {}, "HTTP 404 Not Found"),
        (799, {}, "HTTP 799"),
        (302, {"Location": "rtsp://eve:hunter2@cam/live"}, "HTTP 302 Found"),
        (302, {"Location": "file:///etc/hunter2"}, "HTTP 302 Found"),
        (302, {"Location": "ftp://127.0.0.1:9/hunter2"}, "HTTP 302 Found"),
        (307, {"Location": "/v?pwd=hunter2"}, "HTTP 307 Temporary Redirect"),
    ],
)
def test_errors_have_no_words_of_the_server_which_may_hold_the_address(answering, code, headers, said):
    def answer(handler):
        handler.send_response(code, f"no {handler.path} \x1b[2J")
        for name, value in {**headers, "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()

    with pytest.raises(CaptureEndedError) as ended:
        open_http(f"http://{answering(answer)}/v?pwd=hunter2", 5, lambda: False)
    assert str(ended.value) == said


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ('Digest realm=,nonce="x"', "HTTP 401 Unauthorized"),
        ('Digest realm="a",nonce="b",algorithm=', "HTTP 401 Unauthorized"),
        ('Digest realm="a",nonce="b",algorithm=NONE', "HTTP 401 Unauthorized"),
        ("Digest", "HTTP 401 Unauthorized"),
        ("Digest ====", "HTTP 401 Unauthorized"),
        ("Basic realm", "HTTP 401 Unauthorized"),
        ("Basic realm=", "HTTP 401 Unauthorized"),
        ('Digest realm="a",nonce="b",qop="auth-int"', "a kind of authentication that is not supported"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_challenge_that_makes_no_sense_is_an_error_of_the_camera(answering, challenge, said):
    headers = {"WWW-Authenticate": challenge, "Content-Length": "0"}
    with pytest.raises(CaptureEndedError) as ended:
        open_http(f"http://eve:hunter2@{answering(lambda h: send(h, 401, headers))}/", 5, lambda: False)
    assert str(ended.value) == said


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("realm", ['"cam"', "cam"])
def test_a_realm_without_quotes_is_read_as_with_them(answering, realm):
    def answer(handler):
        if "Authorization" not in handler.headers:
            send(handler, 401, {"WWW-Authenticate": f"Basic realm={realm}", "Content-Length": "0"})
            return
        send(handler, 200, MULTIPART, as_part(jpeg(), with_length=True))

    capture = open_http(f"http://eve:hunter2@{answering(answer)}/v", 5, lambda: False)
    capture.grab()
    capture.close()


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_user_and_password_in_the_url_are_used(answering, scheme):
    seen = []

    def answer(handler):
        given = handler.headers.get("Authorization", "")
        seen.append(given)
        if not given.startswith(scheme):
            send(handler, 401, {"WWW-Authenticate": f'{scheme} realm="cam", nonce="n"', "Content-Length": "0"})
            return
        send(handler, 200, MULTIPART, as_part(jpeg(), with_length=True))

    capture = open_http(f"http://eve:p%40ss@{answering(answer)}/v", 5, lambda: False)
    capture.grab()
    capture.close()
    if scheme == "Basic":
        assert seen[-1] == "Basic " + base64.b64encode(b"eve:p@ss").decode()
    else:
        digest = lambda text: hashlib.md5(text.encode()).hexdigest()  # noqa: E731
        assert f'response="{digest(digest("eve:cam:p@ss") + ":n:" + digest("GET:/v"))}"' in seen[-1]


@pytest.mark.parametrize("scheme", ["Bearer", "Negotiate", 'Bearer realm="cam"', ""])
def test_an_authentication_that_no_address_has_is_said_by_the_server(answering, scheme):
    headers = {"WWW-Authenticate": scheme, "Content-Length": "0"} if scheme else {"Content-Length": "0"}
    address = answering(lambda h: send(h, 401, headers))
    for user in ("", "eve:hunter2@"):
        with pytest.raises(CaptureEndedError, match=r"^HTTP 401 Unauthorized$"):
            open_http(f"http://{user}{address}/", 5, lambda: False)


def test_a_cookie_is_kept_for_the_address_behind_a_redirect(answering):
    def answer(handler):
        if handler.path == "/?token=t":
            send(handler, 303, {"Set-Cookie": "pass=p; Path=/; HttpOnly", "Location": "/", "Content-Length": "0"})
        elif handler.headers.get("Cookie") != "pass=p":
            handler.send_error(401)
        else:
            send(handler, 200, MULTIPART, as_part(jpeg(), with_length=True))

    address = answering(answer)
    capture = open_http(f"http://{address}/?token=t", 5, lambda: False)
    capture.grab()
    assert capture.retrieve().shape == (48, 64, 3)
    capture.close()
    # Of this capture alone.
    with pytest.raises(CaptureEndedError, match="HTTP 401"):
        open_http(f"http://{address}/", 5, lambda: False)


def test_only_the_newest_of_several_waiting_frames_needs_decoding(answering):
    pictures = [jpeg() for _ in range(3)]
    body = b"".join(as_part(picture, with_length=True) for picture in pictures)
    capture = open_http(f"http://{answering(lambda h: send(h, 200, MULTIPART, body))}/", 5, lambda: False)
    behind = []
    for _ in pictures:
        capture.grab()
        behind.append(capture.is_behind)
    assert behind[-1] is False
    assert np.array_equal(capture.retrieve(), cv2.imdecode(np.frombuffer(pictures[-1], np.uint8), cv2.IMREAD_COLOR))
    capture.close()


def damaged_frame(picture):
    return picture[: len(picture) // 2] + picture[-2:]


def test_frames_without_an_end_marker_are_frames_and_cut_ones_are_not(answering):
    whole = jpeg((96, 128))
    expected = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    parts = [whole[:-2], whole[:-1], whole, whole[: len(whole) // 2], damaged_frame(whole), whole[:-2]]
    for with_length in (True, False):
        body = b"".join(as_part(part, with_length=with_length) for part in parts) + b"--frame--"
        capture = open_http(
            f"http://{answering(lambda h, body=body: send(h, 200, MULTIPART, body))}/", 5, lambda: False
        )
        found = []
        for _ in parts:
            capture.grab()
            found.append(capture.retrieve())
        assert [image is not None for image in found] == [True, True, True, False, False, True]
        assert all(np.array_equal(image, expected) for image in found if image is not None)
        # Known by now to leave it out.
        assert capture.skip()
        capture.close()


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "image/jpeg; charset=binary"])
def test_a_url_that_answers_with_one_image_is_asked_again_and_again(answering, kind):
    clock = FakeClock()
    clock.skips = True
    images = [fresh_rng().integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(3)]
    bodies = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    asked = iter([*bodies, b"no image", None])

    def answer(handler):
        body = next(asked)
        if body is None:
            handler.send_error(503)
        else:
            send(handler, 200, {"Content-Type": kind, "Content-Length": str(len(body))}, body)

    capture = open_http(f"http://{answering(answer)}/snapshot", 5, lambda: False, clock, poll_s=2.0)
    started_s = clock.now_s()
    for number, image in enumerate(images):
        assert capture.grab() - started_s == pytest.approx(2.0 * number)
        assert capture.skip()
        assert np.array_equal(capture.retrieve(), image)
    capture.grab()
    assert not capture.skip()
    assert capture.retrieve() is None
    with pytest.raises(CaptureEndedError, match="HTTP 503"):
        capture.grab()
    capture.close()


def test_a_snapshot_that_is_stopped_waits_no_longer(answering):
    body = jpeg()
    headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(body))}
    stopped = []
    address = answering(lambda h: send(h, 200, headers, body))
    capture = open_http(f"http://{address}/", 5, lambda: bool(stopped), poll_s=3600)
    capture.grab()
    stopped.append(True)
    with pytest.raises(CaptureEndedError, match="closed"):
        capture.grab()
    capture.close()


def test_a_camera_polls_a_snapshot_at_its_rate(answering):
    body = jpeg()
    headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(body))}
    asked_s = []

    def answer(handler):
        asked_s.append(time.monotonic())
        send(handler, 200, headers, body)

    with Camera(f"HTTP://{answering(answer)}/snapshot.cgi", max_fps=20.0) as camera:
        frames = [frame for frame, _ in zip(camera, range(6), strict=False)]
    assert [frame.number for frame in frames] == list(range(6))
    # A pause of the period between the requests, and however long each takes.
    assert min(b - a for a, b in itertools.pairwise(asked_s[:6])) >= 0.05
