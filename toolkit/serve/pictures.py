"""JPEG images of the newest frames, encoded on request and once for all clients."""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.toolkit.serve.polling import wait_until
from edgeclf.toolkit.serve.state import CameraState, PreviewState

# Small on purpose: on a small device, encoding takes time from the classifier.
_LONGEST_SIDE = 640
_INTERVAL_S = 1 / 15
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A frame as JPEG.

    Attributes:
        sequence: Sequence number of the result it belongs to.
        jpeg: The bytes of the JPEG file.
    """

    sequence: int
    jpeg: bytes


def encode_jpeg(image_bgr: UInt8Array) -> bytes:
    """A frame, (H, W, 3) uint8 BGR, as a JPEG of at most 640 pixels a side."""
    height, width = image_bgr.shape[:2]
    scale = _LONGEST_SIDE / max(height, width)
    if scale < 1:
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        image_bgr = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes()


class Pictures:
    """Newest image of every camera, for any number of clients; used in the server's thread.

    A slow client gets the newest image at its next request; older ones are not kept.

    Args:
        state: The cameras.
        pool: Executor that encodes images.
    """

    def __init__(self, state: PreviewState, pool: Executor) -> None:
        self._state = state
        self._pool = pool
        self._newest: dict[int, Picture] = {}
        self._due_s: dict[int, float] = {}
        self._encoding: dict[int, asyncio.Task[Picture | None]] = {}

    async def newer(self, camera: CameraState, after: int, timeout_s: float) -> Picture | None:
        """A camera's newest image with a sequence number above `after`, waiting for it; None when none comes in time."""
        state = self._state
        await wait_until(lambda: camera.sequence > after or state.closing, timeout_s)
        if camera.sequence <= after or state.closing:
            return None
        number, now_s = camera.number, asyncio.get_running_loop().time()
        newest = self._newest.get(number)
        # An older image is good enough while the next one is not due; one from the time of an earlier client is not.
        is_fresh = newest is not None and (newest.sequence == camera.sequence or now_s < self._due_s[number])
        if newest is not None and is_fresh and newest.sequence > after:
            return newest
        task = self._encoding.get(number)
        if task is None:
            task = self._encoding[number] = asyncio.create_task(self._encode(camera))
        # Shielded: a client that goes away must not cancel the image of the others.
        return await asyncio.shield(task)

    async def _encode(self, camera: CameraState) -> Picture | None:
        loop, number = asyncio.get_running_loop(), camera.number
        try:
            await asyncio.sleep(max(0.0, self._due_s.get(number, 0.0) - loop.time()))
            # Number before result: a result that comes in between is sent twice rather than never.
            sequence, result = camera.sequence, camera.newest
            if result is None or self._state.closing:
                return None
            self._due_s[number] = loop.time() + _INTERVAL_S
            jpeg = await loop.run_in_executor(self._pool, encode_jpeg, result.frame.image_bgr)
            picture = self._newest[number] = Picture(sequence, jpeg)
            return picture
        finally:
            del self._encoding[number]
