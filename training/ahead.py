"""Work done ahead of its use, by threads, in order and with a bounded number of results in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
