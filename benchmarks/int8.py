"""Compares int8 files of one network: ONNX Runtime's own recipes, and edgeclf's with each of its passes left out.

    python benchmarks/int8.py IMAGES [--arch efficientnet-lite0] [--calibration 128] [--rounds 60] [--json]

IMAGES is a folder of photographs; those with the 1000 classes of ImageNet, one each in sorted order, give top-1 as well.
The network has its own 1000-class head. Calibration images are drawn at random and never compared on. Latencies are of
one image on one thread, all files in turns, medians; agreement is with the float file in ONNX Runtime on this CPU.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgeclf.export.convert import onnx_from_keras
from edgeclf.export.int8.graph import prepare_model
from edgeclf.export.quantize import QuantizationRecipe, quantize_int8
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.preprocess import UInt8Array, load_image, preprocess_bgr
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.networks.efficientnet_lite import IMAGENET_CLASSES, VARIANTS, build_lite_classifier

_SEED = 0
_OURS = {
    "edgeclf": QuantizationRecipe(),
    "edgeclf, equalized": QuantizationRecipe(equalize=True),
    "edgeclf, ranges by extremes": QuantizationRecipe(ranges="extremes"),
    "edgeclf, nearest rounding": QuantizationRecipe(learn_rounding=False),
    "edgeclf, biases as trained": QuantizationRecipe(correct_bias=False),
    "edgeclf, pair constraint alone": QuantizationRecipe(ranges="extremes", learn_rounding=False, correct_bias=False),
    "edgeclf, full 8 bits (x86-vnni, arm64)": QuantizationRecipe(target="x86-vnni"),
}


@dataclass(frozen=True)
class Row:
    """Figures of one file.

    Attributes:
        name: The recipe.
        agreement: Share of images with the same most probable class as the float file.
        top1: Share of images of which that is the right class; None where the classes are not known.
        cosine: Mean cosine of the logits with the float file's.
        median_ms: Median latency.
        ratio: Median over the rounds of the latency as a multiple of the float file's.
        size: Bytes as a multiple of the float file's.
        seconds: What making it took.
    """

    name: str
    agreement: float
    top1: float | None
    cosine: float
    median_ms: float
    ratio: float
    size: float
    seconds: float


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--arch", choices=list(VARIANTS), default="efficientnet-lite0")
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    files = sorted(path for path in given.images.iterdir() if path.is_file())
    size = VARIANTS[given.arch].size
    preprocess = Preprocess((size, size), "crop", crop_fraction=size / (size + 32))
    images = np.stack([preprocess_bgr(load_image(path), preprocess) for path in files])
    order = np.random.default_rng(_SEED).permutation(len(images))
    calibration, held = images[order[: given.calibration]], order[given.calibration :]
    true = held if len(images) == IMAGENET_CLASSES else None
    fp32 = onnx_from_keras(build_lite_classifier(given.arch, (size, size)))

    made: dict[str, tuple[bytes, dict[str, str], float]] = {"fp32": (fp32.SerializeToString(), {}, 0.0)}
    for name, make, options in _makers(fp32, calibration):
        started = time.perf_counter()
        made[name] = (make().SerializeToString(), options, time.perf_counter() - started)
    sessions = {name: _open(model, options) for name, (model, options, _) in made.items()}
    times = _interleaved(sessions, images[held[:1]], given.rounds)
    reference = _logits(sessions["fp32"], images[held])
    rows = []
    for name, (model, _, seconds) in made.items():
        logits = _logits(sessions[name], images[held])
        same = logits.argmax(axis=1) == reference.argmax(axis=1)
        norms = np.linalg.norm(logits, axis=1) * np.linalg.norm(reference, axis=1)
        rows.append(
            Row(
                name,
                float(same.mean()),
                None if true is None else float((logits.argmax(axis=1) == true).mean()),
                float(((logits * reference).sum(axis=1) / norms).mean()),
                float(np.median(times[name]) * 1e3),
                float(np.median(np.asarray(times[name]) / np.asarray(times["fp32"]))),
                len(model) / len(made["fp32"][0]),
                seconds,
            )
        )
        if not given.json:
            _print(rows[-1], first=len(rows) == 1)
    if given.json:
        cpu = cpu_info().to_json()
        print(json.dumps({"images": len(held), "cpu": cpu, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{len(held)} images, {given.calibration} others for calibration; {cpu_info().model}")


def _print(row: Row, *, first: bool) -> None:
    if first:
        print(f"{'':42}{'agreement':>10}{'top-1':>8}{'cosine':>8}{'ms':>8}{'of fp32':>9}{'size':>7}{'made in':>9}")
    top1 = "-" if row.top1 is None else f"{row.top1:.4f}"
    print(
        f"{row.name:42}{row.agreement:10.4f}{top1:>8}{row.cosine:8.4f}{row.median_ms:8.2f}{row.ratio:8.2f}x"
        f"{row.size:6.2f}x{row.seconds:7.1f} s",
        flush=True,
    )


def _makers(
    fp32: onnx.ModelProto, calibration: UInt8Array
) -> Iterator[tuple[str, Callable[[], onnx.ModelProto], dict[str, str]]]:
    """Name, maker and session options of each int8 file."""
    yield "onnxruntime, documented default (s8/s8)", partial(_onnxruntime, fp32, calibration, "int8"), {}
    unsigned = partial(_onnxruntime, fp32, calibration, "uint8")
    yield "onnxruntime, u8/s8", unsigned, {}
    yield "onnxruntime, u8/s8, x64quantprecision", unsigned, {"session.x64quantprecision": "1"}
    yield "onnxruntime, u8/s8, reduce_range", partial(unsigned, reduce=True), {}
    for name, recipe in _OURS.items():
        yield name, partial(_edgeclf, fp32, calibration, recipe), {}


def _edgeclf(fp32: onnx.ModelProto, calibration: UInt8Array, recipe: QuantizationRecipe) -> onnx.ModelProto:
    return quantize_int8(fp32, calibration, recipe).model


def _onnxruntime(
    fp32: onnx.ModelProto, calibration: UInt8Array, activations: str, *, reduce: bool = False
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    batches = iter(np.array_split(calibration, max(1, len(calibration) // 8)))

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
        return onnx.load(path)


def _open(model: bytes, options: dict[str, str]) -> Any:  # noqa: ANN401 - onnxruntime carries no types
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    for key, value in options.items():
        settings.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def _interleaved(sessions: dict[str, Any], image: UInt8Array, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(rounds + 5):
        for name in sessions if number % 2 else reversed(list(sessions)):
            started = time.perf_counter()
            sessions[name].run(None, {"image": image})
            if number >= 5:
                times[name].append(time.perf_counter() - started)
    return times


def _logits(session: Any, images: UInt8Array) -> npt.NDArray[np.float64]:  # noqa: ANN401
    """(N, C) float64 logits up to what a softmax ignores, from the probabilities."""
    rows = [session.run(None, {"image": images[start : start + 8]})[0] for start in range(0, len(images), 8)]
    logs = np.log(np.maximum(np.concatenate(rows).astype(np.float64), 1e-30))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


if __name__ == "__main__":
    main()
