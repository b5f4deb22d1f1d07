"""Work done ahead of its use, by threads: many small pieces in order, or one large one beside other work."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgeclf.runtime.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int, name: str
) -> Iterator[Result]:
    """The results of a function for each item, in their order, computed while earlier ones are used.

    Whoever stops before the end - by leaving the loop, or by an exception - ends the work that has not begun.

    Args:
        function: Called by several threads at once; what it raises is raised where its result would come.
        items: What it is called with.
        threads: How many.
        ahead: Most results that are computed or waited for at a time.
        name: Of the threads.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class _StoppedError(Exception):
    """Nobody waits for the result any more."""


@contextlib.contextmanager
def working_ahead(function: Callable[[Progress], Result], progress: Progress, *, name: str) -> Iterator[Future[Result]]:
    """Yields the result, to be, of a function that a thread works on while the block does something else.

    A block that is left early - by an exception, Ctrl-C among them - stops the function at its next report of progress.

    Args:
        function: Called with where to report progress to; cleans up after itself when the report raises an exception.
        progress: Told what the function reports, by its thread.
        name: Of the thread.
    """
    left = threading.Event()

    def report(stage: str, done: int, total: int) -> None:
        if left.is_set():
            raise _StoppedError
        progress(stage, done, total)

    with ThreadPoolExecutor(1, thread_name_prefix=name) as pool:
        try:
            yield pool.submit(function, report)
        finally:
            left.set()
