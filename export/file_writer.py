"""Writes the verified model file, its spec with the measured figures inside."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.graph.contract import attach_spec, check_contract
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
    in_8_bits: bool,
    replaced_limits: Limits = DEFAULT_RULE,
    refused: Candidate | None = None,
) -> ModelSpec:
    """The spec of a file, with its parity, the latencies, and the versions of the packages that made it.

    Args:
        spec: The spec it was judged with.
        candidates: All precisions of this export with their latencies; the last is that of the file.
        limits: What the file had to keep.
        in_8_bits: Whether the reference was the network in the 8-bit arithmetic it was trained in.
        replaced_limits: What it had to keep of the network whose place it takes, where there is one.
        refused: The model that was asked for and failed, where the file is the fp32 model in its place.
    """
    latency = {item.name: item.latency.to_json() for item in candidates if item.latency is not None}
    return spec.with_changes(
        parity=_parity_record(candidates[-1], limits, replaced_limits, in_8_bits=in_8_bits)
        | ({} if refused is None else {"refused": {"precision": refused.name, "failures": list(refused.failures)}}),
        latency={"cpu": cpu_info().to_json(), **latency},
        package_versions={**spec.package_versions, **_versions("tf2onnx", "onnx", "onnxruntime")},
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
    attach_spec(judged.model, spec)
    check_contract(judged.model, spec)
    with replacing(out) as temporary:
        temporary.write_bytes(judged.model.SerializeToString())
        session = ModelSession(temporary, device="cpu")
        same_spec = session.spec.to_json() == spec.to_json()
        same = np.array_equal(session.run(np.array(images_rgb)), judged.first_probabilities)
        if not (same_spec and same and run_self_test(session).passed):
            raise RuntimeError(f"{temporary} does not give back what was judged")


def _parity_record(candidate: Candidate, limits: Limits, replaced_limits: Limits, *, in_8_bits: bool) -> dict[str, Any]:
    version = importlib.metadata.version("keras")
    replaced = {"limits": limits_record(replaced_limits), "parts": [item.to_json() for item in candidate.replaced]}
    return {
        "reference": f"keras {version}, in the 8-bit arithmetic it was trained in" if in_8_bits else f"keras {version}",
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
