"""Presets: the preprocessing that common trainers use, by name, each with its source."""

from dataclasses import dataclass, replace
from types import MappingProxyType

from edgeclf.runtime.session.foreign.findings import Findings
from edgeclf.runtime.session.foreign.given import PixelScaling

IMAGENET = PixelScaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
UNIT = PixelScaling((0.0,), (255.0,))
SIGNED_UNIT = PixelScaling((127.5,), (127.5,))


@dataclass(frozen=True)
class Preset:
    """A trainer's preprocessing.

    Attributes:
        findings: What it says.
        source: Where its trainer says so.
    """

    findings: Findings
    source: str


def _preset(name: str, source: str, findings: Findings) -> Preset:
    return Preset(replace(findings, origin=f"preset {name}"), source)


# `timm` is not here: its numbers differ by model and stand in the model's config.json.
PRESETS = MappingProxyType(
    {
        "imagenet": _preset(
            "imagenet",
            "torchvision, transforms/_presets.py, ImageClassification with its defaults: short side 256, centre 224, bilinear",
            Findings("", scaling=IMAGENET, channels="rgb", fit="crop", crop_fraction=0.875, interpolation="bilinear"),
        ),
        "keras-tf": _preset(
            "keras-tf",
            'Keras, applications/imagenet_utils.py, preprocess_input with mode "tf"; utils/image_utils.py, load_img with a '
            "target size",
            Findings("", scaling=SIGNED_UNIT, channels="rgb", fit="stretch"),
        ),
        "keras-caffe": _preset(
            "keras-caffe",
            'Keras, applications/imagenet_utils.py, preprocess_input with mode "caffe"; utils/image_utils.py, load_img with a '
            "target size",
            Findings("", scaling=PixelScaling((123.68, 116.779, 103.939), (1.0,)), channels="bgr", fit="stretch"),
        ),
        "ultralytics": _preset(
            "ultralytics",
            "Ultralytics, data/augment.py, classify_transforms with its defaults: short side, centre, bilinear, 0..1",
            Findings("", scaling=UNIT, channels="rgb", fit="crop", crop_fraction=1.0, interpolation="bilinear"),
        ),
        "teachable-machine": _preset(
            "teachable-machine",
            "Teachable Machine, snippets/markdown/image/tensorflow/keras.md: ImageOps.fit, pixels / 127.5 - 1",
            # Its Lanczos filter is nearest to bicubic.
            Findings("", scaling=SIGNED_UNIT, channels="rgb", fit="crop", crop_fraction=1.0, interpolation="bicubic"),
        ),
    }
)
