"""Compares int8 files of one network: ONNX Runtime's own recipes, and edgeclf's with each of its passes left out.

    python benchmarks/int8/recipes.py IMAGES [--arch efficientnet-lite0] [--calibration 128] [--rounds 60] [--seed 0]
                              [--save FOLDER]

IMAGES is a folder of photographs; those with the 1000 classes of ImageNet, one each in sorted order, give top-1 as well.
The network has its own 1000-class head. Calibration images are drawn at random and never compared on. Latencies are of
one image on one thread, all files in turns, medians; agreement is with the float file in ONNX Runtime on this CPU.
With openvino, nncf and ai-edge-litert installed, those are measured in the same run.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.int8.engines import (
    Run,
    litert_engine,
    litert_file,
    missing_packages,
    nncf_model,
    onnxruntime_file,
    openvino_engine,
)
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.arrays import Float64Array, UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.spec import ModelSpec, Preprocess
from edgeclf.training.networks.efficientnet_lite import IMAGENET_CLASSES, VARIANTS, build_lite_classifier

_OURS = "edgeclf"
_ALL_INT8 = "edgeclf, first layers in 8 bits too"
_ENTRANCE_ROUNDS = 40
_VARIANTS = {
    _ALL_INT8: QuantizationRecipe(),
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
    parser.add_argument("--seed", type=int, default=0, help="which calibration images are drawn")
    parser.add_argument("--save", type=Path, help="a folder for fp32.onnx and edgeclf's int8.onnx")
    parser.add_argument("--only", nargs="+", help="beside fp32, only the files whose name contains one of these")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    files = sorted(path for path in given.images.iterdir() if path.is_file())
    size = VARIANTS[given.arch].size
    preprocess = Preprocess((size, size), "crop", crop_fraction=size / (size + 32))
    images = np.stack([preprocess_bgr(load_image(path), preprocess) for path in files])
    order = np.random.default_rng(given.seed).permutation(len(images))
    calibration, held = images[order[: given.calibration]], order[given.calibration :]
    true = held if len(images) == IMAGENET_CLASSES else None
    network = build_lite_classifier(given.arch, (size, size))
    fp32 = onnx_from_keras(network)

    made: dict[str, tuple[bytes, Callable[[bytes], Run], float]] = {"fp32": (fp32.SerializeToString(), _open, 0.0)}
    for name, make, engine in (*_makers(fp32, calibration), *_elsewhere(network, fp32, calibration, made)):
        if given.only and not any(part in name for part in given.only):
            continue
        started = time.perf_counter()
        made[name] = (make(), engine, time.perf_counter() - started)
    if given.save and _OURS in made:
        spec = ModelSpec(labels=tuple(f"{number:04}" for number in range(IMAGENET_CLASSES)), preprocess=preprocess)
        given.save.mkdir(parents=True, exist_ok=True)
        for file, name in (("fp32.onnx", "fp32"), ("int8.onnx", _OURS)):
            proto = onnx.load_from_string(made[name][0])
            attach_spec(proto, spec)
            (given.save / file).write_bytes(proto.SerializeToString())
    engines = {name: engine(model) for name, (model, engine, _) in made.items()}
    times = _interleaved(engines, images[held[:1]], given.rounds)
    reference = _logits(engines["fp32"], images[held])
    rows = []
    for name, (model, _, seconds) in made.items():
        logits = _logits(engines[name], images[held])
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
) -> Iterator[tuple[str, Callable[[], bytes], Callable[[bytes], Run]]]:
    """Name, maker and engine of each int8 file that ONNX Runtime runs."""
    yield (
        "onnxruntime, documented default (s8/s8)",
        partial(onnxruntime_file, fp32, calibration, activations="int8"),
        _open,
    )
    unsigned = partial(onnxruntime_file, fp32, calibration)
    yield "onnxruntime, u8/s8", unsigned, _open
    exact = partial(_open, options={"session.x64quantprecision": "1"})
    yield "onnxruntime, u8/s8, x64quantprecision", unsigned, exact
    yield "onnxruntime, u8/s8, reduce_range", partial(unsigned, reduce=True), _open
    yield _OURS, partial(_edgeclf, fp32, calibration, QuantizationRecipe()), _open
    for name, recipe in _VARIANTS.items():
        yield name, partial(_edgeclf, fp32, calibration, recipe, all_int8=name == _ALL_INT8), _open


def _elsewhere(
    network: Any,  # noqa: ANN401 - keras carries no types
    fp32: onnx.ModelProto,
    calibration: UInt8Array,
    made: dict[str, tuple[bytes, Callable[[bytes], Run], float]],
) -> Iterator[tuple[str, Callable[[], bytes], Callable[[bytes], Run]]]:
    """The same of other engines and quantizers that are installed."""
    missing = missing_packages()
    if missing:
        print(f"left out, as not installed: {', '.join(missing)}", file=sys.stderr)
    if "openvino" not in missing:
        yield "OpenVINO, the fp32 file", lambda: made["fp32"][0], openvino_engine
        yield "OpenVINO, edgeclf's file", lambda: made[_OURS][0], openvino_engine
    if "nncf" not in missing:
        yield "NNCF, in onnxruntime", lambda: nncf_model(fp32, calibration).SerializeToString(), _open
    if "nncf" not in missing and "openvino" not in missing:
        yield "NNCF, in OpenVINO", lambda: made["NNCF, in onnxruntime"][0], openvino_engine
    if "ai-edge-litert" not in missing:
        yield "LiteRT, int8", lambda: litert_file(network, calibration), litert_engine


def _edgeclf(
    fp32: onnx.ModelProto, calibration: UInt8Array, recipe: QuantizationRecipe, *, all_int8: bool = False
) -> bytes:
    calibrator = Calibrator(fp32, calibration)
    if not all_int8:
        recipe = replace(recipe, float_entrance=calibrator.find_entrance(recipe, _latencies))
    print(f"first layers in float: {', '.join(recipe.float_entrance) or 'none'}", file=sys.stderr, flush=True)
    return bytes(calibrator.network(recipe).write().model.SerializeToString())


def _latencies(models: Sequence[onnx.ModelProto]) -> list[float]:
    engines = {str(number): _open(model.SerializeToString()) for number, model in enumerate(models)}
    shape = [dim.dim_value for dim in models[0].graph.input[0].type.tensor_type.shape.dim]
    times = _interleaved(engines, np.zeros((1, *shape[1:]), np.uint8), _ENTRANCE_ROUNDS)
    return [float(np.median(taken)) for taken in times.values()]


def _open(model: bytes, options: dict[str, str] | None = None) -> Run:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    for key, value in (options or {}).items():
        settings.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return lambda images_rgb: np.asarray(session.run(None, {"image": images_rgb})[0])


def _interleaved(engines: dict[str, Run], image: UInt8Array, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 5):
        for name in engines if number % 2 else reversed(list(engines)):
            started = time.perf_counter()
            engines[name](image)
            if number >= 5:
                times[name].append(time.perf_counter() - started)
    return times


def _logits(run: Run, images: UInt8Array) -> Float64Array:
    """(N, C) float64 logits up to what a softmax ignores, from the probabilities."""
    rows = [run(images[start : start + 8]) for start in range(0, len(images), 8)]
    logs = np.log(np.maximum(np.concatenate(rows).astype(np.float64), 1e-30))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


if __name__ == "__main__":
    main()
