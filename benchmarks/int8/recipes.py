"""Compares int8 files of one network: ONNX Runtime's own recipes, and edgeclf's with each of its passes left out.

    python benchmarks/int8/recipes.py IMAGES [--arch efficientnet-lite0] [--calibration 128] [--rounds 60] [--seed 0]
                                       [--save FOLDER] [--only NAME ...] [--quick] [--json]

IMAGES is a folder of photographs; those with the 1000 classes of ImageNet, one each in sorted order, give top-1 as well.
The network has its own 1000-class head. Calibration images are drawn at random and never among those compared. Latencies are of
one image on one thread, all files in turns, medians; agreement is with the float file in ONNX Runtime on this CPU.
With openvino, nncf and ai-edge-litert installed, those are measured in the same run.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import (
    Arguments,
    Report,
    image_files,
    load_pixels,
    median,
    sample_images,
    timed,
    working_folder,
)
from benchmarks.int8.other_engines import (
    Run,
    litert_engine,
    litert_file,
    missing_packages,
    nncf_model,
    onnxruntime_file,
    openvino_engine,
)
from benchmarks.synthetic import build_small_mobile_network, write_photographs
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.keras_backend import KerasModel
from edgeclf.export.verify.timing import latency_ratios
from edgeclf.runtime.arrays import Float64Array, IntArray, UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.spec import ModelSpec, Preprocess
from edgeclf.runtime.timing.comparison import measure_in_turns, ratio_of_rounds
from edgeclf.training.networks.efficientnet_lite import IMAGENET_CLASSES, VARIANTS, build_lite_classifier

_OURS = "edgeclf"
_NNCF = "NNCF, in onnxruntime"
_ANY = "edgeclf, the same on every CPU"
_ALL_INT8 = "edgeclf, first layers in 8 bits too"
_VARIANTS = {
    _ANY: QuantizationRecipe(),
    _ALL_INT8: QuantizationRecipe(fixed_point=False),
    "edgeclf, equalized": QuantizationRecipe(equalize=True),
    "edgeclf, min-max ranges": QuantizationRecipe(ranges="extremes"),
    "edgeclf, nearest rounding": QuantizationRecipe(gptq=False),
    "edgeclf, no bias correction": QuantizationRecipe(correct_bias=False),
    "edgeclf, pair constraint alone": QuantizationRecipe(ranges="extremes", gptq=False, correct_bias=False),
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
        ratio_low: Lower end of the 99 % interval for it.
        ratio_high: Upper end.
        size: Bytes as a multiple of the float file's.
        seconds: What making it took.
    """

    name: str
    agreement: float
    top1: float | None
    cosine: float
    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    size: float
    seconds: float


@dataclass(frozen=True)
class Entry:
    """A file and the engine that runs it.

    Attributes:
        name: For the table.
        make: Makes the file; or the name of the entry whose file it is.
        open: Opens the file in the engine.
    """

    name: str
    make: Callable[[], bytes] | str
    open: Callable[[bytes], Run]


