"""Runs an int8 file in other engines: how often each gives the label of the fp32 file in ONNX Runtime.

    python benchmarks/int8/other_engines.py INT8.onnx FP32.onnx IMAGES [--images 150] [--quick] [--json]

Both files come from `edgeclf export` or `benchmarks/int8/recipes.py --save`; IMAGES is a folder of photographs. OpenVINO
is measured where `openvino` is installed, onnxruntime-web where Node and npm are: the package is installed into a
temporary folder, and runs with WebAssembly on one thread. Every engine has one thread. The other benchmarks of this
folder take their engines and quantizers from here.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, load_pixels, run_process, sample_images, working_folder
from benchmarks.synthetic import build_small_mobile_network, write_photographs
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.graph.float_graph import prepare_model
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec, Preprocess

Run = Callable[[UInt8Array], FloatArray]
# Distribution on PyPI of each module.
PACKAGES = {"openvino": "openvino", "nncf": "nncf", "ai_edge_litert": "ai-edge-litert"}
_WEB = """
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, images, out, count, height, width] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const pixels = new Uint8Array(readFileSync(images));
const [h, w] = [Number(height), Number(width)];
const rows = [];
for (let i = 0; i < Number(count); i++) {
  const image = new ort.Tensor("uint8", pixels.slice(i * h * w * 3, (i + 1) * h * w * 3), [1, h, w, 3]);
  const { probabilities } = await session.run({ image });
  rows.push(Buffer.from(new Float32Array(probabilities.data).buffer));
}
writeFileSync(out, Buffer.concat(rows));
"""


def missing_packages() -> list[str]:
    """Distributions of other engines and quantizers that are not installed."""
    return [distribution for module, distribution in PACKAGES.items() if find_spec(module) is None]


def onnxruntime_file(
    fp32: onnx.ModelProto, calibration_rgb: UInt8Array, *, activations: str = "uint8", reduce: bool = False
) -> bytes:
    """ONNX Runtime's static quantization, QDQ and per channel, with int8 weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    batches = iter(np.array_split(calibration_rgb, max(1, len(calibration_rgb) // 8)))

    class Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime carries no types
        def get_next(self) -> dict[str, UInt8Array] | None:
            batch = next(batches, None)
            return None if batch is None else {"image": batch}

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "int8.onnx")  # noqa: PTH118 - quantize_static takes a string
        quantize_static(
            prepare_model(fp32),
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce,
            activation_type=types[activations],
            weight_type=QuantType.QInt8,
        )
        return Path(path).read_bytes()


def openvino_engine(model: bytes) -> Run:
    """Opens a model file in OpenVINO on the CPU, one thread."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
    return lambda images_rgb: np.array(compiled({0: images_rgb})[0])


def nncf_model(fp32: onnx.ModelProto, calibration_rgb: UInt8Array) -> onnx.ModelProto:
    """NNCF's post-training quantization of an ONNX model with its defaults."""
    import nncf

    samples = [calibration_rgb[number : number + 1] for number in range(len(calibration_rgb))]
    dataset = nncf.Dataset(samples, lambda image: {"image": image})
    quantized: onnx.ModelProto = nncf.quantize(fp32, dataset, subset_size=len(samples))
    return quantized


