"""`edgeclf export`: a trained run becomes one verified `.onnx` file."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar, warn
from edgeclf.toolkit.options import (
    CacheFolderOption,
    CacheSizeOption,
    IgnoreUnreadableOption,
    JsonOption,
    MaxAccuracyDropOption,
    MinAgreementOption,
)

if TYPE_CHECKING:
    from edgeclf.export.exporter import ExportReport
    from edgeclf.export.verify.recommend import Candidate

_ENTRANCES = ("auto", "int8")
# Images that the quick effort compares on, of each part, and calibrates on.
_QUICK_IMAGES, _QUICK_CALIBRATION = 400, 128
# Fewer images leave ranges and corrections to chance.
_FEW_IMAGES = 100


def export(
    run: Annotated[Path, typer.Argument(help="The run folder that edgeclf train wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.", show_default=False)],
    precision: Annotated[str, typer.Option("--precision", help="fp32, int8, or fp16 for GPUs.")] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Where the training images are now, if they have moved.", show_default=False),
    ] = None,
    min_agreement: MinAgreementOption = 0.99,
    max_accuracy_drop: MaxAccuracyDropOption = 0.01,
    calibration_images: Annotated[
        int, typer.Option("--calibration-images", min=1, help="int8: training images that set the activation ranges.")
    ] = 256,
    effort: Annotated[
        str,
        typer.Option("--effort", help="int8: how many recipes are tried, on how many images: quick, normal or max."),
    ] = "normal",
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="int8: where it will run: any (the same result on every CPU), x86-avx2, x86-vnni or arm64 (full 8-bit "
            "weights for the last two), or this CPU.",
        ),
    ] = "any",
    keep_float: Annotated[
        list[str] | None, typer.Option("--keep-float", help="int8, fp16: a layer to keep in float; may be repeated.")
    ] = None,
    entrance: Annotated[
        str,
        typer.Option(
            "--entrance",
            help="int8: auto keeps the first layers in float as far as that is no slower, for a --target of this CPU's kind; "
            "int8 never does.",
        ),
    ] = "auto",
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget-s", min=0.0, help="int8: seconds after which no other recipe is tried.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="int8: a PNG of what the recipes cost and keep.", show_default=False)
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="int8: try every recipe anew, also those that an earlier export has tried."),
    ] = False,
    cache_folder: CacheFolderOption = None,
    cache_size: CacheSizeOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one .onnx file, verified on held-out images against the trained network; nothing if it differs."""
    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.export.exporter import PRECISIONS, ParityGateError, export_classifier
    from edgeclf.export.int8.recipe import QuantizationRecipe
    from edgeclf.export.search.recipes import EFFORTS
    from edgeclf.export.targets import resolve_target, target_of
    from edgeclf.export.verify.parity import int8_limits
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable
    from edgeclf.toolkit.datasets.run_images import load_run_images, sample_held_out
    from edgeclf.training.qat.model import simulated_network
    from edgeclf.training.run.folder import load_run

    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", expected=", ".join(PRECISIONS), do="choose one of them")
    chosen_effort = next((known for known in EFFORTS if known == effort), None)
    if chosen_effort is None:
        raise UsageError(f"unknown effort {effort!r}", expected=" or ".join(EFFORTS), do="choose one of them")
    if entrance not in _ENTRANCES:
        raise UsageError(f"unknown entrance {entrance!r}", expected=" or ".join(_ENTRANCES), do="choose one of them")
    recipe = QuantizationRecipe(target=resolve_target(target, cpu_info()), keep_float=tuple(keep_float or ()))
    int8_only = {
        "--effort": effort != "normal",
        "--target": target != "any",
        "--entrance": entrance != "auto",
        "--budget-s": budget_s is not None,
        "--plot": plot is not None,
        "--fresh": fresh,
    }
    given = [flag for flag, is_given in int8_only.items() if is_given]
    if keep_float and precision == "fp32":
        raise UsageError(
            "--keep-float is about int8 and fp16", got="--precision fp32", expected="--precision int8 or fp16"
        )
    if given and precision != "int8":
        raise UsageError(f"{given[0]} is about int8", got=f"--precision {precision}", expected="--precision int8")
    cache = chosen_cache_folder(cache_folder, cache_size)
    loaded = load_run(run)
    with progress_bar(enabled=not as_json) as progress:
        images = load_run_images(loaded, data, cache, progress)
        network = loaded.load_model()
        is_quick = precision == "int8" and chosen_effort == "quick"
        wanted = min(calibration_images, _QUICK_CALIBRATION) if is_quick else calibration_images
        if precision == "int8" and min(wanted, len(images.training_rows)) < _FEW_IMAGES:
            warn(
                f"int8 is fitted to {min(wanted, len(images.training_rows))} training images; with fewer than "
                f"{_FEW_IMAGES} its ranges and corrections may not hold for others: check the figures on test images"
            )
        failure: ParityGateError | None = None
        try:
            report = export_classifier(
                network,
                loaded.spec,
                out,
                precision=precision,
                held_out=sample_held_out(images.held_out, _QUICK_IMAGES) if is_quick else images.held_out,
                calibration_rgb=images.sample_training(wanted) if precision == "int8" else images.nothing,
                int8_limits=int8_limits(min_agreement, max_accuracy_drop),
                effort=chosen_effort,
                recipe=recipe,
                # What is faster on another kind of CPU cannot be timed on this one, and float sums come out a little
                # different on each, which a file for any CPU must not.
                float_entrance=entrance == "auto" and recipe.target == target_of(cpu_info()),
                budget_s=math.inf if budget_s is None else budget_s,
                kept_folder=None if fresh else cache,
                simulated=simulated_network(network, loaded.spec) if precision == "int8" else None,
                progress=progress,
            )
        except ParityGateError as error:
            report, failure = error.report, error
    if plot is not None:
        from edgeclf.toolkit.reports.plots import plot_recipes

        plot_recipes(_points(report), min_agreement, plot)
    _show(report, as_json=as_json)
    if failure is not None:
        raise failure
    note(f"wrote {out}; next: edgeclf infer {out} IMAGES, or edgeclf bench {out}")
    end_with_unreadable(images.unreadable, ignore=ignore_unreadable)


def _show(report: "ExportReport", *, as_json: bool) -> None:
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
            "candidates": [{"precision": item.precision, **_figures(item)} for item in report.candidates],
            "reused_recipes": report.reused_recipes,
            "recipes": [{"name": item.precision, **_figures(item)} for item in report.recipes],
            "recommendation": {"precision": report.recommendation.precision, "reason": report.recommendation.reason},
            "cpu": cpu_info().to_json(),
        }
    )


def _figures(candidate: "Candidate") -> dict[str, Any]:
    return {
        "file_bytes": candidate.file_bytes,
        "parity": [facts.to_json() for facts in candidate.parity],
        "failures": list(candidate.failures),
        "latency": None if candidate.latency is None else candidate.latency.to_json(),
    }


def _points(report: "ExportReport") -> list[tuple[str, float, float, bool]]:
    """Name, latency next to fp32, agreement, and whether none beats it, of fp32 and of each recipe that was timed."""
    from edgeclf.export.verify.recommend import pareto_front

    timed = [item for item in (report.candidates[0], *report.recipes) if item.latency is not None]
    front = pareto_front(timed)
    return [
        (item.precision, item.latency.ratio, item.parity[0].agreement, position in front)
        for position, item in enumerate(timed)
        if item.latency is not None
    ]
