"""Images over HTTP: MJPEG, a multipart stream of JPEG images, as most network cameras send it, and snapshots.

FFmpeg's reader ends such a stream at the first damaged part and analyses seconds of it before the first frame. Here a
damaged part costs one frame, and the time of a frame is that of its last byte. A URL that answers with one image is asked
again and again.
"""

import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.header import read_image_header
from edgeclf.runtime.images.jpeg_warnings import hears_damage
from edgeclf.runtime.images.preprocess import decode_image
from edgeclf.runtime.live.captures.capture import CaptureEndedError
from edgeclf.runtime.live.clock import MONOTONIC, Clock
from edgeclf.runtime.live.masking import http_failure

# Longer than any frame; bounds the memory that a stream without boundaries takes.
MAX_PART_BYTES = 64 << 20
_MAX_HEADER_BYTES = 64 << 10
# No camera has more pixels than this; a damaged header may claim them.
_MAX_PIXELS = 100_000_000
_READ_BYTES = 1 << 20
_END = b"\xff\xd9"
_NAP_S = 0.1
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,12})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_BASIC = re.compile(r"\bbasic\b.*", re.IGNORECASE | re.DOTALL)
_UNQUOTED_REALM = re.compile(r"(?<=\brealm=)(?![\"'])([^\s,]*)", re.IGNORECASE)
_HEADER_END = re.compile(rb"\r?\n\r?\n")


