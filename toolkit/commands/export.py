"""`edgeclf export`: a trained run becomes one verified `.onnx` file."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar, warn
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    CacheFolderOption,
    CacheSizeOption,
    IgnoreUnreadableOption,
    JsonOption,
    MaxAccuracyDropOption,
    MinAgreementOption,
    given_limits,
    output_file,
    output_png,
)

if TYPE_CHECKING:
    from edgeclf.export import Candidate, ExportOptions, ExportReport

_ENTRANCES = ("auto", "int8")
# Fewer images leave ranges and corrections to chance.
_FEW_IMAGES = 100


def export(
    run: Annotated[Path, typer.Argument(help="The run folder that edgeclf train wrote.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The .onnx file to write.",
            parser=output_file("model.onnx"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ],
    precision: Annotated[str, typer.Option("--precision", help="fp32, int8, or fp16 for GPUs.")] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The data set of the run, if it has moved since.", show_default=False),
    ] = None,
    min_agreement: MinAgreementOption = None,
    max_accuracy_drop: MaxAccuracyDropOption = None,
    calibration_images: Annotated[
        int,
        typer.Option("--calibration-images", min=1, help="int8: training images that activation ranges are fitted to."),
    ] = 256,
    effort: Annotated[
        str,
        typer.Option(
            "--effort", help="int8: quick, normal or max: how many recipes are tried, and on how many images."
        ),
    ] = "normal",
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="int8: the CPUs that the file is for: any (the same result on all), x86-avx2, x86-vnni or arm64 (full 8-bit "
            "weights for the last two), or this, the kind of this machine's CPU. After a comma, those to try where nothing "
            "else passes: any,this.",
        ),
    ] = "any",
    keep_float: Annotated[
        list[str] | None,
        typer.Option("--keep-float", help="int8, fp16: name of a layer to keep in float; may be repeated."),
    ] = None,
    entrance: Annotated[
        str,
        typer.Option(
            "--entrance",
            help="int8: auto keeps the first layers in float (a float prefix) as far as that is no slower, for a --target of "
            "this CPU's kind, and for others where nothing else passes; int8 never does, and with --target any keeps every "
            "layer out of float: a portable file or none; a number is how many first layers stay in float: closer to float, "
            "slower, not portable.",
            metavar="auto|int8|N",
        ),
    ] = "auto",
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget-s", min=0.0, help="int8: seconds after which no further recipe is tried.", show_default=False
        ),
    ] = None,
    or_fp32: Annotated[
        bool,
        typer.Option(
            "--or-fp32", help="int8: where nothing passes, write the fp32 file, with exit code 0, and say so."
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="int8: a PNG of the recipes' latency and agreement.",
            parser=output_png("--plot", "recipes.png"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="int8: try every recipe again, also those that an earlier export has tried."),
    ] = False,
    cache_folder: CacheFolderOption = None,
    cache_size: CacheSizeOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one .onnx file, verified against the trained network on held-out images; nothing if it differs."""
    from edgeclf.export import DEFAULT_RULE, ExportOptions, ParityGateError, export_classifier
    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.export.int8.qat_ranges import lacks_weight_scales
    from edgeclf.runtime.errors import UsageError, command_line
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable
    from edgeclf.training import load_run

    if entrance not in _ENTRANCES and not entrance.isdecimal():
        expected = f"{', '.join(_ENTRANCES)} or a number of layers"
        raise UsageError(f"unknown entrance {entrance!r}", expected=expected, hint="choose one of them")
    options = ExportOptions(
        # Any text is accepted here: what is none of the choices is refused with a sentence.
        precision=cast("Any", precision),
        limits=given_limits(min_agreement, max_accuracy_drop) or DEFAULT_RULE,
        effort=cast("Any", effort),
        target=target,
        calibration_images=calibration_images,
        keep_float=tuple(keep_float or ()),
        float_prefix=entrance != "int8",
        first_in_float=int(entrance) if entrance.isdecimal() else None,
        budget_s=math.inf if budget_s is None else budget_s,
        or_fp32=or_fp32,
    )
    _check_precision(
        options,
        {
            "--effort": effort != "normal",
            "--target": target != "any",
            "--entrance": entrance != "auto",
            "--budget-s": budget_s is not None,
            "--or-fp32": or_fp32,
            "--plot": plot is not None,
            "--fresh": fresh,
        },
    )
    cache = chosen_cache_folder(cache_folder, cache_size)
    opened = load_run(run)
    failure: ParityGateError | None = None
    with progress_bar(enabled=not as_json) as progress:
        images = opened.load_images(data, cache_folder=cache, progress=progress)
        classifier = opened.load_classifier()
        count = min(options.max_calibration_images, len(images.training_rgb or ()))
        if precision == "int8" and count < _FEW_IMAGES:
            warn(
                f"int8 is fitted to {count} training images; with fewer than {_FEW_IMAGES} its ranges and corrections may "
                "not hold for others: check the figures on test images"
            )
        if precision == "int8" and lacks_weight_scales(opened.spec.training):
            warn(
                "this run was trained for 8 bits by a version that did not record its weight scales: they are chosen anew; "
                "for those that were trained, train it again with --from RUN --qat"
            )
        try:
            report = export_classifier(
                classifier,
                images,
                out,
                options,
                cache_folder=None if fresh else cache,
                progress=progress,
            )
        except ParityGateError as error:
            report, failure = error.report, error
    if plot is not None:
        from edgeclf.toolkit.reports.plots import plot_recipes

        plot_recipes(_points(report), min_agreement, plot)
    _show(report, as_json=as_json)
    if report.written_precision != precision:
        _note_ways_out(report, options, run, data or run / "split.csv")
    if failure is not None:
        raise failure
    _say_what_was_written(report, options)
    note(f"wrote {out}; next: {command_line('infer', out, 'IMAGES')}, or {command_line('bench', out)}")
    end_with_unreadable(images.unreadable, ignore=ignore_unreadable)