class Files:
    """The entries' files, each made once, when it is first asked for."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._made: dict[str, tuple[bytes, float]] = {}

    def get(self, name: str) -> tuple[bytes, float]:
        """An entry's file, and the seconds that making it took: 0 where it is another entry's."""
        make = self._entries[name].make
        if isinstance(make, str):
            return self.get(make)[0], 0.0
        if name not in self._made:
            started = time.perf_counter()
            self._made[name] = make(), time.perf_counter() - started
        return self._made[name]


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"calibration": 6, "rounds": 8})
    arguments.add_input("images", "folder of photographs")
    arguments.add_argument("--arch", choices=list(VARIANTS), default="efficientnet-lite0")
    arguments.add_argument("--calibration", type=int, default=128)
    arguments.add_argument(
        "--rounds", type=int, default=30, help="two inferences of each in one (default: %(default)s)"
    )
    arguments.add_argument("--seed", type=int, default=0, help="which calibration images are drawn")
    arguments.add_argument("--save", type=Path, help="a folder for fp32.onnx and edgeclf's int8.onnx")
    arguments.add_argument("--only", nargs="+", help="beside fp32, only the files whose name contains one of these")
    given = arguments.parse()
    size = 32 if given.quick else VARIANTS[given.arch].size
    preprocess = Preprocess((size, size), "crop", crop_fraction=size / (size + 32))
    classes = 10 if given.quick else IMAGENET_CLASSES
    spec = ModelSpec(labels=tuple(f"{number:04}" for number in range(classes)), preprocess=preprocess)
    with working_folder() as folder:
        source = given.images or write_photographs(folder / "photographs", 16)
        files, chosen = image_files(source), sample_images(source, seed=given.seed)
        images_rgb = load_pixels(chosen, preprocess)
    class_of = {path: position for position, path in enumerate(files)}
    calibration_rgb, held_rgb = images_rgb[: given.calibration], images_rgb[given.calibration :]
    true = np.array([class_of[path] for path in chosen[given.calibration :]])
    network = (
        build_small_mobile_network(size, classes) if given.quick else build_lite_classifier(given.arch, (size, size))
    )
    fp32 = onnx_from_keras(network)
    entries = [
        Entry("fp32", fp32.SerializeToString, _open),
        *_onnxruntime_entries(fp32, calibration_rgb, spec),
        *_other_entries(network, fp32, calibration_rgb),
    ]
    made = Files(entries)
    wanted = [
        entry
        for entry in entries
        if entry.name == "fp32" or not given.only or any(part in entry.name for part in given.only)
    ]
    report = Report(given)
    columns = {"agreement": ">10.4f", "top1": ">8.4f", "cosine": ">8.4f", "median_ms": ">10.2f", "ratio": ">8.3f"}
    columns |= {"ratio_low": ">10.3f", "ratio_high": ">11.3f", "size": ">7.2f", "seconds": ">9.1f"}
    report.columns({"": "<42", **columns})
    rows = compare(wanted, made, held_rgb, true if len(files) == IMAGENET_CLASSES else None, given.rounds)
    for row in rows:
        report.row(*asdict(row).values())
    if given.save:
        given.save.mkdir(parents=True, exist_ok=True)
        for file, name in (("fp32.onnx", "fp32"), ("int8.onnx", _OURS)):
            proto = onnx.load_from_string(made.get(name)[0])
            attach_spec(proto, spec)
            (given.save / file).write_bytes(proto.SerializeToString())
    report.line(f"{len(held_rgb)} images, {given.calibration} others for calibration; {cpu_info().model}")
    report.close({"images": len(held_rgb), "cpu": cpu_info().to_json(), "rows": [asdict(row) for row in rows]})


def compare(
    entries: Sequence[Entry], files: Files, held_rgb: UInt8Array, true: IntArray | None, rounds: int
) -> list[Row]:
    """Times all entries in turns and compares their logits with those of the first.

    Args:
        entries: The first is the float file.
        files: Theirs.
        held_rgb: (N, H, W, 3) uint8 RGB, images that calibration has not seen.
        true: (N,) class of each; None where it is not known.
        rounds: Two inferences of each in one; at least 8.
    """
    # All are made before the first is timed.
    contents = {entry.name: files.get(entry.name) for entry in entries}
    engines = {entry.name: entry.open(contents[entry.name][0]) for entry in entries}
    first = entries[0].name
    inferences = {name: timed(partial(run, held_rgb[:1])) for name, run in engines.items()}
    measured = measure_in_turns(inferences, rounds=rounds, warmup_rounds=3)
    times_ms = {name: np.array(values) for name, values in measured.items()}
    reference = _logits(engines[first], held_rgb)
    rows = []
    for name, (content, seconds) in contents.items():
        logits = _logits(engines[name], held_rgb)
        predicted = logits.argmax(axis=1)
        norms = np.linalg.norm(logits, axis=1) * np.linalg.norm(reference, axis=1)
        ratio = ratio_of_rounds(times_ms[name], times_ms[first])
        rows.append(
            Row(
                name,
                float((predicted == reference.argmax(axis=1)).mean()),
                None if true is None else float((predicted == true).mean()),
                float(((logits * reference).sum(axis=1) / norms).mean()),
                median(times_ms[name]),
                ratio.median,
                ratio.low,
                ratio.high,
                len(content) / len(contents[first][0]),
                seconds,
            )
        )
    return rows


def _onnxruntime_entries(fp32: onnx.ModelProto, calibration_rgb: UInt8Array, spec: ModelSpec) -> Iterator[Entry]:
    """The int8 files that ONNX Runtime runs: its own recipes, and edgeclf's."""
    default = partial(onnxruntime_file, fp32, calibration_rgb, activations="int8")
    yield Entry("onnxruntime, documented default (s8/s8)", default, _open)
    unsigned = partial(onnxruntime_file, fp32, calibration_rgb)
    yield Entry("onnxruntime, u8/s8", unsigned, _open)
    exact = partial(_open, options={"session.x64quantprecision": "1"})
    yield Entry("onnxruntime, u8/s8, x64quantprecision", unsigned, exact)
    yield Entry("onnxruntime, u8/s8, reduce_range", partial(unsigned, reduce=True), _open)
    make = partial(_edgeclf_file, fp32, calibration_rgb, spec)
    yield Entry(_OURS, partial(make, QuantizationRecipe()), _open)
    for name, recipe in _VARIANTS.items():
        yield Entry(name, partial(make, recipe, timed_prefix=name not in (_ANY, _ALL_INT8)), _open)


