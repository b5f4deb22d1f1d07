"""`edgeclf info`: the description of a model file, or of the devices that work here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, print_result, print_table, progress_bar, warn
from edgeclf.toolkit.foreign import no_options, options_for, takes_foreign_files
from edgeclf.toolkit.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeclf.runtime import ForeignModel
    from edgeclf.runtime.session.device_report import DeviceReport


@takes_foreign_files
def info(
    model: Annotated[Path | None, typer.Argument(help="The .onnx file.", show_default=False)] = None,
    devices: Annotated[
        bool,
        typer.Option(
            "--devices", help="Instead of a file: open every device that --device knows, and say what is missing."
        ),
    ] = False,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
) -> None:
    """Say what a model file is: labels, input, precision, how it was trained, quantized and verified."""
    from edgeclf.runtime.errors import UsageError

    if devices == (model is not None):
        raise UsageError("nothing to describe", got="both" if devices else "neither", expected="a model or --devices")
    if model is None:
        _describe_devices(as_json=as_json)
    else:
        given = foreign or no_options()
        if options_for(model, given) is None:
            _describe_model(model, given, as_json=as_json)
        else:
            _describe_foreign(model, given, as_json=as_json)


def _describe_devices(*, as_json: bool) -> None:
    from edgeclf.runtime.session.device_report import probe_devices

    with progress_bar() as progress:
        report = probe_devices(progress=progress)
    for first, second in report.clashing_packages:
        warn(f"{first} and {second} are both installed and overwrite each other: uninstall both, then install one")
    if as_json:
        print_json(report.to_json())
    else:
        _print_devices(report)


def _print_devices(report: "DeviceReport") -> None:
    from edgeclf.runtime.session.devices import AUTO_ORDER

    print_result(f"ONNX Runtime {report.version} with {', '.join(report.providers)}")
    rows = [
        [item.device, item.state, "-" if item.seconds is None else f"{item.seconds:.1f} s", item.reason or "", item.do]
        for item in report.devices
    ]
    print_table("", ["device", "state", "opened in", "why", "what to do"], rows, numeric=False)
    print_result(f"--device auto takes {report.auto} (the first that works of {', '.join(AUTO_ORDER)}, cpu)")
    note("Each was opened in a process of its own and ran one convolution. The rest runs only when it is named.")


def _describe_foreign(model: Path, given: "ForeignModel", *, as_json: bool) -> None:
    """Describes a file without a spec; runs it only where all else is known and its graph does not show its output's kind."""
    import dataclasses

    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.session.foreign.resolution import resolve_foreign
    from edgeclf.runtime.session.graph_outline import read_graph_outline

    outline = read_graph_outline(model)
    use = resolve_foreign(model, outline, given)
    if not use.missing and (use.activation is None or use.classes is None):
        use = ModelSession(model, device="cpu", foreign=given).use or use
    producer = f"{outline.producer_name} {outline.producer_version}".strip()
    document: dict[str, Any] = {
        "file": str(model),
        "bytes": model.stat().st_size,
        "has_spec": False,
        "producer": producer or None,
        "opset": outline.opsets.get(""),
        "used_as": use.to_json(),
        "spec": None if use.missing or use.labels is None else dataclasses.asdict(use.spec),
    }
    if as_json:
        print_json(document)
        return
    image_input = use.input
    written = " by ".join(text for text in (f"opset {document['opset']}", producer) if text)
    rows = [
        ["file", f"{model} ({document['bytes'] / 1e6:.2f} MB)", ""],
        ["format", f"ONNX {written}, without an edgeclf spec", ""],
        ["input", f"{image_input.name}: {image_input.dtype} {image_input.shape_text()}", "found in the graph"],
        *([name, value, origin or "missing"] for name, value, origin in use.parts()),
    ]
    print_table("", ["", "", "from"], rows, numeric=False)
    for text in use.notes:
        note(text)
    for item in use.missing:
        print_result(f"missing: the file {item.what}; pass {item.options}")


def _describe_model(model: Path, given: "ForeignModel", *, as_json: bool) -> None:
    import dataclasses

    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.session.devices import clashing_packages

    session = ModelSession(model, device="cpu", foreign=given)
    spec = session.spec
    document: dict[str, Any] = {
        "file": str(model),
        "bytes": model.stat().st_size,
        "has_spec": True,
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
    rows.append(["self-test", _self_test(spec.self_test)])
    if spec.dataset_fingerprint:
        rows.append(["data set", spec.dataset_fingerprint])
    if spec.seen_images is not None:
        from edgeclf.training.data.seen_images import images_of_record

        splits = list(images_of_record(spec.seen_images).short.values())
        rows.append(["knows again", f"{splits.count('train')} training and {splits.count('val')} validation images"])
    print_table("", ["", ""], rows, numeric=False)


def _self_test(record: "Mapping[str, Any] | None") -> str:
    inputs = None if record is None else record.get("inputs")
    return f"{len(inputs)} inputs: edgeclf verify MODEL" if isinstance(inputs, list) else "none"


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
