"""Other engines and quantizers beside ONNX Runtime's own, each one thread; whoever is not installed is left out."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeclf.export.graph.float_graph import prepare_model
from edgeclf.runtime.arrays import FloatArray, UInt8Array

Run = Callable[[UInt8Array], FloatArray]
# What each needs from PyPI.
PACKAGES = {"openvino": "openvino", "nncf": "nncf", "ai_edge_litert": "ai-edge-litert"}


def missing_packages() -> list[str]:
    """The distributions that are not installed."""
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
    """A model file in OpenVINO on the CPU."""
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


def litert_file(network: Any, calibration_rgb: UInt8Array) -> bytes:  # noqa: ANN401 - keras carries no types
    """A Keras network as int8 LiteRT file, post-training quantization with its defaults."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration_rgb)
    # It tells about the model at length, where the benchmark prints its table.
    with contextlib.redirect_stdout(sys.stderr):
        return bytes(converter.convert())


def litert_engine(model: bytes) -> Run:
    """A LiteRT file with XNNPACK, image by image: its batch size is fixed."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def one(image_rgb: UInt8Array) -> FloatArray:
        interpreter.set_tensor(source["index"], image_rgb)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(result["index"]))

    return lambda images_rgb: np.concatenate([one(images_rgb[i : i + 1]) for i in range(len(images_rgb))])
