"""`edgeclf info`: the description of a model file, or of the devices that work here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, print_result, print_table, progress_bar, warn
from edgeclf.toolkit.foreign import no_options, options_for, refuse_idle_keras_options, takes_foreign_files
from edgeclf.toolkit.options import CustomObjectsOption, JsonOption, SignatureOption, UnsafeLoadOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeclf.export.source.keras_files.kinds import KerasOptions
    from edgeclf.runtime import ForeignModel, ModelSpec
    from edgeclf.runtime.session.device_report import DeviceReport
    from edgeclf.runtime.session.foreign.use import ModelUse


@takes_foreign_files
def info(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="The .onnx file; or a .keras or .h5 file, a SavedModel folder, or module:name of a Keras model.",
            show_default=False,
        ),
    ] = None,
    devices: Annotated[
        bool,
        typer.Option(
            "--devices", help="Instead of a file: open every device that --device knows, and say what is missing."
        ),
    ] = False,
    custom_objects: CustomObjectsOption = None,
    signature: SignatureOption = None,
    unsafe_load: UnsafeLoadOption = False,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
) -> None:
    """Say what a model file is: labels, input, precision, how it was trained, quantized and verified."""
    from edgeclf.export.source.keras_files.kinds import KerasOptions, keras_kind
    from edgeclf.runtime.errors import UsageError

    keras = KerasOptions(custom_objects, signature, is_trusted=unsafe_load)
    refuse_idle_keras_options(keras, model or "--devices")
    if devices == (model is not None):
        raise UsageError("nothing to describe", got="both" if devices else "neither", expected="a model or --devices")
    given = foreign or no_options()
    if model is None:
        if not given.is_empty:
            raise UsageError("options of a model file do nothing with --devices", hint="leave them out")
        _describe_devices(as_json=as_json)
    elif keras_kind(model) is not None:
        _describe_keras(model, given, keras, as_json=as_json)
    elif options_for(model, given) is None:
        _describe_model(model, given, as_json=as_json)
    else:
        _describe_foreign(model, given, as_json=as_json)


def _describe_devices(*, as_json: bool) -> None:
    from edgeclf.runtime.session.known_traps import known_traps

    traps = known_traps()
    # Before ONNX Runtime is imported, which ends this process in one of them.
    for trap in traps:
        warn(trap)
    from edgeclf.runtime.session.device_report import probe_devices

    with progress_bar() as progress:
        report = probe_devices(progress=progress)
    for first, second in report.clashing_packages:
        warn(f"{first} and {second} are both installed and overwrite each other: uninstall both, then install one")
    if as_json:
        print_json({**report.to_json(), "traps": list(traps)})
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
    written = " by ".join(text for text in (f"opset {document['opset']}", producer) if text)
    _print_use(f"{model} ({document['bytes'] / 1e6:.2f} MB)", f"ONNX {written}, without an edgeclf spec", use)


def _describe_keras(model: Path, given: "ForeignModel", keras: "KerasOptions", *, as_json: bool) -> None:
    """Describes a Keras model that others made, by its graph; runs it where that does not show its output's kind."""
    import dataclasses

    from edgeclf.export.source.keras_files.kinds import keras_kind
    from edgeclf.export.source.keras_files.source import open_keras_model

    kind = keras_kind(model)
    opened = open_keras_model(model, given, keras)
    network, use = opened.network, opened.use
    size = sum(file.stat().st_size for file in ([model] if model.is_file() else model.rglob("*")) if file.is_file())
    document: dict[str, Any] = {
        "file": str(model),
        "bytes": size or None,
        "has_spec": False,
        "kind": kind,
        "producer": network.producer or None,
        "opened_with": network.runtime,
        "used_as": use.to_json(),
        "spec": None if use.missing or use.labels is None else dataclasses.asdict(use.spec),
    }
    if as_json:
        print_json(document)
        return
    by = f" by {network.producer}" if network.producer else ""
    _print_use(
        f"{model} ({size / 1e6:.2f} MB)" if size else str(model), f"{kind}{by}, opened with {network.runtime}", use
    )


def _print_use(file: str, written: str, use: "ModelUse") -> None:
    image_input = use.input
    rows = [
        ["file", file, ""],
        ["format", written, ""],
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
        *([] if spec.portable is None else [["same bits everywhere", _portability(spec)]]),
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
        ("made from", {key: value for key, value in (spec.source or {}).items() if key != "used_as"}),
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


def _portability(spec: "ModelSpec") -> str:
    return "yes: portable" if spec.portable else f"no: {spec.portable_reason}"


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