def litert_file(network: KerasModel, calibration_rgb: UInt8Array) -> bytes:
    """LiteRT's post-training int8 quantization of a Keras network with its defaults."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration_rgb)
    # The converter describes the model at length on stdout, where the benchmark prints its table.
    with contextlib.redirect_stdout(sys.stderr):
        return bytes(converter.convert())


def litert_engine(model: bytes) -> Run:
    """Opens a LiteRT file with XNNPACK, one thread; images run one by one, as the batch size is fixed."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def one(image_rgb: UInt8Array) -> FloatArray:
        interpreter.set_tensor(source["index"], image_rgb)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(result["index"]))

    return lambda images_rgb: np.concatenate([one(images_rgb[i : i + 1]) for i in range(len(images_rgb))])


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"images": 6})
    arguments.add_input("int8", "the int8 file")
    arguments.add_input("fp32", "its float file")
    arguments.add_input("photographs", "folder of photographs", metavar="IMAGES")
    arguments.add_argument("--images", type=int, default=150)
    given = arguments.parse()
    with working_folder() as folder:
        source = given.photographs or write_photographs(folder / "photographs", given.images)
        fp32, int8 = given.fp32, given.int8
        if int8 is None:
            fp32, int8 = _write_files(folder, source)
        reference = ModelSession(fp32, device="cpu", threads=1)
        images_rgb = load_pixels(sample_images(source, given.images), reference.spec.preprocess)
        wanted = _one_by_one(reference.run, images_rgb)
        own = _one_by_one(ModelSession(int8, device="cpu", threads=1).run, images_rgb)
        rows = {"onnxruntime": _figures(own, wanted, own)}
        if find_spec("openvino"):
            rows["OpenVINO"] = _figures(_one_by_one(openvino_engine(int8.read_bytes()), images_rgb), wanted, own)
        else:
            print("left out, as not installed: openvino", file=sys.stderr)
        if given.quick:
            print("left out, as --quick installs nothing: onnxruntime-web", file=sys.stderr)
        elif shutil.which("node") and shutil.which("npm"):
            rows["onnxruntime-web"] = _figures(_on_the_web(int8, images_rgb), wanted, own)
        else:
            print("left out, as not installed: node and npm", file=sys.stderr)
    report = Report(given)
    columns = {"of fp32": "agreement_with_fp32", "of onnxruntime": "agreement_with_onnxruntime"}
    columns["largest difference"] = "largest_difference_to_onnxruntime"
    report.columns({"same label as that": "<20", **dict.fromkeys(columns, ">20.4g")})
    for name, figures in rows.items():
        report.row(name, *(figures[key] for key in columns.values()))
    report.line(f"{len(images_rgb)} images")
    report.close({"images": len(images_rgb), "engines": rows})


def _write_files(folder: Path, photographs: Path) -> tuple[Path, Path]:
    """A small network's float and int8 files, calibrated on the photographs."""
    spec = ModelSpec(labels=tuple(f"{number:02}" for number in range(10)), preprocess=Preprocess((32, 32)))
    fp32 = onnx_from_keras(build_small_mobile_network(32, 10))
    int8 = quantize_int8(fp32, load_pixels(sample_images(photographs), spec.preprocess)).model
    paths = folder / "fp32.onnx", folder / "int8.onnx"
    for path, model in zip(paths, (fp32, int8), strict=True):
        attach_spec(model, spec)
        path.write_bytes(model.SerializeToString())
    return paths


def _one_by_one(run: Run, images_rgb: UInt8Array) -> FloatArray:
    return np.concatenate([run(images_rgb[start : start + 1]) for start in range(len(images_rgb))])


def _figures(got: FloatArray, wanted: FloatArray, own: FloatArray) -> dict[str, float]:
    same = got.argmax(axis=1) == wanted.argmax(axis=1)
    return {
        "agreement_with_fp32": float(same.mean()),
        "agreement_with_onnxruntime": float((got.argmax(axis=1) == own.argmax(axis=1)).mean()),
        "largest_difference_to_onnxruntime": float(np.abs(got - own).max()),
    }


def _on_the_web(model: Path, images_rgb: UInt8Array) -> FloatArray:
    with working_folder() as folder:
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "run.mjs").write_text(_WEB)
        (folder / "images.bin").write_bytes(images_rgb.tobytes())
        run_process(["npm", "install", "--silent", "--no-audit", "onnxruntime-web"], folder=folder)
        count, height, width, _ = images_rgb.shape
        options = [model.absolute(), "images.bin", "out.bin", count, height, width]
        run_process(["node", "run.mjs", *options], folder=folder)
        return np.frombuffer((folder / "out.bin").read_bytes(), np.float32).reshape(len(images_rgb), -1)


if __name__ == "__main__":
    main()
