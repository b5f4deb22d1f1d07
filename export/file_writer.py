"""Writes the verified model file, its spec with the measured figures inside."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.graph.contract import attach_spec, check_contract
from edgeclf.export.graph.light.whole_file import write_model
from edgeclf.export.verify.gate import JudgedModel
from edgeclf.export.verify.recommend import Candidate
from edgeclf.export.verify.verdict import DEFAULT_RULE, Limits, limits_record
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.files import replacing
from edgeclf.runtime.session.self_test import run_self_test
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec


def spec_with_figures(
    spec: ModelSpec,
    candidates: Sequence[Candidate],
    limits: Limits,
    *,
    reference: str,
    images: Mapping[str, int],
    seen_images: Mapping[str, str] | None = None,
    replaced_limits: Limits = DEFAULT_RULE,
    refused: Candidate | None = None,
) -> ModelSpec:
    """The spec of a file, with its parity, the latencies, and the versions of the packages that made it.

    Args:
        spec: The spec it was judged with.
        candidates: All precisions of this export with their latencies; the last is that of the file.
        limits: What the file had to keep.
        reference: What ran the reference, with its version.
        images: Numbers of the images that the file was made and judged with, by use.
        seen_images: For an int8 file: see `ExportImages`.
        replaced_limits: What it had to keep of the network whose place it takes, where there is one.
        refused: The model that was asked for and failed, where the file is the fp32 model in its place.
    """
    latency = {item.name: item.latency.to_json() for item in candidates if item.latency is not None}
    portable, portable_reason = portability(spec)
    # What Keras runs, tf2onnx has converted.
    converters = ("tf2onnx",) if reference.startswith("keras") else ()
    return spec.with_changes(
        source=None if spec.source is None else {**spec.source, "images": dict(images)},
        seen_images=spec.seen_images if seen_images is None else dict(seen_images),
        portable=portable,
        portable_reason=portable_reason,
        parity=_parity_record(candidates[-1], limits, replaced_limits, reference)
        | ({} if refused is None else {"refused": {"precision": refused.name, "failures": list(refused.failures)}}),
        latency={"cpu": cpu_info().to_json(), **latency},
        package_versions={**spec.package_versions, **_versions(*converters, "onnx", "onnxruntime")},
    )


def portability(spec: ModelSpec) -> tuple[bool, str]:
    """Whether a file gives the same bits on every CPU, and why not; of an int8 file its recipe says so."""
    record = spec.quantization or {}
    if spec.precision == "int8":
        return bool(record.get("portable")), str(record.get("portable_reason", ""))
    # Each library adds the products of a layer in the order that suits its CPU, and float sums depend on the order.
    return (
        False,
        f"sums of floats are rounded otherwise by other CPUs: an {spec.precision} file gives the same labels there, but for equal ones, and other last digits",
    )


def write_model_file(judged: JudgedModel, spec: ModelSpec, out: Path, images_rgb: UInt8Array) -> None:
    """Writes a judged model with its final spec, and reads it back before it takes its place.

    Args:
        judged: The model.
        spec: The spec it gets in place of the one it was judged with.
        out: The file.
        images_rgb: (n, H, W, 3) uint8 RGB, the images of `judged.first_probabilities`.

    Raises:
        OutputError: The file cannot be written.
    """
    model = judged.model
    attach_spec(model, spec)
    check_contract(model, spec)
    with replacing(out) as temporary:
        write_model(model, temporary)
        session = ModelSession(temporary, device="cpu")
        same_spec = session.spec.to_json() == spec.to_json()
        same = np.array_equal(session.run(np.array(images_rgb)), judged.first_probabilities)
        if not (same_spec and same and run_self_test(session).passed):
            raise RuntimeError(f"{temporary} does not give back what was judged")


def _parity_record(candidate: Candidate, limits: Limits, replaced_limits: Limits, reference: str) -> dict[str, Any]:
    replaced = {"limits": limits_record(replaced_limits), "parts": [item.to_json() for item in candidate.replaced]}
    return {
        "reference": reference,
        "limits": limits_record(limits),
        "verdict": candidate.verdict.to_json(),
        "rejection": None if candidate.rejection is None else candidate.rejection.to_json(),
        "parts": [item.to_json() for item in candidate.parity],
        "cpu": cpu_info().to_json(),
        # Which network that was stands in `training.trained_from`.
        **({"replaced": replaced} if candidate.replaced else {}),
    }


def _versions(*distributions: str) -> dict[str, str]:
    found = {}
    for name in distributions:
        # onnxruntime-gpu gives the same module under another distribution name.
        for candidate in (name, f"{name}-gpu"):
            try:
                found[name] = importlib.metadata.version(candidate)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
