"""A network camera on loopback whose frames, pace and cuts a benchmark chooses."""

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import cv2

from edgeclf.runtime.arrays import UInt8Array


class MjpegCamera:
    """An MJPEG-over-HTTP server.

    Args:
        parts: Called with the number of the connection, from 0; gives the bodies of the parts to send, at the pace at
            which they are to be sent. The connection ends with them.
        port: Where to listen; 0 for any.
    """

    def __init__(self, parts: Callable[[int], Iterable[bytes]], port: int = 0) -> None:
        outer = self
        self.connections = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for body in parts(outer.connections - 1):
                        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body)
                        self.wfile.write(head + body + b"\r\n")

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/video.mjpg"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @staticmethod
    def paced(body: bytes, interval_s: float) -> Iterator[bytes]:
        """Repeats a part for ever, at a fixed interval that sending does not stretch."""
        due_s = time.monotonic()
        while True:
            yield body
            due_s += interval_s
            time.sleep(max(0.0, due_s - time.monotonic()))

    def __enter__(self) -> "MjpegCamera":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def jpeg_of(image_bgr: UInt8Array) -> bytes:
    """Encodes an image, (H, W, 3) uint8 BGR, as JPEG."""
    return bytes(cv2.imencode(".jpg", image_bgr)[1].tobytes())
