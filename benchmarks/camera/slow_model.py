"""A model file that takes as long as one wants, for benchmarks of what is around a model."""

import statistics
import time
from pathlib import Path

import numpy as np


def write_slow_model(folder: Path, infer_ms: float) -> tuple[Path, float]:
    """Writes a classifier of two classes whose inference takes about so long on one thread here.

    Args:
        folder: Where to write `slow.onnx`.
        infer_ms: What it should take.

    Returns:
        The file, and the median of what it really takes, in milliseconds.
    """
    path = folder / "slow.onnx"
    few, many = 2, 12
    slope_ms = (_write_and_time(path, many) - _write_and_time(path, few)) / (many - few)
    layers = max(1, round(infer_ms / slope_ms))
    return path, _write_and_time(path, layers)


def _write_and_time(path: Path, layers: int) -> float:
    from edgeclf.runtime.session.session import ModelSession

    _write(path, layers)
    session = ModelSession(path, threads=1)
    image_rgb = np.zeros((1, 112, 112, 3), np.uint8)
    times_ms = []
    for _ in range(15):
        start = time.perf_counter()
        session.run(image_rgb)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times_ms[5:])


def _write(path: Path, layers: int) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess

    rng = np.random.default_rng(0)
    channels = 16
    weights = {
        "first": rng.normal(0, 0.01, (channels, 3, 3, 3)),
        "kernel": rng.normal(0, 0.05, (channels, channels, 3, 3)),
        "dense": rng.normal(0, 0.1, (channels, 2)),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["c0"], pads=[1, 1, 1, 1]),
    ]
    for layer in range(layers):
        nodes += [
            helper.make_node("Conv", [f"c{layer}", "kernel"], [f"k{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"k{layer}"], [f"c{layer + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"c{layers}"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 112, 112, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key = SPEC_KEY
    entry.value = ModelSpec(labels=("one", "other"), preprocess=Preprocess((112, 112))).to_json()
    onnx.save(model, str(path))
