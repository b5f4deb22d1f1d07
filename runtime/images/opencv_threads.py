"""The size of OpenCV's thread pool, limited while other threads already use every CPU."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgeclf.runtime.images._opencv import cv2

_lock = threading.Lock()
_limits: list[int] = []
_before = 0


@contextmanager
def opencv_threads_at_most(count: int) -> Iterator[None]:
    """Limits OpenCV's pool, which belongs to the whole process, while at least one such block is entered.

    Blocks may overlap in any order, as those of suspended generators do: the lowest limit counts, and the setting from
    before the first comes back after the last.

    Args:
        count: Threads that one OpenCV function may use.
    """
    global _before  # noqa: PLW0603 - the setting is the process's, so what is known of it is too
    with _lock:
        if not _limits:
            _before = cv2.getNumThreads()
        _limits.append(count)
        cv2.setNumThreads(min(_before, *_limits))
    try:
        yield
    finally:
        with _lock:
            _limits.remove(count)
            cv2.setNumThreads(min([_before, *_limits]))
