"""What the user says of a model file without an edgeclf spec; every part may be left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.spec import FIT_MODES, INTERPOLATION_NAMES, MOST_PIXELS_OF_A_SIDE, FitMode

ChannelOrder = Literal["rgb", "bgr"]
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)
# What a file's output has been through, inside the graph.
Activation = Literal["softmax", "sigmoid", "logits", "sigmoid-logits"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
# As options call them.
ACTIVATION_NAMES: dict[str, Activation] = {"none": "logits", **{name: name for name in ACTIVATIONS}}
# No mean of pixels 0..255 is smaller, but 0.
_LEAST_BYTE_MEAN = 0.05
PRESET_NAMES = ("imagenet", "keras-tf", "keras-caffe", "ultralytics", "teachable-machine", "timm")


@dataclass(frozen=True)
class PixelScaling:
    """Pixel normalisation of a foreign model: `(pixel - mean) / std`.

    Attributes:
        mean: Subtracted from the pixel values: three numbers in R, G, B order, also where the file takes B, G, R; or one
            number for all channels.
        std: Divisors of the difference, likewise. Where all of them are below 1, both are in units of 0..1.

    Raises:
        UsageError: There are not one or three finite numbers each, or a divisor is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = {len(self.mean), len(self.std)}
        if not counts <= {1, 3} or not all(math.isfinite(v) for v in (*self.mean, *self.std)):
            raise UsageError(
                "bad pixel scaling", got=f"{self.mean} and {self.std}", expected="one or three finite numbers each"
            )
        if not all(value > 0 for value in self.std):
            raise UsageError("bad pixel scaling", got=f"std {self.std}", expected="positive numbers")

    @property
    def is_in_unit_range(self) -> bool:
        """Whether the numbers are for pixels of 0..1: a standard deviation of pixels 0..255 is not below 1."""
        return all(value < 1 for value in self.std)

    def in_bytes(self) -> "PixelScaling":
        """The same normalisation for pixels of 0..255.

        Raises:
            UsageError: One number is of 0..255, and another one of 0..1.
        """
        largest = max(map(abs, self.mean))
        if self.is_in_unit_range:
            if largest > 1:
                raise self._mixed(f"pass --std {numbers_text(tuple(255 * value for value in self.std))}")
            return PixelScaling(tuple(255 * value for value in self.mean), tuple(255 * value for value in self.std))
        if any(value < 1 for value in self.std):
            raise self._mixed("pass those of the training")
        if _LEAST_BYTE_MEAN <= largest < 1:
            # A std of 1 stands beside a mean of 0..1 where nothing is divided.
            std = f" --std {numbers_text((255.0,))}" if set(self.std) == {1.0} else ""
            raise self._mixed(f"pass --mean {numbers_text(tuple(255 * value for value in self.mean))}{std}")
        return self

    def _mixed(self, hint: str) -> UsageError:
        return UsageError(
            "mean and std are in different units",
            got=f"mean {numbers_text(self.mean)} and std {numbers_text(self.std)}",
            expected="both for pixels of 0..255, or both for pixels of 0..1",
            hint=hint,
        )

    def of_channels(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of each of 1 or 3 channels; None where one channel would need different numbers."""
        mean, std = (
            values * count if len(values) == 1 else values if count == 3 else tuple(dict.fromkeys(values))
            for values in (self.mean, self.std)
        )
        return (mean, std) if len(mean) == len(std) == count else None


def numbers_text(values: Sequence[float]) -> str:
    """Numbers as `--mean` takes them."""
    return ",".join(f"{value:.6g}" for value in values)


@dataclass(frozen=True)
class ForeignModel:
    """What the user says of a model file without an edgeclf spec. What is None is found in the file, or assumed.

    Attributes:
        labels: Class names in the order of its outputs; empty for those that are found, else the indices.
        scaling: Pixel normalisation, for a float input.
        preset: Preprocessing by name, one of `PRESET_NAMES`; the other attributes win over it.
        fit: `crop`, `stretch` or `letterbox`, see `Preprocess`.
        crop_fraction: With `crop`, the share of the central region that is kept, in (0, 1].
        interpolation: `area`, `bilinear` or `bicubic`.
        channels: Order of the colours in its input, `rgb` or `bgr`.
        image_size: Height and width in pixels, for an input that leaves them free.
        output: Name of the output with the classes, of several.
        activation: What that output has been through: `softmax`; `sigmoid`, each class on its own; `logits` or `none`, nothing
            yet, so that a softmax follows (of a single output, a sigmoid); `sigmoid-logits`, nothing yet, and a sigmoid
            of each class follows.
        pad_value: With `letterbox`, the grey value of the padding, 0..255.

    Raises:
        UsageError: A value is none of these.
    """

    labels: Sequence[str] = ()
    scaling: PixelScaling | None = None
    preset: str | None = None
    fit: FitMode | None = None
    crop_fraction: float | None = None
    interpolation: str | None = None
    channels: str | None = None
    image_size: tuple[int, int] | None = None
    output: str | None = None
    activation: str | None = None
    pad_value: int | None = None

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("preprocessing", self.preset, PRESET_NAMES),
            ("fit", self.fit, FIT_MODES),
            ("interpolation", self.interpolation, INTERPOLATION_NAMES),
            ("channel order", self.channels, CHANNEL_ORDERS),
            ("output activation", self.activation, ACTIVATION_NAMES),
        ):
            if value is not None and value not in allowed:
                raise UsageError(
                    f"unknown {option} {value!r}", expected=" or ".join(allowed), hint="choose one of them"
                )
        if self.crop_fraction is not None and not 0.0 < self.crop_fraction <= 1.0:
            raise UsageError("bad crop fraction", got=f"{self.crop_fraction:g}", expected="more than 0, and at most 1")
        if self.crop_fraction is not None and self.fit not in {None, "crop"}:
            raise UsageError(
                "a crop fraction goes with crop alone",
                got=f"fit {self.fit}",
                expected="crop",
                hint="leave one of them out",
            )
        if self.pad_value is not None and not 0 <= self.pad_value <= 255:
            raise UsageError("bad grey value of the padding", got=str(self.pad_value), expected="0 to 255")
        is_crop = self.fit is None and self.crop_fraction is not None
        if self.pad_value is not None and (is_crop or self.fit not in {None, "letterbox"}):
            raise UsageError(
                "a grey value of the padding goes with letterbox alone",
                got=f"fit {self.fit}" if self.fit is not None else "a crop fraction",
                expected="letterbox",
                hint="leave one of them out",
            )
        if (
            self.image_size is not None
            and not 1 <= min(self.image_size) <= max(self.image_size) <= MOST_PIXELS_OF_A_SIDE
        ):
            raise UsageError(
                "bad image size",
                got=f"{self.image_size}",
                expected=f"height and width of 1 to {MOST_PIXELS_OF_A_SIDE} pixels",
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said."""
        return all(not getattr(self, item.name) for item in fields(self))
