"""A model file of a chosen latency, for benchmarks of what is around a model."""

from pathlib import Path

import numpy as np

from benchmarks.common import median, time_in_turns
from benchmarks.synthetic import write_model


def write_slow_model(folder: Path, infer_ms: float) -> tuple[Path, float]:
    """Writes a classifier of two classes, convolutions repeated until an inference takes about so long on one thread here.

    Args:
        folder: Where to write `slow.onnx`.
        infer_ms: What an inference should take.

    Returns:
        The file, and the median of what an inference really takes, in milliseconds.
    """
    path = folder / "slow.onnx"
    few, many = 2, 12
    slope_ms = (_write_and_time(path, many) - _write_and_time(path, few)) / (many - few)
    # On a busy machine the larger one may come out no slower.
    layers = max(1, round(infer_ms / max(slope_ms, 0.01)))
    return path, _write_and_time(path, layers)


def _write_and_time(path: Path, layers: int) -> float:
    from edgeclf.runtime.session.session import ModelSession

    session = ModelSession(write_model(path, layers), threads=1)
    image_rgb = np.zeros((1, *session.spec.preprocess.size_hw, 3), np.uint8)
    return median(time_in_turns({"model": lambda: session.run(image_rgb)}, 10, warm_up=5)["model"])
