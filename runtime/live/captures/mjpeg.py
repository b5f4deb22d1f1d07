"""MJPEG over HTTP: a multipart stream of JPEG images, as most network cameras and microcontrollers send it.

FFmpeg's reader ends such a stream at the first damaged part and analyses seconds of it before the first frame. Here a
damaged part costs one frame, and the time of a frame is that of its last byte.
"""

import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.preprocess import decode_image
from edgeclf.runtime.live.captures.capture import CaptureEndedError
from edgeclf.runtime.live.clock import MONOTONIC, Clock

# Longer than any frame; bounds the memory that a stream without boundaries takes.
MAX_PART_BYTES = 64 << 20
_MAX_HEADER_BYTES = 64 << 10
# No camera has more pixels than this; a damaged header may claim them.
_MAX_PIXELS = 100_000_000
_READ_BYTES = 1 << 20
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,12})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
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
        start = waiting.find(self._delimiter)
        if start < 0:
            # The boundary may have come in part.
            del waiting[: max(0, len(waiting) - len(self._delimiter))]
            return None
        del waiting[:start]
        header_end = _HEADER_END.search(waiting, len(self._delimiter), _MAX_HEADER_BYTES)
        if header_end is None:
            if len(waiting) > _MAX_HEADER_BYTES:
                del waiting[: len(self._delimiter)]
                return self._next()
            return None
        length = _LENGTH.search(waiting, 0, header_end.end())
        if length is not None:
            end = header_end.end() + int(length[1])
            if int(length[1]) > MAX_PART_BYTES:
                raise CaptureEndedError(f"a part that says it has {int(length[1])} bytes")
            if len(waiting) < end:
                return None
        else:
            end = waiting.find(self._delimiter, header_end.end())
            if end < 0:
                return None
        part = bytes(waiting[header_end.end() : end])
        del waiting[:end]
        return part


class MjpegCapture:
    """A `Capture` of an HTTP response that is a multipart stream of images.

    Args:
        response: The opened response.
        boundary: The boundary that its Content-Type gives.
        is_stopped: See `open_capture`.
        clock: Source of time.
    """

    fps = 0.0

    def __init__(
        self, response: http.client.HTTPResponse, boundary: str, is_stopped: Callable[[], bool], clock: Clock
    ) -> None:
        self._response = response
        self._clock = clock
        self._reader = PartReader(boundary)
        self._is_stopped = is_stopped
        self._parts: deque[tuple[bytes, float]] = deque()
        self._part = b""

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
        try:
            return decode_image(self._part, max_pixels=_MAX_PIXELS)
        except ImageError:
            return None

    def skip(self) -> bool:
        """See `Capture`."""
        # Some cameras fill up behind the end-of-image marker.
        return self._part.startswith(b"\xff\xd8\xff") and self._part.rfind(b"\xff\xd9") > 0

    def close(self) -> None:
        """See `Capture`."""
        self._response.close()


def open_mjpeg(
    url: str, patience_s: float, is_stopped: Callable[[], bool], clock: Clock = MONOTONIC
) -> MjpegCapture | None:
    """Opens a URL as a multipart stream; None when the answer is anything else, such as a playlist or a video file.

    Args:
        url: An http or https URL; a user name and password in it are used for Basic and Digest authentication.
        patience_s: Longest wait for an answer, and later for bytes.
        is_stopped: See `open_capture`.
        clock: Source of time.

    Raises:
        CaptureEndedError: Nothing answers, or the answer is an error.
    """
    bare_url, opener = _opener(url)
    try:
        response = opener.open(bare_url, timeout=patience_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise CaptureEndedError(f"HTTP {error.code} {error.reason}".strip()) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            # Few cameras have a certificate that anybody signed; FFmpeg does not ask for one.
            return None
        if isinstance(cause, TimeoutError):
            raise CaptureEndedError(f"no answer for {patience_s:g} s") from error
        words = cause.strerror if isinstance(cause, OSError) else None
        raise CaptureEndedError(f"no connection ({words or type(cause).__name__})") from error
    boundary = response.headers.get_param("boundary")
    if response.headers.get_content_maintype() != "multipart" or not isinstance(boundary, str):
        response.close()
        return None
    return MjpegCapture(response, boundary, is_stopped, clock)


def _opener(url: str) -> tuple[str, urllib.request.OpenerDirector]:
    """A URL without its user and password, and an opener that authenticates with them."""
    parts = urllib.parse.urlsplit(url)
    bare_url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        passwords.add_password(None, bare_url, user, password)
    return bare_url, urllib.request.build_opener(
        urllib.request.HTTPBasicAuthHandler(passwords), urllib.request.HTTPDigestAuthHandler(passwords)
    )
