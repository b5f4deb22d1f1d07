"""Makes networks that break naive quantization, and compares ONNX Runtime's recipe with edgeclf's on each.

    python benchmarks/int8/stress.py IMAGES [--arch efficientnet-lite0] [--images 300] [--calibration 128]
                                      [--quick] [--json]

IMAGES is a folder of photographs. Each case changes the pretrained network so that in float it computes the same, or
nearly: agreement is with the changed network's float file, on photographs that calibration has not seen.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, load_pixels, sample_images, working_folder
from benchmarks.int8.other_engines import onnxruntime_file
from benchmarks.synthetic import build_small_mobile_network, write_photographs
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.graph.float_graph import prepare_model
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.arrays import FloatArray, IntArray, UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.networks.efficientnet_lite import VARIANTS, build_lite_classifier

_FACTOR = 1000.0


class Weights:
    """The convolutions of a model in order, their weights (O, I, kh, kw) and biases (O,) writable."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.layers = [node for node in model.graph.node if node.op_type == "Conv"]

    def get(self, layer: int, operand: int) -> FloatArray:
        """A copy of a layer's weights (operand 1) or biases (operand 2)."""
        return numpy_helper.to_array(self._tensors[self.layers[layer].input[operand]]).copy()

    def set(self, layer: int, operand: int, values: FloatArray) -> None:
        """Replaces a layer's weights (operand 1) or biases (operand 2), for this layer alone."""
        node = self.layers[layer]
        name = f"{node.input[operand]}_of_{layer}"
        if name not in self._tensors:
            self.model.graph.initializer.append(numpy_helper.from_array(values, name))
            self._tensors[name] = self.model.graph.initializer[-1]
            node.input[operand] = name
        self._tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    def drop_unused(self) -> None:
        """Removes the tensors that `set` has replaced for every layer that read them."""
        read = {name for node in self.model.graph.node for name in node.input}
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name in read]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)

    def depthwise(self) -> list[int]:
        """Numbers of the depthwise layers that a pointwise layer with biases reads."""
        return [n for n in range(len(self.layers) - 1) if self.get(n, 1).shape[1] == 1]


def near_dead_channel(weights: Weights) -> None:
    """Makes one channel of every depthwise layer almost independent of its input: a constant."""
    for layer in weights.depthwise():
        kernel, bias = weights.get(layer, 1), weights.get(layer, 2)
        kernel[0] *= 1e-7 / max(float(np.abs(kernel[0]).max()), 1e-30)
        bias[0] = 3.0
        weights.set(layer, 1, kernel)
        weights.set(layer, 2, bias)
        following = weights.get(layer + 1, 1)
        # What reads it takes back what it adds, so that the rest of the network sees nothing new.
        shift = weights.get(layer + 1, 2)
        weights.set(layer + 1, 2, shift - 3.0 * following[:, 0, 0, 0])


def uneven_channel(weights: Weights) -> None:
    """Makes one output of the first projection 1,000 times larger, and the weights that read it as many times smaller."""
    layer = weights.depthwise()[0] + 1
    kernel, bias, following = weights.get(layer, 1), weights.get(layer, 2), weights.get(layer + 1, 1)
    kernel[0], bias[0] = kernel[0] * _FACTOR, bias[0] * _FACTOR
    following[:, 0] /= _FACTOR
    weights.set(layer, 1, kernel)
    weights.set(layer, 2, bias)
    weights.set(layer + 1, 1, following)


def neighbours_add_up(weights: Weights) -> None:
    """Orders the channels between expansion and projection so that neighbours have weights of one sign."""
    for layer in weights.depthwise()[1:]:
        # Expansion (O, I, 1, 1), depthwise (O, 1, k, k) and projection (P, O, 1, 1) with their O channels.
        order = _aligned(weights.get(layer + 1, 1)[:, :, 0, 0])
        for number, operand in ((layer - 1, 1), (layer - 1, 2), (layer, 1), (layer, 2)):
            weights.set(number, operand, weights.get(number, operand)[order])
        weights.set(layer + 1, 1, weights.get(layer + 1, 1)[:, order])


