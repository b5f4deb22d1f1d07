"""Measures peak memory and seconds of an int8 quantization by the default recipe: ResNet50 and VGG16, random weights.

    python benchmarks/int8/memory.py [--networks resnet50 vgg16] [--images 256] [--size 224] [--value-bytes N]
                                     [--quick] [--json]

The networks are those of keras.applications with 1000 classes and their batch normalisation folded, written as ONNX without
TensorFlow; the images are noise of several scales. Each is quantized in a process of its own, whose peak resident memory,
seconds and CPU seconds are those of all its work but the making of network and images, with the float model in memory.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, run_script, working_folder
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.layerwise.fitting import VALUE_BYTES
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array

_CLASSES = 1000
_COLUMNS = {"peak_mb": ">9.0f", "seconds": ">9.0f", "user_s": ">8.0f", "system_s": ">10.0f", "layers": ">8d"}


class _Writer:
    """Writes a float graph from pixels to probabilities, with weights that keep the size of values."""

    def __init__(self, shrink: int) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shrink = shrink

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        output = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [output], f"{kind.lower()}{len(self.nodes)}", **attributes)
        )
        return output

    def constant(self, values: AnyArray | np.generic) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weights(self, *shape: int, inputs: int) -> str:
        values: FloatArray = self.random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(np.sqrt(2 / inputs))
        return self.constant(values)

    def conv(self, x: str, given: int, channels: int, kernel: int, stride: int = 1) -> str:
        weight = self.weights(channels, given, kernel, kernel, inputs=given * kernel * kernel)
        bias = self.weights(channels, inputs=100)
        options = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return self.op("Conv", x, weight, bias, **options)

    def dense(self, x: str, given: int, outputs: int) -> str:
        return self.op("Gemm", x, self.weights(given, outputs, inputs=given), self.weights(outputs, inputs=100))

    def pixels(self) -> str:
        x = self.op("Cast", "image", to=TensorProto.FLOAT)
        x = self.op("Mul", x, self.constant(np.float32(1 / 128)))
        x = self.op("Add", x, self.constant(np.float32(-127 / 128)))
        return self.op("Transpose", x, perm=[0, 3, 1, 2])

    def model(self, logits: str, size_px: int) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Softmax", [logits], ["probabilities"], "softmax", axis=-1))
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size_px, size_px, 3])
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", _CLASSES])
        graph = helper.make_graph(self.nodes, "classifier", [image], [output], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet50(size_px: int, shrink: int) -> onnx.ModelProto:
    """ResNet50 with its batch normalisation folded.

    Args:
        size_px: Height and width of its images in pixels.
        shrink: What all channels are divided by.
    """
    w = _Writer(shrink)
    channels = 64 // shrink
    x = w.op("Relu", w.conv(w.pixels(), 3, channels, 7, 2))
    x = w.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow = (64 << stage) // shrink
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = x if block else w.conv(x, channels, 4 * narrow, 1, stride)
            y = w.op("Relu", w.conv(x, channels, narrow, 1, stride))
            y = w.op("Relu", w.conv(y, narrow, narrow, 3))
            channels = 4 * narrow
            y = w.op("Add", w.conv(y, narrow, channels, 1), shortcut)
            x = w.op("Relu", y)
    x = w.op("Flatten", w.op("GlobalAveragePool", x))
    return w.model(w.dense(x, channels, _CLASSES), size_px)


def vgg16(size_px: int, shrink: int) -> onnx.ModelProto:
    """VGG16; arguments as for `resnet50`."""
    w = _Writer(shrink)
    x, channels = w.pixels(), 3
    for stage, convolutions in enumerate((2, 2, 3, 3, 3)):
        for _ in range(convolutions):
            outputs = min(64 << stage, 512) // shrink
            x = w.op("Relu", w.conv(x, channels, outputs, 3))
            channels = outputs
        x = w.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    # As tf2onnx writes it: channels last before they are flattened.
    x = w.op("Flatten", w.op("Transpose", x, perm=[0, 2, 3, 1]))
    width = channels * (size_px // 32) ** 2
    for _ in range(2):
        x, width = w.op("Relu", w.dense(x, width, 4096 // shrink)), 4096 // shrink
    return w.model(w.dense(x, width, _CLASSES), size_px)


_NETWORKS = {"resnet50": resnet50, "vgg16": vgg16}


def noise_images(count: int, size_px: int) -> UInt8Array:
    """(N, H, W, 3) uint8 images with differences of all scales, as photographs have."""
    random = np.random.default_rng(1)
    images = np.empty((count, size_px, size_px, 3), np.uint8)
    for image in images:
        values = np.zeros((size_px, size_px, 3))
        for cells in (2, 8, 32):
            places = np.arange(size_px) * cells // size_px
            values += random.normal(size=(cells, cells, 3))[np.ix_(places, places)] / 3
        image[...] = (128 + 80 * values).clip(0, 255)
    return images


def quantize(path: Path, images: int, size_px: int, value_bytes: int) -> dict[str, float]:
    """Quantizes a file in this process, and says what that took."""
    model = onnx.load(str(path))
    pixels = noise_images(images, size_px)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    quantized = Calibrator(model, pixels, value_bytes=value_bytes).network(QuantizationRecipe()).write()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    # Kilobytes, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_mb": after.ru_maxrss * unit / 1e6,
        "seconds": seconds,
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
        "layers": len(quantized.layers),
    }


def measure(names: Sequence[str], arguments: Sequence[object], size_px: int, shrink: int, report: Report) -> list[Any]:
    """One row for each network."""
    rows = []
    with working_folder() as folder:
        for name in names:
            path = folder / f"{name}.onnx"
            onnx.save(_NETWORKS[name](size_px, shrink), str(path))
            rows.append({"network": name, **run_script(__file__, "--file", path, "--json", *arguments).document})
            path.unlink()
            report.row(*rows[-1].values())
    return rows


def main() -> None:
    """Prints a line for each network, or JSON."""
    arguments = Arguments(__doc__, quick={"images": 20, "size": 32, "shrink": 8, "value_bytes": 1 << 18})
    arguments.add_argument("--networks", nargs="+", choices=list(_NETWORKS), default=list(_NETWORKS))
    arguments.add_argument("--images", type=int, default=256, help="calibration images")
    arguments.add_argument("--size", type=int, default=224, help="height and width of images in pixels")
    arguments.add_argument("--shrink", type=int, default=1, help="divide all channels by this")
    arguments.add_argument("--value-bytes", type=int, default=VALUE_BYTES, help="memory for values of the images")
    arguments.add_argument("--file", type=Path, help="quantize this file, in this process")
    given = arguments.parse()
    if given.file is not None:
        print(json.dumps(quantize(given.file, given.images, given.size, given.value_bytes)))
        return
    report = Report(given)
    report.columns({"network": "<12", **_COLUMNS})
    options = ("--images", given.images, "--size", given.size, "--value-bytes", given.value_bytes)
    report.close(measure(given.networks, options, given.size, given.shrink, report))


if __name__ == "__main__":
    main()
