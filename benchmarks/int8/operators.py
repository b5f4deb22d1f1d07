"""Times each operator between two 1x1 convolutions, in fp32 and as edgeclf quantizes it, and says what stays in float.

    python benchmarks/int8/operators.py [--size 56] [--channels 72] [--rounds 30] [--only NAME ...] [--quick] [--json]

The network: pixels, a convolution of 4x4 pixels each, five times (1x1 convolution, operator), a pooling and a dense layer, random
weights. Latencies of one image on one thread, in CPU time, which other processes disturb least, both files in turns, medians; the ratio is the median over the rounds. The
decibels are the signal of the logits, less their mean over the images, over their error, on images of noise of several scales.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, median, round_ratio
from benchmarks.int8.memory import noise_images
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.verify.layer_report import sqnr_db
from edgeclf.runtime.arrays import AnyArray, Float64Array, UInt8Array
from edgeclf.runtime.session._onnxruntime import OrtSession
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.timing.comparison import measure_in_turns

_REPEATS, _CLASSES, _COMPARED = 5, 64, 16
_COLUMNS = {
    "fp32_ms": ">8.2f",
    "int8_ms": ">8.2f",
    "ratio": ">6.2f",
    "db": ">6.1f",
    "portable": "<9",
    "in_float": "<30",
}


class _Graph:
    """Writes a float graph."""

    def __init__(self, channels: int) -> None:
        self.random = np.random.default_rng(0)
        self.channels = channels
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_value"], name, **attributes))
        return f"{name}_value"

    def constant(self, values: AnyArray | np.generic) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def by_channel(self, low: float, high: float) -> str:
        return self.constant(self.random.uniform(low, high, self.channels).astype(np.float32))

    def conv(self, x: str, given: int, kernel: int = 1, *, groups: int = 1, **options: Any) -> str:  # noqa: ANN401 - ONNX attributes
        shape = (self.channels, given // groups, kernel, kernel)
        weight = self.random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        bias = self.random.normal(size=self.channels) / 10
        constants = [self.constant(values.astype(np.float32)) for values in (weight, bias)]
        return self.op("Conv", x, *constants, kernel_shape=[kernel] * 2, group=groups, **options)


def _hard_swish_written_out(g: _Graph, x: str) -> str:
    clipped = g.op("Clip", g.op("Add", x, g.number(3)), g.number(0), g.number(6))
    return g.op("Mul", x, g.op("Mul", clipped, g.number(1 / 6)))


def _excitation(g: _Graph, x: str) -> str:
    gate = g.op("Relu", g.conv(g.op("GlobalAveragePool", x), g.channels))
    return g.op("Mul", x, g.op("HardSigmoid", g.conv(gate, g.channels), alpha=1 / 6))


def _split(g: _Graph, x: str) -> str:
    first = g.op("Split", x, axis=1)
    g.nodes[-1].output.append(f"{first}_second")
    return g.op("Concat", f"{first}_second", first, axis=1)


def _gelu(g: _Graph, x: str) -> str:
    return g.op("Mul", x, g.op("Add", g.op("Erf", g.op("Mul", x, g.number(0.5**0.5))), g.number(1)))


def _layer_norm(g: _Graph, x: str) -> str:
    rows = g.op("Transpose", x, perm=[0, 2, 3, 1])
    rows = g.op("LayerNormalization", rows, g.by_channel(0.5, 2), g.by_channel(-1, 1), axis=-1)
    return g.op("Transpose", rows, perm=[0, 3, 1, 2])


def _batch_norm(g: _Graph, x: str) -> str:
    norm = [g.by_channel(low, 2) for low in (0.5, -1, -1, 0.5)]
    return g.op("Relu", g.op("BatchNormalization", g.op("Add", x, g.conv(x, g.channels)), *norm))


def _slopes(g: _Graph, x: str) -> str:
    return g.op("PRelu", x, g.constant(g.random.uniform(0.1, 0.3, (g.channels, 1, 1)).astype(np.float32)))


def _pool(kind: str, g: _Graph, x: str) -> str:
    return g.op(kind, x, kernel_shape=[3, 3], pads=[1] * 4)


_OPERATORS: dict[str, Callable[[_Graph, str], str]] = {
    "nothing": lambda _, x: x,
    "Relu": lambda g, x: g.op("Relu", x),
    "Clip(-1, 1)": lambda g, x: g.op("Clip", x, g.number(-1), g.number(1)),
    "Add": lambda g, x: g.op("Add", x, g.conv(x, g.channels)),
    "SiLU": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
    "HardSwish": lambda g, x: g.op("HardSwish", x),
    "hard swish as Keras writes it": _hard_swish_written_out,
    "squeeze and excitation": _excitation,
    "LeakyRelu": lambda g, x: g.op("LeakyRelu", x, alpha=0.1),
    "PRelu, slopes by channel": _slopes,
    "GELU": _gelu,
    "LayerNormalization": _layer_norm,
    "Add, BatchNormalization, Relu": _batch_norm,
    "Split and Concat": _split,
    "MaxPool 3x3": partial(_pool, "MaxPool"),
    "AveragePool 3x3, fewer at edges": partial(_pool, "AveragePool"),
    "AveragePool 3x3, zeros at edges": lambda g, x: g.op(
        "AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    ),
    "depthwise 3x3": lambda g, x: g.conv(x, g.channels, 3, groups=g.channels, pads=[1] * 4),
    "3x3 in 4 groups": lambda g, x: g.conv(x, g.channels, 3, groups=4, pads=[1] * 4),
    "3x3 dilated": lambda g, x: g.conv(x, g.channels, 3, pads=[2] * 4, dilations=[2, 2]),
}


def network(operator: Callable[[_Graph, str], str], size: int, channels: int) -> onnx.ModelProto:
    """The float network of an operator.

    Args:
        operator: Writes it behind a value.
        size: Height and width of what it works on; images are four times as large.
        channels: Of the same.
    """
    g = _Graph(channels)
    x = g.op("Add", g.op("Mul", g.op("Cast", "image", to=TensorProto.FLOAT), g.number(1 / 128)), g.number(-127 / 128))
    x = g.conv(g.op("Transpose", x, perm=[0, 3, 1, 2]), 3, 4, strides=[4, 4])
    for _ in range(_REPEATS):
        x = operator(g, g.conv(x, channels))
    # The largest of some places: a mean of all would hardly differ between images.
    x = g.op("MaxPool", g.conv(x, channels), kernel_shape=[4, 4], strides=[4, 4])
    x = g.op("GlobalAveragePool", x)
    weight = (g.random.normal(size=(channels, _CLASSES)) / np.sqrt(channels)).astype(np.float32)
    x = g.op("Gemm", g.op("Flatten", x), g.constant(weight), g.constant(np.zeros(_CLASSES, np.float32)))
    g.nodes.append(helper.make_node("Softmax", [x], ["probabilities"], "softmax", axis=-1))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4 * size, 4 * size, 3])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", _CLASSES])
    graph = helper.make_graph(g.nodes, "classifier", [image], [output], g.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(name: str, size: int, channels: int, rounds: int, images_rgb: UInt8Array) -> dict[str, Any]:
    """One row of the table."""
    model = network(_OPERATORS[name], size, channels)
    compared = images_rgb[-_COMPARED:]
    quantized = Calibrator(model, images_rgb[:-_COMPARED]).network(QuantizationRecipe()).write()
    sessions = {
        key: open_session_from_bytes(item.SerializeToString(), threads=1)
        for key, item in (("fp32", model), ("int8", quantized.model))
    }
    runs = {key: partial(_cpu_ms, session, compared[:1]) for key, session in sessions.items()}
    times = measure_in_turns(runs, rounds=rounds, warmup_rounds=3)
    wanted, got = (_logits(session, compared) for session in sessions.values())
    # What is the same for all images says nothing about any.
    ratio = sqnr_db(wanted - wanted.mean(axis=0), got - wanted.mean(axis=0))
    return {
        "operator": name,
        "fp32_ms": median(times["fp32"]),
        "int8_ms": median(times["int8"]),
        "ratio": round_ratio(times["int8"], times["fp32"]).median,
        "db": float("inf") if ratio is None else ratio,
        "portable": str(quantized.recipe["portable"]).lower(),
        "in_float": ", ".join(sorted({kind for _, kind in quantized.left_in_float})) or "-",
    }


def _cpu_ms(session: OrtSession, images_rgb: UInt8Array) -> float:
    started = time.process_time()
    session.run(None, {"image": images_rgb})
    return 1e3 * (time.process_time() - started)


def _logits(session: OrtSession, images_rgb: UInt8Array) -> Float64Array:
    """(N, C) float64 logits less their mean over the classes, from the probabilities."""
    logs = np.log(np.maximum(session.run(None, {"image": images_rgb})[0].astype(np.float64), 1e-30))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


def main() -> None:
    """Prints a line for each operator, or JSON."""
    arguments = Arguments(__doc__, quick={"size": 8, "channels": 8, "rounds": 8, "only": ["HardSwish", "GELU"]})
    arguments.add_argument("--size", type=int, default=56, help="height and width that operators work on")
    arguments.add_argument("--channels", type=int, default=72)
    arguments.add_argument(
        "--rounds", type=int, default=30, help="two inferences of each in one (default: %(default)s)"
    )
    arguments.add_argument("--only", nargs="+", choices=list(_OPERATORS), default=list(_OPERATORS))
    given = arguments.parse()
    report = Report(given)
    report.columns({"operator": "<32", **_COLUMNS})
    images_rgb = noise_images(32 + _COMPARED, 4 * given.size)
    rows = []
    for name in given.only:
        rows.append(measure(name, given.size, given.channels, given.rounds, images_rgb))
        report.row(*rows[-1].values())
    report.close(rows)


if __name__ == "__main__":
    main()