def _aligned(projection: FloatArray) -> IntArray:
    """An order of the columns that puts those with the largest same-sign products next to each other, the largest first."""
    # A kernel saturates where two neighbours are large with one sign: the sum of their positive products.
    likeness = np.maximum(projection.T[:, None] * projection.T[None], 0).sum(axis=2)
    np.fill_diagonal(likeness, -1.0)
    order: list[int] = []
    free = set(range(len(likeness)))
    for first in np.argsort(-likeness.max(axis=1)):
        if first in free:
            free.remove(int(first))
            order.append(int(first))
            if free:
                second = max(free, key=lambda other: likeness[first, other])
                free.remove(second)
                order.append(second)
    return np.array(order)


_CASES: dict[str, Callable[[Weights], None]] = {
    "as trained": lambda _: None,
    "a near-dead channel in each depthwise layer": near_dead_channel,
    "one channel 1,000 times larger": uneven_channel,
    "neighbouring weights that add up": neighbours_add_up,
}


@dataclass(frozen=True)
class Row:
    """Figures of one case.

    Attributes:
        case: Which.
        changed: Largest change of a probability of the float network by the case itself.
        naive: Agreement of ONNX Runtime's u8/s8 recipe with the changed float network.
        edgeclf: Agreement of edgeclf's.
        equalized: The same with channels equalized first, as the search of `edgeclf export` tries.
    """

    case: str
    changed: float
    naive: float
    edgeclf: float
    equalized: float


def measure(case: str, trained: onnx.ModelProto, calibration_rgb: UInt8Array, held_rgb: UInt8Array) -> Row:
    """Changes a copy of the trained network and compares three int8 files of it with its float file."""
    original = _run(trained, held_rgb)
    model = onnx.ModelProto.FromString(trained.SerializeToString())
    weights = Weights(model)
    _CASES[case](weights)
    weights.drop_unused()
    reference = _run(model, held_rgb)
    agreements = [
        float((_run(made, held_rgb).argmax(axis=1) == reference.argmax(axis=1)).mean())
        for made in (
            onnx.load_from_string(onnxruntime_file(model, calibration_rgb)),
            quantize_int8(model, calibration_rgb).model,
            quantize_int8(model, calibration_rgb, QuantizationRecipe(equalize=True)).model,
        )
    ]
    return Row(case, float(np.abs(reference - original).max()), *agreements)


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"images": 6, "calibration": 4})
    arguments.add_input("photographs", "folder of photographs", metavar="IMAGES")
    arguments.add_argument("--arch", choices=list(VARIANTS), default="efficientnet-lite0")
    arguments.add_argument("--images", type=int, default=300)
    arguments.add_argument("--calibration", type=int, default=128)
    given = arguments.parse()
    size = 32 if given.quick else VARIANTS[given.arch].size
    preprocess = Preprocess((size, size), "crop", crop_fraction=size / (size + 32))
    count = given.calibration + given.images
    with working_folder() as folder:
        source = given.photographs or write_photographs(folder / "photographs", count)
        images_rgb = load_pixels(sample_images(source, count), preprocess)
    calibration_rgb, held_rgb = images_rgb[: given.calibration], images_rgb[given.calibration :]
    # A small network of the same kind, whose layers have the names and the order that the cases look for.
    network = build_small_mobile_network(size, 10) if given.quick else build_lite_classifier(given.arch, (size, size))
    trained = prepare_model(onnx_from_keras(network))
    report = Report(given)
    report.columns({"case": "<46", **{field.name: ">11.4g" for field in fields(Row)[1:]}})
    rows = []
    for case in _CASES:
        rows.append(measure(case, trained, calibration_rgb, held_rgb))
        report.row(*asdict(rows[-1]).values())
    report.line(f"{len(held_rgb)} images; {cpu_info().model}")
    report.close({"images": len(held_rgb), "cpu": cpu_info().to_json(), "rows": [asdict(row) for row in rows]})


def _run(model: onnx.ModelProto, images_rgb: UInt8Array) -> FloatArray:
    session = open_session_from_bytes(model.SerializeToString(), threads=2)
    batches = [images_rgb[start : start + 8] for start in range(0, len(images_rgb), 8)]
    return np.concatenate([session.run(None, {"image": batch})[0] for batch in batches])


if __name__ == "__main__":
    main()
