"""How the server's thread learns of what the classifying thread has done: it looks, from time to time."""

import asyncio
from collections.abc import Callable

_INTERVAL_S = 0.03


async def wait_until(happened: Callable[[], bool], timeout_s: float) -> bool:
    """Waits until something has happened; False when it has not in time.

    Nobody is woken by a result: waking a thread means a system call in the classifying thread, which there gives the
    interpreter away and gets it back when the woken thread is done with it, milliseconds later. Looking costs nothing
    there, and nothing at all while nobody watches.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while not happened():
        left_s = deadline_s - loop.time()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(_INTERVAL_S, left_s))
    return True
