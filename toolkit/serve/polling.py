"""Polling: how the server's thread notices new results of the classifying threads."""

import asyncio
from collections.abc import Callable

_INTERVAL_S = 0.03


async def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Waits until the condition is true, checking it every 30 ms; False when `timeout_s` was over first.

    Results wake no thread: that would be a system call in the classifying thread, which releases the interpreter there
    and gets it back milliseconds later. Polling costs the classifying thread nothing.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while not condition():
        left_s = deadline_s - loop.time()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(_INTERVAL_S, left_s))
    return True
