"""Prefetching by threads: many small results in order, or one large one in the background."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgeclf.runtime.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int, name: str
) -> Iterator[Result]:
    """The results of a function for each item, in order, computed while earlier ones are used.

    Leaving the loop early, also by an exception, cancels the calls that have not begun.

    Args:
        function: Called by several threads at once; what it raises is raised where its result would come.
        items: What it is called with.
        threads: Number of threads.
        ahead: Most results that are computed or waited for at a time.
        name: Prefix of the threads' names.
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
def run_in_background(
    function: Callable[[Progress], Result], progress: Progress, *, name: str
) -> Iterator[Future[Result]]:
    """Runs a function in a thread while the block does other work; yields the future of its result.

    A block that is left early - by an exception, Ctrl-C among them - stops the function at its next report of progress.

    Args:
        function: Called with where to report progress to; cleans up after itself when the report raises an exception.
        progress: Called by the thread with what the function reports.
        name: Prefix of the thread's name.
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
