"""Measures the effect of decoding large JPEGs at a reduced size on predictions and time.

    python benchmarks/runtime/reduced_jpeg.py IMAGES MODEL [MODEL ...] [--images 400] [--quick] [--json]

Photographs are enlarged to 12 megapixels (cv2, cubic) and encoded with quality 92, in memory. Each is decoded at full
size, at the reduced size, and - for scale - at full size from a file of quality 95: a difference that nobody would call
one. Agreement is the share of photographs with the same label as at full size.
"""

import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, median, sample_images, working_folder
from benchmarks.synthetic import write_model, write_photographs
from edgeclf.runtime import ModelSession, decode_image, load_image, preprocess_bgr
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.images.header import read_image_header
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.reduced_jpeg import jpeg_reduction

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import FloatArray

_PIXELS = 12_000_000


@dataclass(frozen=True)
class Change:
    """Effect of one way of decoding, against decoding all pixels.

    Attributes:
        model: The model file.
        way: How the photographs were decoded.
        images: How many.
        agreement: Share with the same label.
        probability: Mean over the photographs of the largest change of a probability.
        largest: The largest of them.
        pixel: Mean difference of the model's input, 0..255.
        decode_ms: Median time to decode and preprocess, on one thread; None where it is not meaningful.
        full_ms: The same at full size.
    """

    model: str
    way: str
    images: int
    agreement: float
    probability: float
    largest: float
    pixel: float
    decode_ms: float | None
    full_ms: float


def measure(model: Path, paths: list[Path]) -> list[Change]:
    """Decodes every photograph in three ways and compares the probabilities of one model."""
    session = ModelSession(model)
    preprocess = session.spec.preprocess
    rows: dict[str, list[FloatArray]] = {"full": [], "reduced": [], "quality 95": []}
    pixels: dict[str, list[float]] = {"reduced": [], "quality 95": []}
    seconds: dict[str, list[float]] = {"full": [], "reduced": [], "quality 95": []}
    reductions = set()
    for path in paths:
        image = load_image(path)
        scale = (_PIXELS / (image.shape[0] * image.shape[1])) ** 0.5
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        large = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        data, other = (
            cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes() for quality in (92, 95)
        )
        header = read_image_header(data)
        reductions.add(1 if header is None else jpeg_reduction(header, preprocess))
        inputs = {}
        for way, content, reduce_for in (
            ("full", data, None), ("reduced", data, preprocess), ("quality 95", other, None)
        ):  # fmt: skip
            start = time.perf_counter()
            with opencv_threads_at_most(1):
                inputs[way] = preprocess_bgr(decode_image(content, reduce_for=reduce_for), preprocess)
            seconds[way].append(time.perf_counter() - start)
            rows[way].append(session.run(inputs[way][None])[0])
        for way, values in pixels.items():
            values.append(float(np.abs(inputs[way].astype(np.int16) - inputs["full"]).mean()))
    full = np.stack(rows["full"])
    changes = []
    for way, values in pixels.items():
        found = np.stack(rows[way])
        change = np.abs(found - full).max(axis=1)
        name = f"reduced by {', '.join(map(str, sorted(reductions)))}" if way == "reduced" else way
        changes.append(
            Change(
                model=model.name,
                way=name,
                images=len(paths),
                agreement=float((found.argmax(axis=1) == full.argmax(axis=1)).mean()),
                probability=float(change.mean()),
                largest=float(change.max()),
                pixel=statistics.mean(values),
                decode_ms=median(seconds[way]) * 1e3 if way == "reduced" else None,
                full_ms=median(seconds["full"]) * 1e3,
            )
        )
    return changes


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"images": 2})
    arguments.add_input("images_folder", "folder of photographs, searched recursively", metavar="IMAGES")
    arguments.add_input("models", ".onnx files with an edgeclf spec", metavar="MODEL", several=True)
    arguments.add_argument("--images", type=int, default=400, help="photographs (default: %(default)s)")
    given = arguments.parse()
    with working_folder() as folder:
        source = given.images_folder or write_photographs(folder / "photographs", given.images)
        paths = sample_images(source, given.images)
        models = given.models or [write_model(folder / "model.onnx")]
        changes = [change for model in models for change in measure(model, paths)]
    report = Report(given)
    columns = {"": "<34", "agreement": ">10.4f", "change": ">9.4f", "largest": ">9.3f", "pixels": ">8.2f"}
    report.columns({**columns, "ms": ">8.1f", "full ms": ">9.1f"})
    for item in changes:
        name = f"{item.model}, {item.way}"
        report.row(name, item.agreement, item.probability, item.largest, item.pixel, item.decode_ms, item.full_ms)
    report.line(f"{len(paths)} photographs; {cpu_info().model}")
    report.close({"cpu": cpu_info().to_json(), "changes": [asdict(item) for item in changes]})


if __name__ == "__main__":
    main()
