"""Measures top-1 and top-5 accuracy of the EfficientNet-Lites with their own 1000-class ImageNet heads.

    python benchmarks/runtime/imagenet_top1.py IMAGES [--architecture efficientnet-lite0 ...] [--quick] [--json]

IMAGES holds one photograph of each of the 1000 classes, named so that their sorted order is that of ImageNet's sorted
synsets (n01440764_..., n01443537_...). Each network is converted to ONNX and run by `edgeclf.runtime.Classifier`, with
edgeclf's own decoding and resizing and the centre crop of the networks' published evaluation: size / (size + 32) of the
short side. Exit code 1 when a network is below its limit, which means that its weights were read wrongly.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, image_files, working_folder
from benchmarks.synthetic import build_small_mobile_network, write_photographs
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.runtime import Classifier, ModelSpec, Preprocess
from edgeclf.training.networks.efficientnet_lite import IMAGENET_CLASSES, VARIANTS, build_lite_classifier

LIMITS = {"efficientnet-lite0": 0.88, "efficientnet-lite1": 0.88, "efficientnet-lite2": 0.88}


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one network, as shares of the images.

    Attributes:
        architecture: Its name.
        size_px: Input height and width.
        images: How many.
        top1: Images whose class was the most probable.
        top5: Images whose class was among the five most probable.
        limit: What top1 must reach.
    """

    architecture: str
    size_px: int
    images: int
    top1: float
    top5: float
    limit: float


def measure(name: str, images: Sequence[Path], *, quick: bool) -> Accuracy:
    """Classifies the images, the class of each being its position; `quick` takes a small network of the same kind."""
    size = 32 if quick else VARIANTS[name].size
    network = build_small_mobile_network(size, IMAGENET_CLASSES) if quick else build_lite_classifier(name, (size, size))
    preprocess = Preprocess((size, size), "crop", crop_fraction=size / (size + 32))
    spec = ModelSpec(tuple(map(str, range(IMAGENET_CLASSES))), preprocess, architecture=name)
    proto = onnx_from_keras(network)
    attach_spec(proto, spec)
    with working_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        found = [[int(label) for label, _ in prediction.top_k(5)] for _, prediction in Classifier(path).stream(images)]
    return Accuracy(
        architecture=name,
        size_px=size,
        images=len(images),
        top1=sum(top[0] == index for index, top in enumerate(found)) / len(images),
        top5=sum(index in top for index, top in enumerate(found)) / len(images),
        limit=LIMITS[name],
    )


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"architecture": ["efficientnet-lite0"]})
    arguments.add_input("images", "folder of 1000 photographs, one of each class")
    arguments.add_argument("--architecture", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    given = arguments.parse()
    with working_folder() as folder:
        images = image_files(given.images or write_photographs(folder / "photographs", 8))
        if len(images) != IMAGENET_CLASSES and not given.quick:
            arguments.error(
                f"{given.images} holds {len(images)} images, expected one of each of {IMAGENET_CLASSES} classes"
            )
        figures = [measure(name, images, quick=given.quick) for name in given.architecture]
    report = Report(given)
    report.columns({"": "<22", "px": ">5", "images": ">8", "top-1": ">8.3f", "top-5": ">8.3f", "limit": ">8.2f"})
    for item in figures:
        report.row(item.architecture, item.size_px, item.images, item.top1, item.top5, item.limit)
    report.close([asdict(item) for item in figures])
    return int(not given.quick and any(item.top1 < item.limit for item in figures))


if __name__ == "__main__":
    raise SystemExit(main())
