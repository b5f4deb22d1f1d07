"""Measures top-1 and top-5 accuracy of the EfficientNet-Lites with their own 1000-class ImageNet heads.

    python benchmarks/runtime/imagenet_top1.py IMAGES [--architecture efficientnet-lite0 ...] [--json]

IMAGES holds one photograph of each of the 1000 classes, named so that their sorted order is that of ImageNet's sorted
synsets (n01440764_..., n01443537_...). Each network is converted to ONNX and run by `edgeclf.runtime.Classifier`, with
edgeclf's own decoding and resizing and the centre crop of the networks' published evaluation: size / (size + 32) of the
short side. Exit code 1 when a network is below its limit, which means that its weights were read wrongly.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.runtime import Classifier, ModelSpec, Preprocess
from edgeclf.training.networks.efficientnet_lite import IMAGENET_CLASSES, VARIANTS, build_lite_classifier

LIMITS = {"efficientnet-lite0": 0.88, "efficientnet-lite1": 0.88, "efficientnet-lite2": 0.88}


@dataclass(frozen=True)
class Accuracy:
    """What a network got right, as shares of the images.

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


def measure(name: str, images: Sequence[Path]) -> Accuracy:
    """Classifies the images, the class of each being its position."""
    size = VARIANTS[name].size
    preprocess = Preprocess((size, size), "crop", crop_fraction=size / (size + 32))
    spec = ModelSpec(tuple(map(str, range(IMAGENET_CLASSES))), preprocess, architecture=name)
    proto = onnx_from_keras(build_lite_classifier(name, (size, size)))
    attach_spec(proto, spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("images", type=Path, help="folder of 1000 photographs, one of each class")
    parser.add_argument("--architecture", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if not given.images.is_dir():
        parser.error(f"{given.images} is no folder")
    images = sorted(path for path in given.images.iterdir() if path.is_file())
    if len(images) != IMAGENET_CLASSES:
        parser.error(f"{given.images} holds {len(images)} files, expected one for each of {IMAGENET_CLASSES} classes")
    figures = [measure(name, images) for name in given.architecture]
    if given.json:
        print(json.dumps([asdict(item) for item in figures], indent=2))
    else:
        print(f"{'':22}{'px':>5}{'images':>8}{'top-1':>8}{'top-5':>8}{'limit':>8}")
        for item in figures:
            print(
                f"{item.architecture:22}{item.size_px:5}{item.images:8}{item.top1:8.3f}{item.top5:8.3f}{item.limit:8.2f}"
            )
    return int(any(item.top1 < item.limit for item in figures))


if __name__ == "__main__":
    raise SystemExit(main())
