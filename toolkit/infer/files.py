"""Files of `edgeclf infer`: images and videos, batched and in order."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from edgeclf.runtime.batch.jobs import Job
from edgeclf.runtime.batch.listing import unread_sentence
from edgeclf.runtime.batch.pipeline import classify_jobs
from edgeclf.runtime.batch.sources import source_jobs
from edgeclf.runtime.errors import EdgeclfError, UsageError
from edgeclf.toolkit.console import note, progress_bar, warn
from edgeclf.toolkit.infer.file_list import read_file_list
from edgeclf.toolkit.infer.records import SinkOptions, check_targets, frame_view, make_writer, record_output

if TYPE_CHECKING:
    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.arrays import UInt8Array


def infer_files(
    session: "ModelSession",
    sources: Sequence[str],
    targets: SinkOptions,
    *,
    batch_size: int | None,
    workers: int | None,
    exact: bool = False,
    files_from: str | None = None,
) -> int:
    """Number of files that could not be read, after classifying all of them.

    Args:
        session: The model.
        sources: Files, folders and patterns.
        targets: Targets of records and frames.
        batch_size: As for `classify_jobs`.
        workers: As for `classify_jobs`.
        exact: Whether large JPEGs are decoded at their full size.
        files_from: A list of further files, see `read_file_list`; None for none.

    Raises:
        SourceError: A source or the list is not there, or has no image.
        UsageError: Frames are to be shown or saved and there is no video, or an output would replace an input.
        OutputError: An output cannot be written; nothing is left under its name.
    """
    listed = [] if files_from is None else read_file_list(files_from)
    jobs = source_jobs(sources, listed=listed, reduce_for=None if exact else session.spec.preprocess)
    if targets.wants_frames and not jobs.has_videos:
        raise UsageError(
            "nothing to show or save", got="still images", expected="a video or a camera for --show and --save"
        )
    check_targets({"--out": targets.out, "--save": targets.save}, [session.path, *jobs.paths])
    widest = max(len(str(path)) for path in jobs.paths) + (len("#99999") if jobs.has_videos else 0)
    started = time.perf_counter()
    done = errors = 0
    with (
        _telling_of_interruption(targets, lambda: done),
        record_output(targets, is_kept=lambda: done > 0) as emit,
        # A progress bar and records in one terminal would overwrite each other.
        progress_bar(enabled=not targets.fills_terminal) as progress,
        frame_view(targets, lambda: jobs.fps) as view,
    ):
        writer = make_writer(targets, emit, widest)
        pending_bgr: deque[UInt8Array | None] = deque()
        pulled = _until(iter(jobs), targets.max_frames, targets.duration_s)
        if targets.wants_frames:
            pulled = _keeping_frames(pulled, pending_bgr)
        outcomes = classify_jobs(session, pulled, batch_size=batch_size, workers=workers)
        for outcome in outcomes:
            writer.write(outcome)
            done += 1
            errors += outcome.error is not None
            progress("infer", done, max(done, min(jobs.expected, targets.max_frames or jobs.expected)))
            if pending_bgr and outcome.frame is not None:
                frame_bgr = pending_bgr.popleft()
                is_shown = frame_bgr is not None and outcome.prediction is not None
                if is_shown and not view(frame_bgr, outcome.prediction):
                    break
    for text in (*jobs.warnings, unread_sentence(jobs.not_read, "the folders")):
        if text is not None:
            warn(text)
    seconds = time.perf_counter() - started
    note(f"{done} images in {seconds:.1f} s ({done / seconds:.1f} images/s) on {session.provider}, {outcomes.strategy}")
    return errors


@contextlib.contextmanager
def _telling_of_interruption(targets: SinkOptions, count: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if targets.out is not None:
            kept = f"{targets.out} has the records of these" if count() else f"{targets.out} is not written"
            note(f"interrupted after {count()} images; {kept}")
        raise


def _until(jobs: Iterator[Job], max_frames: int | None, duration_s: float | None) -> Iterator[Job]:
    started = time.monotonic()
    for number, job in enumerate(jobs):
        yield job
        if max_frames is not None and number + 1 >= max_frames:
            return
        if duration_s is not None and time.monotonic() - started >= duration_s:
            return


def _keeping_frames(jobs: Iterator[Job], pending_bgr: "deque[UInt8Array | None]") -> Iterator[Job]:
    """Yields the jobs and keeps the frames of videos for the view, in the order of the results.

    Each frame is kept until its result is there, as many as the pipeline holds anyway; None stands for those that cannot be
    decoded.
    """
    for job in jobs:
        if job.frame is not None:
            try:
                pending_bgr.append(job.load())
            except EdgeclfError:
                pending_bgr.append(None)
        yield job