def _say_what_was_written(report: "ExportReport", options: "ExportOptions") -> None:
    last = report.candidates[-1]
    if report.written_precision != report.precision:
        warn(f"{report.out} is the fp32 file, as --or-fp32 asks: no int8 file passes ({'; '.join(last.failures)})")
        return
    if last.verdict.doubts:
        note(f"undecided: {'; '.join(last.verdict.doubts)}")
    if last.portable is False and options.targets[0] == "any" and not options.names_float_layers:
        warn(
            f"{report.out} is not portable: {last.portable_reason}. Nothing portable passed; on another kind of CPU check it "
            "with edgeclf verify, or pass --entrance int8 for a portable file or none"
        )


def _note_ways_out(report: "ExportReport", options: "ExportOptions", run: Path, data: Path) -> None:
    """Says what would pass, or might, with its cost where that was measured."""
    from dataclasses import replace

    from edgeclf.export.verify.verdict import limits_that_pass
    from edgeclf.runtime.errors import command_line

    fp32 = report.candidates[0]
    if fp32.failures or report.precision != "int8":
        return
    closest = report.closest
    if closest is report.recipes[0]:
        # The only one that was timed.
        closest = replace(report.candidates[-1], name=closest.name)
    note("What passes, or may:")
    if report.written_precision is None:
        note(f"- --or-fp32: the fp32 file, {_cost(fp32, fp32)}")
    if limits := limits_that_pass(closest.parity[0]):
        note(f"- {' '.join(limits)}: {closest.name}, {_cost(closest, fp32)}")
    if len(options.targets) == 1 and options.recipe.pair_constraint:
        note("- --target this (or another kind of CPU, see --help): not tried; the file is for such CPUs alone")
    if not report.trained_in_8_bits:
        again = command_line("train", data, "--from", run, "--qat", "--run", run.with_name(f"{run.name}-qat"))
        note(f"- {again}: trains the network for 8 bits, was not tried; export that run then")


def _cost(candidate: "Candidate", fp32: "Candidate") -> str:
    latency = candidate.latency
    time = "" if latency is None else f", {latency.median_ms:.2f} ms ({latency.ratio:.2f}x of fp32) here"
    size = candidate.file_bytes / fp32.file_bytes
    return f"same label {candidate.parity[0].agreement:.4f}, {candidate.file_bytes / 1e6:.2f} MB ({size:.2f}x){time}"


def _check_precision(options: "ExportOptions", given: dict[str, bool]) -> None:
    """Refuses options that have no effect on a precision.

    Args:
        options: The options.
        given: The options of the command line that are about int8 alone, and whether each is given.
    """
    from edgeclf.runtime.errors import UsageError

    got = f"--precision {options.precision}"
    if options.keep_float and options.precision == "fp32":
        raise UsageError("--keep-float is about int8 and fp16", got=got, expected="--precision int8 or fp16")
    for flag, is_given in given.items():
        if is_given and options.precision != "int8":
            raise UsageError(f"{flag} is about int8", got=got, expected="--precision int8")


def _show(report: "ExportReport", *, as_json: bool) -> None:
    from edgeclf.export.verify.verdict import limits_record
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.toolkit.reports.parity import print_export

    if not as_json:
        print_export(report, cpu_info().model)
        return
    print_json(
        {
            "out": str(report.out),
            "written": report.written,
            "precision": report.precision,
            "written_precision": report.written_precision,
            "limits": limits_record(report.limits),
            "candidates": [{"precision": item.name, **_figures(item)} for item in report.candidates],
            "reused_recipes": report.reused_recipes,
            "recipes": [{"name": item.name, **_figures(item)} for item in report.recipes],
            "recommendation": {"precision": report.recommendation.precision, "reason": report.recommendation.reason},
            "cpu": cpu_info().to_json(),
        }
    )


def _figures(candidate: "Candidate") -> dict[str, Any]:
    return {
        "file_bytes": candidate.file_bytes,
        "parity": [facts.to_json() for facts in candidate.parity],
        "failures": list(candidate.failures),
        "portable": candidate.portable,
        "portable_reason": candidate.portable_reason,
        "verdict": candidate.verdict.to_json(),
        "rejection": None if candidate.rejection is None else candidate.rejection.to_json(),
        "latency": None if candidate.latency is None else candidate.latency.to_json(),
    }


def _points(report: "ExportReport") -> list[tuple[str, float, float, bool]]:
    """Name, latency ratio to fp32, agreement, and whether it is on the Pareto front, of fp32 and of each timed recipe."""
    from edgeclf.export import pareto_front

    timed = [item for item in (report.candidates[0], *report.recipes) if item.latency is not None]
    front = pareto_front(timed)
    return [
        (item.name, item.latency.ratio, item.parity[0].agreement, position in front)
        for position, item in enumerate(timed)
        if item.latency is not None
    ]