class PartReader:
    """Parser of a multipart stream: bytes in, bodies of its parts out.

    A part without a Content-Length reaches to the next boundary. Bytes outside of parts are ignored, so that damage
    ends with the part in which it occurs.

    Args:
        boundary: The boundary as the Content-Type header gives it.
    """

    def __init__(self, boundary: str) -> None:
        # Some cameras count the dashes before a boundary to its name, others do not.
        self._delimiter = b"--" + boundary.strip().strip('"').lstrip("-").encode("latin-1", "replace")
        self._waiting = bytearray()
        # Where the search for the end of a part without a length goes on.
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies completed by these bytes, in order.

        Raises:
            CaptureEndedError: A part is longer than any image.
        """
        self._waiting += data
        parts: list[bytes] = []
        while (part := self._next()) is not None:
            parts.append(part)
        if len(self._waiting) > MAX_PART_BYTES + _MAX_HEADER_BYTES:
            raise CaptureEndedError(f"a part of more than {MAX_PART_BYTES >> 20} MiB")
        return parts

    def _next(self) -> bytes | None:
        waiting = self._waiting
        while True:
            start = waiting.find(self._delimiter)
            if start < 0:
                # The boundary may have come in part.
                self._drop(max(0, len(waiting) - len(self._delimiter)))
                return None
            self._drop(start)
            header_end = _HEADER_END.search(waiting, len(self._delimiter))
            end_of_header = len(waiting) if header_end is None else header_end.start()
            if end_of_header > _MAX_HEADER_BYTES:
                # Too long from this delimiter on; there may be another within the limit.
                self._drop(end_of_header - _MAX_HEADER_BYTES)
                if header_end is not None:
                    continue
            return None if header_end is None else self._body(header_end.end())

    def _body(self, begin: int) -> bytes | None:
        """The body that begins there, taken out with its header; None where its end has not come yet."""
        waiting = self._waiting
        length = _LENGTH.search(waiting, 0, begin)
        if length is not None:
            end = begin + int(length[1])
            if int(length[1]) > MAX_PART_BYTES:
                raise CaptureEndedError(f"a part that says it has {int(length[1])} bytes")
            if len(waiting) < end:
                return None
        else:
            end = waiting.find(self._delimiter, max(begin, self._searched))
            if end < 0:
                self._searched = len(waiting) - len(self._delimiter)
                return None
        part = bytes(waiting[begin:end])
        self._drop(end)
        return part

    def _drop(self, count: int) -> None:
        if count:
            del self._waiting[:count]
            self._searched = 0


def _has_end(part: bytes) -> bool:
    """Whether a JPEG has its end-of-image marker; where damage cannot be heard, a picture without it counts as cut."""
    header = read_image_header(part)
    return header is None or header.format != "jpeg" or header.missing is None or not hears_damage()


def _ended(part: bytes) -> bytes:
    """A JPEG with the end-of-image marker that it lacks; of one that was cut, libjpeg finds that the pixels are."""
    # The line end before a boundary would make another marker of the first half of this one.
    return (part[:-2] if part.endswith(b"\xff\r\n") else part) + _END


def _decoded(data: bytes) -> UInt8Array | None:
    try:
        return decode_image(data, max_pixels=_MAX_PIXELS)
    except ImageError:
        return None


class MjpegCapture:
    """A `Capture` of an HTTP response that is a multipart stream of images.

    Args:
        response: The opened response.
        boundary: The boundary that its Content-Type gives.
        is_stopped: See `open_capture`.
        clock: Source of time.
    """

    fps = 0.0
    source_time_s = None

    def __init__(
        self, response: http.client.HTTPResponse, boundary: str, is_stopped: Callable[[], bool], clock: Clock
    ) -> None:
        self._response = response
        self._clock = clock
        self._reader = PartReader(boundary)
        self._is_stopped = is_stopped
        self._parts: deque[tuple[bytes, float]] = deque()
        self._part = b""
        # Known once a frame without its end-of-image marker was decoded, and found whole.
        self._leaves_end_out = False

    def grab(self) -> float:
        """See `Capture`."""
        while not self._parts and not self._is_stopped():
            self._read()
        if not self._parts:
            raise CaptureEndedError("closed")
        self._part, came_s = self._parts.popleft()
        return came_s

    def _read(self) -> None:
        waiting_since_s = self._clock.now_s()
        try:
            data = self._response.read1(_READ_BYTES)
        except TimeoutError as error:
            waited_s = self._clock.now_s() - waiting_since_s
            raise CaptureEndedError(f"no new frame for {waited_s:.1f} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CaptureEndedError(f"a broken connection ({type(error).__name__})") from error
        if not data:
            raise CaptureEndedError("the stream ended")
        came_s = self._clock.now_s()
        self._parts.extend((part, came_s) for part in self._reader.feed(data))

    @property
    def is_behind(self) -> bool:
        """See `Capture`."""
        return bool(self._parts)

    def retrieve(self) -> UInt8Array | None:
        """See `Capture`."""
        if _has_end(self._part):
            return _decoded(self._part)
        image_bgr = _decoded(_ended(self._part))
        self._leaves_end_out |= image_bgr is not None
        return image_bgr

    def skip(self) -> bool:
        """See `Capture`."""
        # Some cameras fill up behind the end-of-image marker.
        return self._part.startswith(b"\xff\xd8\xff") and (self._leaves_end_out or self._part.rfind(_END) > 0)

    def close(self) -> None:
        """See `Capture`."""
        self._response.close()


class SnapshotCapture:
    """A `Capture` of a URL that answers with one image: it is asked again and again.

    Args:
        response: The opened first response.
        ask: Opens a further one; raises CaptureEndedError.
        pause_s: Pause between an image and the next request.
        is_stopped: See `open_capture`.
        clock: Source of time.
    """

    fps = 0.0
    source_time_s = None
    is_behind = False

    def __init__(
        self,
        response: http.client.HTTPResponse,
        ask: Callable[[], http.client.HTTPResponse],
        pause_s: float,
        is_stopped: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._first: http.client.HTTPResponse | None = response
        self._ask = ask
        self._pause_s = pause_s
        self._is_stopped = is_stopped
        self._clock = clock
        self._due_s = clock.now_s()
        self._image = b""

    def grab(self) -> float:
        """See `Capture`."""
        clock = self._clock
        while (pause_s := self._due_s - clock.now_s()) > 0 and not self._is_stopped():
            clock.sleep(min(pause_s, _NAP_S))
        if self._is_stopped():
            raise CaptureEndedError("closed")
        response, self._first = self._first or self._ask(), None
        asked_s = clock.now_s()
        with response:
            try:
                self._image = response.read(MAX_PART_BYTES + 1)
            except TimeoutError as error:
                raise CaptureEndedError(f"no new frame for {clock.now_s() - asked_s:.1f} s") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise CaptureEndedError(f"a broken connection ({type(error).__name__})") from error
        if len(self._image) > MAX_PART_BYTES:
            raise CaptureEndedError(f"an image of more than {MAX_PART_BYTES >> 20} MiB")
        # From the end of one image, so that the next never comes before it is wanted.
        now_s = clock.now_s()
        self._due_s = now_s + self._pause_s
        return now_s

    def retrieve(self) -> UInt8Array | None:
        """See `Capture`."""
        return _decoded(self._image if _has_end(self._image) else _ended(self._image))

    def skip(self) -> bool:
        """See `Capture`."""
        return read_image_header(self._image) is not None

    def close(self) -> None:
        """See `Capture`."""
        if self._first is not None:
            self._first.close()


def open_http(
    url: str, patience_s: float, is_stopped: Callable[[], bool], clock: Clock = MONOTONIC, *, poll_s: float = 1.0
) -> MjpegCapture | SnapshotCapture | None:
    """Opens a URL as a multipart stream or as a snapshot; None for any other answer, such as a playlist or a video file.

    Args:
        url: An http or https URL; a user name and password in it are used for Basic and Digest authentication.
        patience_s: Longest wait for an answer, and later for bytes.
        is_stopped: See `open_capture`.
        clock: Source of time.
        poll_s: Pause between two snapshots.

    Raises:
        CaptureEndedError: Nothing answers, or the answer is an error.
    """
    try:
        bare_url, opener = _opener(url)
    except ValueError as error:
        raise CaptureEndedError(f"no address ({error})") from error
    ask = partial(_ask, opener, bare_url, patience_s)
    try:
        response = ask()
    except ssl.SSLCertVerificationError:
        # Few cameras have a certificate that anybody signed; FFmpeg does not ask for one.
        return None
    boundary = response.headers.get_param("boundary")
    if response.headers.get_content_maintype() == "multipart" and isinstance(boundary, str):
        return MjpegCapture(response, boundary, is_stopped, clock)
    if response.headers.get_content_maintype() == "image":
        return SnapshotCapture(response, ask, poll_s, is_stopped, clock)
    response.close()
    return None


def _ask(opener: urllib.request.OpenerDirector, url: str, patience_s: float) -> http.client.HTTPResponse:
    """The answer of a server.

    Raises:
        CaptureEndedError: Nothing answers, or the answer is an error.
        ssl.SSLCertVerificationError: Nobody signed the server's certificate.
    """
    try:
        return opener.open(url, timeout=patience_s)  # type: ignore[no-any-return]  # an HTTP URL has an HTTP answer
    except urllib.error.HTTPError as error:
        error.close()
        raise CaptureEndedError(http_failure(error.code)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise cause from error
        if isinstance(cause, TimeoutError):
            raise CaptureEndedError(f"no answer for {patience_s:g} s") from error
        if isinstance(cause, str):
            raise CaptureEndedError("a kind of authentication that is not supported") from error
        words = cause.strerror if isinstance(cause, OSError) else None
        raise CaptureEndedError(f"no connection ({words or type(cause).__name__})") from error


def _opener(url: str) -> tuple[str, urllib.request.OpenerDirector]:
    """A URL without its user and password, and an opener that authenticates with them."""
    parts = urllib.parse.urlsplit(url)
    bare_url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        passwords.add_password(None, bare_url, user, password)
    return bare_url, urllib.request.build_opener(
        _HttpRedirects(),
        _BasicAuth(passwords),
        _DigestAuth(passwords),
        # Some give a cookie for the token in the URL, as the preview of edgeclf does.
        urllib.request.HTTPCookieProcessor(),
    )


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTP alone; any other is the error that it is."""

    def redirect_request(self, *request: Any) -> Any:  # noqa: ANN401 - those of urllib
        is_http = urllib.parse.urlsplit(request[-1]).scheme in {"http", "https"}
        return super().redirect_request(*request) if is_http else None


# An answer that asks for another scheme, such as Bearer, or asks in words that make no sense, is the error that it is.
_BAD_CHALLENGE = (ValueError, IndexError)


class _BasicAuth(urllib.request.HTTPBasicAuthHandler):
    def http_error_401(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:  # noqa: ANN401 - those of urllib
        asked = http.client.HTTPMessage()
        for challenge in headers.get_all("WWW-Authenticate", []):
            # urllib warns of every realm without quotes, those of other schemes included.
            if (basic := _BASIC.search(challenge)) is not None:
                asked["WWW-Authenticate"] = _UNQUOTED_REALM.sub(r'"\1"', basic[0])
        try:
            return super().http_error_401(req, fp, code, msg, asked)
        except _BAD_CHALLENGE:
            return None


class _DigestAuth(urllib.request.HTTPDigestAuthHandler):
    def http_error_401(self, *answer: Any) -> Any:  # noqa: ANN401 - those of urllib
        try:
            return super().http_error_401(*answer)
        except _BAD_CHALLENGE:
            return None