def _other_entries(network: KerasModel, fp32: onnx.ModelProto, calibration_rgb: UInt8Array) -> Iterator[Entry]:
    """Files of other engines and quantizers, of those that are installed."""
    missing = missing_packages()
    if missing:
        print(f"left out, as not installed: {', '.join(missing)}", file=sys.stderr)
    if "openvino" not in missing:
        yield Entry("OpenVINO, the fp32 file", "fp32", openvino_engine)
        yield Entry("OpenVINO, edgeclf's file", _OURS, openvino_engine)
    if "nncf" not in missing:
        yield Entry(_NNCF, lambda: nncf_model(fp32, calibration_rgb).SerializeToString(), _open)
    if "nncf" not in missing and "openvino" not in missing:
        yield Entry("NNCF, in OpenVINO", _NNCF, openvino_engine)
    if "ai-edge-litert" not in missing:
        yield Entry("LiteRT, int8", lambda: litert_file(network, calibration_rgb), litert_engine)


def _edgeclf_file(
    fp32: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    spec: ModelSpec,
    recipe: QuantizationRecipe,
    *,
    timed_prefix: bool = True,
) -> bytes:
    calibrator = Calibrator(fp32, calibration_rgb)
    if timed_prefix:
        # Timed as `edgeclf export` times them.
        prefix = calibrator.find_float_prefix(recipe, partial(latency_ratios, spec=spec))
        recipe = replace(recipe, float_prefix=prefix)
    print(f"first layers in float: {', '.join(recipe.float_prefix) or 'none'}", file=sys.stderr, flush=True)
    return bytes(calibrator.network(recipe).write().model.SerializeToString())


def _open(model: bytes, options: dict[str, str] | None = None) -> Run:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    for key, value in (options or {}).items():
        settings.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return lambda images_rgb: np.asarray(session.run(None, {"image": images_rgb})[0])


def _logits(run: Run, images_rgb: UInt8Array) -> Float64Array:
    """(N, C) float64 logits up to what a softmax ignores, from the probabilities."""
    rows = [run(images_rgb[start : start + 8]) for start in range(0, len(images_rgb), 8)]
    logs = np.log(np.maximum(np.concatenate(rows).astype(np.float64), 1e-30))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


if __name__ == "__main__":
    main()
