"""Jobs in groups for one inference each, by their position alone, so that the same source gives the same groups."""

from collections import deque
from collections.abc import Iterable, Iterator

from edgeclf.runtime.batch.jobs import Job


class Groups(Iterator["deque[Job]"]):
    """Cuts jobs into groups of `size`, and what is left at the end into one group for each worker.

    With whole groups to the end, one worker would be busy with the last of them while the others have nothing to do.

    Args:
        jobs: The jobs; pulled lazily, at most `size * workers` ahead.
        size: Jobs in a group.
        workers: Threads among which the last jobs are shared; 1 leaves the last group as it comes.
        frames_alone: Gives every frame of a video a group of its own and pulls no frame ahead: a frame has its pixels
            with it from the moment it is pulled, a still image does not.
    """

    def __init__(self, jobs: Iterable[Job], size: int, workers: int, *, frames_alone: bool = False) -> None:
        self._jobs = iter(jobs)
        self._size = size
        self._ahead = size * workers
        self._workers = workers
        self._frames_alone = frames_alone
        self._pulled: deque[Job] = deque()
        self._last_size = 0

    def __next__(self) -> "deque[Job]":
        """The next group.

        Raises:
            StopIteration: There are no more jobs.
        """
        self._pull()
        if not self._pulled:
            raise StopIteration
        is_lone = self._frames_alone and self._pulled[0].frame is not None
        size = 1 if is_lone else self._last_size or self._size
        group: deque[Job] = deque()
        while self._pulled and len(group) < size:
            if self._frames_alone and group and self._pulled[0].frame is not None:
                break
            group.append(self._pulled.popleft())
        return group

    def _pull(self) -> None:
        while not self._last_size and len(self._pulled) < self._ahead and not self._has_frame():
            job = next(self._jobs, None)
            if job is None:
                # Shared evenly, rounded up: nothing more will come.
                self._last_size = min(self._size, max(1, -(-len(self._pulled) // self._workers)))
                return
            self._pulled.append(job)

    def _has_frame(self) -> bool:
        return self._frames_alone and bool(self._pulled) and self._pulled[-1].frame is not None
