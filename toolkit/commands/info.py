"""`edgeclf info`: what a model file is, without classifying anything."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeclf.toolkit.console import print_json, print_table, warn
from edgeclf.toolkit.options import JsonOption, LabelsOption, MeanOption, StdOption, model_arguments


def info(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    labels: LabelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a model file is: labels, input, precision, how it was trained, quantized and verified."""
    import dataclasses

    from edgeclf.runtime.devices import clashing_packages
    from edgeclf.runtime.session import ModelSession

    session = ModelSession(model, device="cpu", **model_arguments(labels, mean, std))
    spec = session.spec
    document: dict[str, Any] = {
        "file": str(model),
        "bytes": model.stat().st_size,
        "has_spec": not session.is_foreign,
        "input": {"shape": [session.fixed_batch or "N", *spec.preprocess.size_hw, 3], "colour": "RGB"},
        "spec": dataclasses.asdict(spec),
    }
    for first, second in clashing_packages():
        warn(f"{first} and {second} are both installed and overwrite each other: uninstall both, then install one")
    if as_json:
        print_json(document)
        return
    rows = [
        ["file", f"{model} ({document['bytes'] / 1e6:.2f} MB)"],
        ["architecture", spec.architecture],
        ["precision", spec.precision],
        ["classes", f"{len(spec.labels)}: {_shortened(list(spec.labels))}"],
        ["input", f"{'x'.join(str(side) for side in document['input']['shape'])} RGB, {spec.preprocess.key}"],
    ]
    if spec.temperature != 1.0:
        rows.append(["temperature", f"{spec.temperature:g}"])
    if spec.rejection_threshold is not None:
        rows.append(["unknown below", f"{spec.rejection_threshold:g}"])
    for name, facts in (
        ("quantization", spec.quantization),
        ("training", spec.training),
        ("parity", spec.parity),
        ("latency", spec.latency),
        ("made with", spec.package_versions),
    ):
        rows.extend([f"{name} {key}", _text(value)] for key, value in (facts or {}).items())
    if spec.dataset_fingerprint:
        rows.append(["data set", spec.dataset_fingerprint])
    print_table("", ["", ""], rows, numeric=False)


def _shortened(labels: list[str], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (f", … ({len(labels) - most} more)" if len(labels) > most else "")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)
