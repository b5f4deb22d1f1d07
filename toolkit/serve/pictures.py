"""Pictures of the newest frames as JPEG: encoded when somebody asks, once however many ask."""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.toolkit.serve.polling import wait_until
from edgeclf.toolkit.serve.state import CameraState, PreviewState

# Enough to see what a camera sees; on a small device every further pixel and picture is taken from the classifier.
_LONGEST_SIDE = 640
_INTERVAL_S = 1 / 15
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A frame as JPEG.

    Attributes:
        sequence: The feed's sequence number of the result that belongs to it.
        jpeg: The file.
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
    """The newest picture of every camera, for any number of clients; used in the server's thread.

    A client that is slow to take one is given the newest when it comes back: what it missed was never kept for it.

    Args:
        feeds: The cameras.
        pool: Where pictures are encoded.
    """

    def __init__(self, feeds: PreviewState, pool: Executor) -> None:
        self._feeds = feeds
        self._pool = pool
        self._newest: dict[int, Picture] = {}
        self._due_s: dict[int, float] = {}
        self._encoding: dict[int, asyncio.Task[Picture | None]] = {}

    async def newer(self, feed: CameraState, after: int, timeout_s: float) -> Picture | None:
        """A camera's newest picture, once there is one behind sequence number `after`; None when none comes in time."""
        feeds = self._feeds
        await wait_until(lambda: feed.sequence > after or feeds.closing, timeout_s)
        if feed.sequence <= after or feeds.closing:
            return None
        number, now_s = feed.number, asyncio.get_running_loop().time()
        newest = self._newest.get(number)
        # One that is not the newest may be shown while the next is not due; not the one of the last visit.
        is_fresh = newest is not None and (newest.sequence == feed.sequence or now_s < self._due_s[number])
        if newest is not None and is_fresh and newest.sequence > after:
            return newest
        task = self._encoding.get(number)
        if task is None:
            task = self._encoding[number] = asyncio.create_task(self._encode(feed))
        # One client that goes away must not take the picture from the others.
        return await asyncio.shield(task)

    async def _encode(self, feed: CameraState) -> Picture | None:
        loop, number = asyncio.get_running_loop(), feed.number
        try:
            await asyncio.sleep(max(0.0, self._due_s.get(number, 0.0) - loop.time()))
            # The number before the result: one that comes in between is shown once more, never missed.
            sequence, result = feed.sequence, feed.newest
            if result is None or self._feeds.closing:
                return None
            self._due_s[number] = loop.time() + _INTERVAL_S
            jpeg = await loop.run_in_executor(self._pool, encode_jpeg, result.frame.image_bgr)
            picture = self._newest[number] = Picture(sequence, jpeg)
            return picture
        finally:
            del self._encoding[number]
