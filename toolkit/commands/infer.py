"""`edgeclf infer`: images, folders, videos and cameras through a model."""

import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, progress_bar, warn
from edgeclf.toolkit.infer_output import OUTPUT_FORMATS, OutputFormat, frame_view, make_writer, record_output
from edgeclf.toolkit.options import (
    DeviceOption,
    IgnoreUnreadableOption,
    LabelsOption,
    MeanOption,
    StdOption,
    ThreadsOption,
    model_arguments,
)
from edgeclf.toolkit.other_cpu import warn_of_other_cpu

if TYPE_CHECKING:
    from edgeclf.runtime.pipeline import Job, Outcome
    from edgeclf.runtime.session import ModelSession


def infer(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Images, folders (searched recursively), quoted globs, videos.", show_default=False),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            help="0, /dev/video0, http://… or rtsp://…: the newest frame, again and again.",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Classes in a record.")] = 1,
    output_format: Annotated[str, typer.Option("--format", help="table, jsonl or csv.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the records to a file; it appears when complete, a camera's grows.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in one inference.")] = 8,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Threads that decode. Default: usable CPUs.", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", min=1, help="End after so many images or frames.", show_default=False)
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", min=0.0, help="End after so many seconds.", show_default=False)
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show annotated frames of a camera or video in a window.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write annotated frames of a camera or video to a video file.", show_default=False),
    ] = None,
    reconnects: Annotated[
        int, typer.Option("--reconnects", min=0, help="How often in a row a lost camera is opened anew.")
    ] = 5,
    labels: LabelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
) -> None:
    """Classify images, folders, videos or a camera; records to stdout, everything else to stderr."""
    # FFmpeg and OpenCV write about damaged files to stderr by themselves; those files get a record of their own.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import UsageError
    from edgeclf.runtime.session import ModelSession

    formats: dict[str, OutputFormat] = {name: name for name in OUTPUT_FORMATS}
    chosen = formats.get("jsonl" if as_json else output_format)
    if chosen is None:
        raise UsageError(
            f"unknown format {output_format!r}", expected=" or ".join(OUTPUT_FORMATS), do="choose one of them"
        )
    if (camera is None) == (not sources):
        raise UsageError(
            "nothing to classify" if camera is None else "both a camera and sources are named",
            expected="either SOURCE... or --camera",
            do="see edgeclf infer --help",
        )
    session = ModelSession(model, device=device, threads=threads, **model_arguments(labels, mean, std))
    warn_of_other_cpu(model, session.spec, cpu_info())
    limits = _Limits(max_frames, duration)
    if camera is not None:
        with _terminated_like_interrupted(), record_output(out, grows=True) as emit:
            _infer_camera(session, camera, emit, chosen, top_k, limits, show=show, save=save, reconnects=reconnects)
        return
    errors = _infer_sources(
        session,
        sources or [],
        out,
        chosen,
        top_k,
        limits,
        batch_size=batch_size,
        workers=workers,
        show=show,
        save=save,
    )
    _end_with_errors(errors, ignore=ignore_unreadable)


class _Limits:
    """When to stop pulling images."""

    def __init__(self, max_frames: int | None, duration_s: float | None) -> None:
        self.max_frames = max_frames
        self.duration_s = duration_s

    def apply(self, jobs: "Iterator[Job]") -> "Iterator[Job]":
        started = time.monotonic()
        for number, job in enumerate(jobs):
            if self.max_frames is not None and number >= self.max_frames:
                return
            if self.duration_s is not None and time.monotonic() - started >= self.duration_s:
                return
            yield job


def _infer_sources(
    session: "ModelSession",
    sources: list[str],
    out: Path | None,
    output_format: OutputFormat,
    top_k: int,
    limits: _Limits,
    *,
    batch_size: int,
    workers: int | None,
    show: bool,
    save: Path | None,
) -> int:
    """Classifies files; gives the number of those that could not be read."""
    from edgeclf.runtime.errors import UsageError
    from edgeclf.runtime.pipeline import classify_jobs
    from edgeclf.runtime.sources import source_jobs

    jobs = source_jobs(sources)
    if (show or save is not None) and jobs.count is not None:
        raise UsageError(
            "nothing to show or save", got="still images", expected="a video or a camera for --show and --save"
        )
    widest = max(len(str(path)) for path in jobs.paths) + (0 if jobs.count is not None else 7)
    started = time.perf_counter()
    done = errors = 0
    # A bar and a table in one terminal would write over each other.
    bar = progress_bar(enabled=out is not None or not sys.stdout.isatty())
    total = jobs.count if limits.max_frames is None else min(jobs.count or limits.max_frames, limits.max_frames)
    with (
        record_output(out, grows=False) as emit,
        bar as progress,
        frame_view(show, save, lambda: jobs.fps, real_time=False) as view,
    ):
        writer = make_writer(output_format, emit, top_k, widest)
        kept: deque[Any] = deque()
        pulled = limits.apply(iter(jobs))
        if show or save is not None:
            pulled = _keeping_frames(pulled, kept)
        for outcome in classify_jobs(session, pulled, batch_size=batch_size, workers=workers):
            writer.write(outcome)
            done += 1
            errors += outcome.error is not None
            if total is not None:
                progress("infer", done, total)
            if kept and outcome.frame is not None and not view(kept.popleft(), outcome.prediction, 0.0):
                break
    for text in jobs.warnings:
        warn(text)
    seconds = time.perf_counter() - started
    note(f"{done} images in {seconds:.1f} s ({done / seconds:.1f} images/s) on {session.provider}")
    return errors


def _infer_camera(
    session: "ModelSession",
    source: str,
    emit: Callable[[str], object],
    output_format: OutputFormat,
    top_k: int,
    limits: _Limits,
    *,
    show: bool,
    save: Path | None,
    reconnects: int,
) -> None:
    from edgeclf.runtime.camera import Camera
    from edgeclf.toolkit.infer_camera import CameraRun

    with (
        Camera(source, reconnects=reconnects, on_event=warn) as camera,
        frame_view(show, save, lambda: camera.fps, real_time=True) as view,
    ):
        # In a terminal the live line shows the results already.
        quiet = output_format == "table" and sys.stdout.isatty()
        write = _ignore if quiet else make_writer(output_format, emit, top_k, len(source) + 8).write
        CameraRun(session, camera, write, view, limits.max_frames, limits.duration_s).run()


def _ignore(_outcome: "Outcome") -> None:
    pass


def _keeping_frames(jobs: "Iterator[Job]", kept: deque[Any]) -> "Iterator[Job]":
    """Passes jobs on and keeps the frames of videos for the view, in the order of the results.

    Each frame is kept as long as its result takes: as many as the pipeline holds anyway.
    """
    for job in jobs:
        if job.frame is not None:
            kept.append(job.load())
        yield job


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Lets SIGTERM end a camera as Ctrl-C does: with its files complete and its summary said."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with_errors(errors: int, *, ignore: bool) -> None:
    from edgeclf.runtime.errors import InputError

    if errors and not ignore:
        raise InputError(
            f"{errors} of the images could not be read; each has a record that says why",
            do="mend or remove them, or pass --ignore-unreadable",
        )
