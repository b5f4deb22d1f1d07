"""Factors that differ between cameras and between ways to prepare images, most fundamental first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.toolkit.doctor.facts import ImageTable

# Blockiness from which on JPEG's blocks are visible, as log2.
_VISIBLE_BLOCKINESS = 0.2


@dataclass(frozen=True)
class Factor:
    """A quantity that differs between cameras or between ways to prepare images.

    Attributes:
        values: Function from the image table to (N,) values on a scale where equal steps matter equally.
        margin: Difference on that scale that no classifier should be sensitive to.
        less: Phrase for an image with a smaller value than another.
        more: Phrase for an image with a larger value than another.
        shown: Property whose median is reported.
        unit: Unit of that property.
    """

    values: Callable[[ImageTable], Float64Array]
    margin: float
    less: str
    more: str
    shown: str
    unit: str = ""


def _column(name: str) -> Callable[[ImageTable], Float64Array]:
    return lambda images: np.asarray(images.properties[name], np.float64)


def _log2(name: str, offset: float = 0.0, share: float = 1.0) -> Callable[[ImageTable], Float64Array]:
    return lambda images: share * np.log2(np.maximum(images.properties[name] + offset, 1e-9))


def channel_share(channel: str) -> Callable[[ImageTable], Float64Array]:
    """Function to (N,) fractions of a channel in the sum of all three; a third for grey images of any brightness."""

    def share(images: ImageTable) -> Float64Array:
        total = images.properties["red"] + images.properties["green"] + images.properties["blue"]
        return np.asarray(np.round((images.properties[channel] + 1.0) / (total + 3.0), 4), np.float64)

    return share


def colourfulness(images: ImageTable) -> Float64Array:
    """(N,) channel spread relative to brightness; about 0 for grey images."""
    return np.asarray(images.properties["channel_spread"] / (images.properties["brightness"] + 8.0), np.float64)


def visible_blockiness(images: ImageTable) -> Float64Array:
    """(N,) log2 blockiness, floored where blocks are invisible, so that it does not depend on how such images were saved."""
    return np.maximum(np.log2(np.maximum(images.properties["blockiness"], 1e-3)), _VISIBLE_BLOCKINESS)


def _is_jpeg(images: ImageTable) -> Float64Array:
    return np.array([format_ == "jpeg" for format_ in images.formats], np.float64)


# In causal order: earlier factors change later ones, but not the reverse. A frame changes the size; fewer pixels change all
# detail; darkness lowers contrast and noise; blur removes noise and JPEG's blocks; compression removes noise; noise adds
# contrast, and colour to grey images. Format and encoding come last, since every other change makes a file be saved again.
# Margins are the changes of mild augmentation (7 % of the brightness ...).
FACTORS: Mapping[str, tuple[Factor, ...]] = {
    "border": (Factor(_column("border"), 0.02, "without a frame", "with a frame", "border", "of the area"),),
    "resolution": (Factor(_log2("megapixels", 0.0, 0.5), 0.1, "smaller", "larger", "megapixels", "megapixels"),),
    "shape": (Factor(_log2("aspect"), 0.1, "narrower", "wider", "aspect", "width to height"),),
    "orientation": (Factor(_column("orientation"), 0.5, "upright", "rotated by EXIF", "orientation"),),
    "brightness": (Factor(_log2("brightness", 8.0), 0.1, "darker", "brighter", "brightness", "of 255"),),
    "blur": (Factor(_column("edge_sharpness"), 0.1, "more blurred", "sharper", "edge_sharpness"),),
    "compression": (
        Factor(visible_blockiness, 0.1, "less compressed", "more compressed", "blockiness", "steps at blocks"),
    ),
    "noise": (Factor(_column("noise"), 1.0, "less noisy", "noisier", "noise", "of 255"),),
    "contrast": (Factor(_log2("contrast", 2.0), 0.15, "of less contrast", "of more contrast", "contrast", "of 255"),),
    "colour": (
        Factor(channel_share("red"), 0.015, "less red", "redder", "red", "of 255"),
        Factor(channel_share("blue"), 0.015, "less blue", "bluer", "blue", "of 255"),
        Factor(colourfulness, 0.05, "less colourful", "more colourful", "saturation", "of 255"),
    ),
    "format": (Factor(_is_jpeg, 0.5, "less often JPEG files", "more often JPEG files", "jpeg_quality"),),
    "encoding": (
        Factor(_column("jpeg_quality"), 10.0, "saved at a lower quality", "saved at a higher quality", "jpeg_quality"),
    ),
}
# Factors that do not show in the pixels, so that a network cannot use them.
NOT_IN_PIXELS = ("format", "encoding", "orientation")
