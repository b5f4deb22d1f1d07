"""Latency of models that are not files yet, in turns on one thread each."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.light.whole_file import write_model
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec
from edgeclf.runtime.timing.comparison import ComparedModel, Ratio, compare_models

# Rounds of two inferences in which finished models are timed, and those for the choice of the float prefix.
_ROUNDS, _PREFIX_ROUNDS = 30, 15


def time_models(models: Sequence[onnx.ModelProto], spec: ModelSpec, *, rounds: int = _ROUNDS) -> list[ComparedModel]:
    """Times models of one classifier; ratios are to the first.

    Args:
        models: The models; each gets the spec.
        spec: The spec of all of them.
        rounds: Rounds of two inferences of each model.
    """
    sessions = {}
    with tempfile.TemporaryDirectory(prefix="edgeclf-timing-") as folder:
        for number, model in enumerate(models):
            path = Path(folder) / f"{number}.onnx"
            attach_spec(model, spec)
            write_model(model, path)
            sessions[path.name] = ModelSession(path, device="cpu", threads=1)
            path.unlink()
        return compare_models(sessions, duration_s=0, min_rounds=rounds)


def latency_ratios(models: Sequence[onnx.ModelProto], spec: ModelSpec) -> list[Ratio]:
    """The latency ratio of each model to the first, with its interval, for the choice of the float prefix."""
    return [item.infer_ratio for item in time_models(models, spec, rounds=_PREFIX_ROUNDS)]
