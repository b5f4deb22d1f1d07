"""`edgeclf infer`: images, folders, videos and cameras through a model."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from edgeclf.toolkit.infer_output import OUTPUT_FORMATS, Delivery, OutputFormat
from edgeclf.toolkit.options import (
    DeviceOption,
    EngineCacheOption,
    IgnoreUnreadableOption,
    LabelsOption,
    MeanOption,
    ProviderOptionOption,
    StdOption,
    ThreadsOption,
    chosen_device,
    model_arguments,
)
from edgeclf.toolkit.other_cpu import warn_of_other_cpu

_BATCH_SIZE = 8
_RECONNECTS = 5


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
            help="0, /dev/video0, http://… or rtsp://…: the newest frame, again and again, until Ctrl-C.",
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
            help="Write the records to a file; it appears when complete, a camera's grows line by line.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=1, help=f"Images in one inference. Default: {_BATCH_SIZE}.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Threads that decode. Default: usable CPUs.", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
    provider_option: ProviderOptionOption = None,
    engine_cache: EngineCacheOption = None,
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
        int | None,
        typer.Option(
            "--reconnects",
            min=0,
            help=f"How often a lost camera is opened anew. Default: {_RECONNECTS}.",
            show_default=False,
        ),
    ] = None,
    labels: LabelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
) -> None:
    """Classify images, folders, videos or a camera; records to stdout, everything else to stderr."""
    # FFmpeg writes about damaged files to stderr by itself; those files get a record of their own.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import UsageError
    from edgeclf.runtime.session import ModelSession
    from edgeclf.toolkit.infer_camera import infer_camera
    from edgeclf.toolkit.infer_files import infer_files
    from edgeclf.toolkit.native_stderr import silenced_decoders

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
    _check_only_for("cameras", "--camera", camera is not None, {"--reconnects": reconnects})
    _check_only_for("files", "SOURCE...", camera is None, {"--batch-size": batch_size, "--workers": workers})
    session = ModelSession(
        model,
        device=chosen_device(device, provider_option, engine_cache),
        threads=threads,
        **model_arguments(labels, mean, std),
    )
    warn_of_other_cpu(model, session.spec, cpu_info())
    delivery = Delivery(chosen, top_k, out, show, save, max_frames, duration)
    with _terminated_like_interrupted(), silenced_decoders():
        if camera is not None:
            infer_camera(session, camera, delivery, _RECONNECTS if reconnects is None else reconnects)
            return
        errors = infer_files(session, sources or [], delivery, batch_size=batch_size or _BATCH_SIZE, workers=workers)
    _end_with_errors(errors, ignore=ignore_unreadable)


def _check_only_for(kind: str, wanted: str, is_kind: bool, options: dict[str, int | None]) -> None:
    from edgeclf.runtime.errors import UsageError

    for option, value in options.items():
        if value is not None and not is_kind:
            raise UsageError(f"{option} is for {kind}", expected=wanted, do="leave it out")


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Lets SIGTERM do what Ctrl-C does: end a camera with its summary, end files without leaving half a file."""

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
