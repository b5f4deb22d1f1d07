"""`edgeclf infer`: images, folders, videos and cameras through a model."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeclf.toolkit.foreign import note_use, takes_foreign_files
from edgeclf.toolkit.infer.records import OUTPUT_FORMATS, OutputFormat, SinkOptions
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    DeviceOption,
    EngineCacheOption,
    IgnoreUnreadableOption,
    ProviderOptionOption,
    ThreadsOption,
    chosen_device,
    output_file,
    refuse_idle,
)
from edgeclf.toolkit.reports.cpu_warning import warn_of_other_cpu
from edgeclf.toolkit.serve.cli_option import ServeHostOption, ServeOption, ServeTokenOption, preview_of

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel

_RECONNECTS = 5
_LOG_EVERY_S = 60.0


@takes_foreign_files
def infer(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Images, folders (searched recursively), quoted globs, videos.", show_default=False),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(
            "--files-from",
            metavar="FILE",
            help="A list of files, one a line or divided by NULs; - for stdin, as in find … -print0 | edgeclf infer … .",
            show_default=False,
        ),
    ] = None,
    cameras: Annotated[
        list[str] | None,
        typer.Option(
            "--camera",
            help="0, /dev/video0, http://…, rtsp://… or a video file at its own pace: the newest frame, again and "
            "again, until Ctrl-C. Several are read at once: --camera 0 --camera 1.",
            show_default=False,
        ),
    ] = None,
    camera_password_file: Annotated[
        Path | None,
        typer.Option(
            "--camera-password-file",
            help="A file with the password of cameras whose address has user@ or {password}, one for all or one a line. A list of "
            "processes shows addresses; this and the variable EDGECLF_CAMERA_PASSWORD stay hidden.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Classes in a record. Default: 1.", show_default=False)
    ] = None,
    output_format: Annotated[
        str | None, typer.Option("--format", help="table, jsonl or csv. Default: table.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the records to a file; it appears when complete or on Ctrl-C, a camera's lines are appended. - for stdout.",
            parser=output_file("records.jsonl", may_be_stdout=True),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images in one inference. Default: 4 on the CPU, 8 elsewhere; a video's frames one by one on the CPU.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Threads that decode, and infer where that is faster. Default: usable CPUs.",
            show_default=False,
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Decode large JPEGs at their full size, as training does, however slow that is."),
    ] = False,
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
        typer.Option(
            "--save",
            help="Write annotated frames of a camera or video to a video file; an earlier one of a camera gets its time as part of "
            "its name.",
            parser=output_file("annotated.mkv"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
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
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            min=0.001,
            help="Classify at most so many frames a second; ask a URL of one image so often (else once a second).",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", min=1, help="Classify only every so many frames.", show_default=False)
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin a --camera that is a file again at its end.")] = False,
    smooth: Annotated[
        float | None,
        typer.Option(
            "--smooth",
            min=0.0,
            help="Average a camera's probabilities over so many seconds (the time constant of an exponential mean).",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            min=0.0,
            help="A camera's label changes only when another is so much more probable, 0 to 1.",
            show_default=False,
        ),
    ] = None,
    hold: Annotated[
        float | None,
        typer.Option("--hold", min=0.0, help="... and has been so for so many seconds.", show_default=False),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            "--events",
            help="Append a JSON line to this file when a camera's label changes, it freezes, drops, ends ...; - for "
            "stdout, in place of the records.",
            parser=output_file("events.jsonl", may_be_stdout=True),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option("--webhook", help="POST each event as JSON to this URL, in the background.", show_default=False),
    ] = None,
    on_event: Annotated[
        str | None,
        typer.Option(
            "--on-event",
            help="Run this command for each event, without a shell: JSON on stdin, EDGECLF_EVENT, EDGECLF_LABEL ... set.",
            show_default=False,
        ),
    ] = None,
    freeze_after: Annotated[
        float | None,
        typer.Option(
            "--freeze-after",
            min=0.1,
            help="Say when a camera has given no new image for so many seconds. One that is repeated while the stream's time "
            "stamps go on (RTSP) is a still scene.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Take the model's file when it is replaced, after trying the new one.")
    ] = False,
    log_every: Annotated[
        float | None,
        typer.Option(
            "--log-every",
            min=0.0,
            help=f"A line of figures on stderr every so many seconds, 0 for none. Default: {_LOG_EVERY_S:g} where "
            "stderr is no terminal.",
            show_default=False,
        ),
    ] = None,
    serve: ServeOption = None,
    serve_token: ServeTokenOption = None,
    serve_host: ServeHostOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    foreign: "ForeignModel | None" = None,
) -> None:
    """Classify images, folders, videos or a camera; records to stdout, everything else to stderr."""
    # FFmpeg writes about damaged files to stderr by itself; those files get a record of their own.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from edgeclf.runtime import Classifier
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.infer.file_list import refuse_addresses

    formats: dict[str, OutputFormat] = {name: name for name in OUTPUT_FORMATS}
    chosen = formats.get("jsonl" if as_json else output_format or "table")
    if as_json and output_format not in {None, "jsonl"}:
        raise UsageError(
            f"--format {output_format} and --json name two formats", expected="one of them", hint="leave one out"
        )
    if chosen is None:
        raise UsageError(
            f"unknown format {output_format!r}", expected=" or ".join(OUTPUT_FORMATS), hint="choose one of them"
        )
    if bool(cameras) == bool(sources or files_from):
        raise UsageError(
            "both a camera and sources are named" if cameras else "nothing to classify",
            expected="either SOURCE... and --files-from, or --camera",
            hint="see edgeclf infer --help",
        )
    if sources:
        refuse_addresses(sources)
    only_for_cameras = {
        "--camera-password-file": camera_password_file,
        "--reconnects": reconnects,
        "--fps": fps,
        "--every": every,
        "--loop": loop or None,
        "--smooth": smooth,
        "--margin": margin,
        "--hold": hold,
        "--events": events,
        "--webhook": webhook,
        "--on-event": on_event,
        "--freeze-after": freeze_after,
        "--watch": watch or None,
        "--log-every": log_every,
        "--serve": serve,
        "--serve-token": serve_token,
        "--serve-host": serve_host or None,
    }
    _check_only_for("cameras", "--camera", bool(cameras), only_for_cameras)
    only_for_files = {
        "--batch-size": batch_size,
        "--workers": workers,
        "--exact": exact or None,
        "--ignore-unreadable": ignore_unreadable or None,
    }
    _check_only_for("files", "SOURCE...", not cameras, only_for_files)
    is_to_stdout = str(out) == "-"
    out = None if is_to_stdout else out
    if str(events) == "-" and out is None:
        refuse_idle(
            {"--out": is_to_stdout or None, "--top-k": top_k, "--format": output_format},
            "with --events -, which prints events in place of the records",
            hint="leave it out, or write the records to a file with --out",
        )
    targets = SinkOptions(chosen, top_k or 1, out, show, save, max_frames, duration)

    def open_classifier() -> Classifier:
        classifier = Classifier(
            model,
            device=chosen_device(device, provider_option, engine_cache),
            threads=threads,
            exact=exact,
            foreign=foreign,
        )
        note_use(classifier.session)
        warn_of_other_cpu(model, classifier.spec, cpu_info())
        return classifier

    if cameras:
        # Only here: files need no camera code.
        from edgeclf.runtime import Smoothing
        from edgeclf.runtime.live.source import parse_cameras
        from edgeclf.toolkit.infer.camera_passwords import camera_passwords
        from edgeclf.toolkit.infer.cameras import infer_cameras
        from edgeclf.toolkit.infer.options import LiveOptions

        options = LiveOptions(
            reconnects=_RECONNECTS if reconnects is None else reconnects,
            max_fps=fps,
            every=every or 1,
            loop=loop,
            smoothing=Smoothing(smooth or 0.0, margin or 0.0, hold or 0.0),
            freeze_after_s=freeze_after,
            log_every_s=(0.0 if sys.stderr.isatty() else _LOG_EVERY_S) if log_every is None else log_every,
            watch=watch,
            events=events,
            webhook=webhook,
            on_event=on_event,
        )
        named = parse_cameras(cameras, camera_passwords(camera_password_file, cameras, os.environ))
        if loop and not any(isinstance(source.opened, Path) for source in named):
            raise UsageError("--loop is for cameras that are files", expected="--camera FILE", hint="leave it out")
        if reconnects is not None and all(isinstance(source.opened, Path) for source in named):
            raise UsageError("--reconnects is for cameras that can come back", got="video files", hint="leave it out")
        classifier = open_classifier()
        with preview_of(classifier, named, serve, serve_token, serve_host, max_fps=fps) as preview:
            infer_cameras(classifier, named, targets, options, [] if preview is None else [preview])
        return
    from edgeclf.toolkit.infer.files import infer_files

    session = open_classifier().session
    errors = infer_files(
        session,
        sources or [],
        targets,
        batch_size=batch_size,
        workers=workers,
        exact=exact,
        files_from=files_from,
    )
    _end_with_errors(errors, ignore=ignore_unreadable)


def _check_only_for(kind: str, wanted: str, is_kind: bool, options: Mapping[str, object | None]) -> None:
    from edgeclf.runtime.errors import UsageError

    for option, value in options.items():
        if value is not None and not is_kind:
            raise UsageError(f"{option} is for {kind}", expected=wanted, hint="leave it out")


def _end_with_errors(errors: int, *, ignore: bool) -> None:
    from edgeclf.runtime.errors import InputError

    if errors and not ignore:
        raise InputError(
            f"{errors} of the images could not be read or classified; each has a record that says why",
            hint="fix or remove them, or pass --ignore-unreadable",
        )
