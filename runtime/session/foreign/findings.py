"""Findings: what one source - the user, a preset, the file's metadata, a file beside it - says of a foreign model."""

from dataclasses import dataclass

from edgeclf.runtime.session.foreign.given import ChannelOrder, PixelScaling
from edgeclf.runtime.spec import FitMode, Interpolation

GIVEN = "given"
IN_METADATA = "found in the metadata"
IN_GRAPH = "found in the graph"
MEASURED = "measured on probe images"
ASSUMED = "assumed"


@dataclass(frozen=True)
class Findings:
    """What one source says; None stands for what it does not say.

    Attributes:
        origin: The source, as a phrase: `given`, `found in config.json`.
        labels: Class names.
        scaling: Pixel normalisation, for pixels of 0..255.
        channels: Order of the colours.
        fit: Fit mode.
        crop_fraction: With `crop`, the share that is kept.
        pad_value: With `letterbox`, the grey value of the padding.
        interpolation: Interpolation.
        size_hw: Input height and width in pixels.
        classes: Number of classes; one that differs from the file's makes this another model's description.
        is_multi_label: Whether each class is on its own, so that a sigmoid follows logits.
        unusable_scaling: A pixel normalisation that it says and that contradicts itself, as a phrase.
        notes: What the user has to know of it, sentences without a full stop.
    """

    origin: str
    labels: tuple[str, ...] | None = None
    scaling: PixelScaling | None = None
    channels: ChannelOrder | None = None
    fit: FitMode | None = None
    crop_fraction: float | None = None
    pad_value: int | None = None
    interpolation: Interpolation | None = None
    size_hw: tuple[int, int] | None = None
    classes: int | None = None
    is_multi_label: bool = False
    unusable_scaling: str | None = None
    notes: tuple[str, ...] = ()


def found_in(name: str) -> str:
    """The origin of what a file beside the model says."""
    return f"found in {name}"
