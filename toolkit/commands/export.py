"""`edgeclf export`: a trained run becomes one verified `.onnx` file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar
from edgeclf.toolkit.options import (
    CacheFolderOption,
    IgnoreUnreadableOption,
    JsonOption,
    MaxAccuracyDropOption,
    MinAgreementOption,
)

if TYPE_CHECKING:
    from edgeclf.export.exporter import ExportReport


def export(
    run: Annotated[Path, typer.Argument(help="The run folder that edgeclf train wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.", show_default=False)],
    precision: Annotated[str, typer.Option("--precision", help="fp32 or int8.")] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Where the training images are now, if they have moved.", show_default=False),
    ] = None,
    min_agreement: MinAgreementOption = 0.99,
    max_accuracy_drop: MaxAccuracyDropOption = 0.01,
    calibration_images: Annotated[
        int, typer.Option("--calibration-images", min=1, help="int8: training images that set the activation ranges.")
    ] = 256,
    cache_folder: CacheFolderOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one .onnx file, verified on held-out images against the trained network; nothing if it differs."""
    from edgeclf.export.exporter import PRECISIONS, ParityGateError, export_classifier
    from edgeclf.export.parity import int8_limits
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.labelled import end_with_unreadable
    from edgeclf.toolkit.run_images import load_run_images
    from edgeclf.training.run_folder import load_run

    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", expected=" or ".join(PRECISIONS), do="choose one of them")
    loaded = load_run(run)
    with progress_bar(enabled=not as_json) as progress:
        images = load_run_images(loaded, data, cache_folder, progress)
        network = loaded.load_model()
        failure: ParityGateError | None = None
        try:
            report = export_classifier(
                network,
                loaded.spec,
                out,
                precision=precision,
                held_out=images.held_out,
                calibration_rgb=images.sample_training(calibration_images) if precision == "int8" else images.nothing,
                int8_limits=int8_limits(min_agreement, max_accuracy_drop),
                progress=progress,
            )
        except ParityGateError as error:
            report, failure = error.report, error
    _show(report, as_json=as_json)
    if failure is not None:
        raise failure
    note(f"wrote {out}; next: edgeclf infer {out} IMAGES, or edgeclf bench {out}")
    end_with_unreadable(images.unreadable, ignore=ignore_unreadable)


def _show(report: "ExportReport", *, as_json: bool) -> None:
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.toolkit.parity_view import print_export

    if not as_json:
        print_export(report, cpu_info().model)
        return
    candidates: list[dict[str, Any]] = [
        {
            "precision": candidate.precision,
            "file_bytes": candidate.file_bytes,
            "parity": [facts.to_json() for facts in candidate.parity],
            "failures": list(candidate.failures),
            "latency": None if candidate.latency is None else candidate.latency.to_json(),
        }
        for candidate in report.candidates
    ]
    print_json(
        {
            "out": str(report.out),
            "written": report.written,
            "precision": report.precision,
            "candidates": candidates,
            "recommendation": {"precision": report.recommendation.precision, "reason": report.recommendation.reason},
            "cpu": cpu_info().to_json(),
        }
    )
