"""The image input of a model: its layout, and the conversion of RGB pixels to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from edgeclf.runtime.arrays import AnyArray, UInt8Array
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.session.foreign.given import PixelScaling

Layout = Literal["NCHW", "NHWC"]
_DTYPES = ("uint8", "float32", "float16")
_ORT_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_COLOURS = (1, 3)


class TensorFacts(Protocol):
    """An input or output of a model."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> str:
        """Element type, such as `float32`."""

    @property
    def shape(self) -> Sequence[int | str | None] | None:
        """Dimensions: numbers, names, None for unknown; None for an unknown rank."""


class _OrtFacts(NamedTuple):
    name: str
    dtype: str
    shape: Sequence[int | str | None] | None


class ImageInput(NamedTuple):
    """The image input of a model.

    Attributes:
        name: The input's name.
        dtype: `uint8`, `float32` or `float16`.
        layout: `NCHW` or `NHWC`.
        channels: 1 for grey, or 3.
        size_hw: Height and width in pixels; None for one that is free.
        batch: The only batch size it takes; None for any.
    """

    name: str
    dtype: str
    layout: Layout
    channels: int
    size_hw: tuple[int | None, int | None]
    batch: int | None

    @property
    def is_uint8(self) -> bool:
        """Whether it takes pixels as they are."""
        return self.dtype == "uint8"

    def shape_text(self, size_hw: tuple[int | None, int | None] | None = None) -> str:
        """Its shape, such as `(N, 3, 224, 224)`, with a size in place of its own."""
        sizes = self.size_hw if size_hw is None else size_hw
        height, width = (name if side is None else str(side) for name, side in zip("HW", sizes, strict=True))
        sides = (
            f"{self.channels}, {height}, {width}" if self.layout == "NCHW" else f"{height}, {width}, {self.channels}"
        )
        return f"({self.batch or 'N'}, {sides})"


def facts_of_ort(values: Sequence[Any]) -> list[TensorFacts]:
    """Facts of tensors as ONNX Runtime describes them."""
    return [_OrtFacts(value.name, _ORT_TYPES.get(value.type, value.type), value.shape) for value in values]


def find_image_input(
    values: Sequence[TensorFacts], path: Path, *, usual: Layout | None = None, usual_channels: int | None = None
) -> ImageInput:
    """The image input among the inputs of a model.

    Args:
        values: Its inputs.
        path: The model's file, for the error.
        usual: The layout that its first convolution shows, for shapes that could be either.
        usual_channels: The channels that this convolution takes, for shapes that leave them free.

    Raises:
        ModelFileError: There is not one input that takes images.
    """
    value = values[0] if len(values) == 1 else None
    shape = None if value is None else value.shape
    layout = None if shape is None or len(shape) != 4 else _layout(shape, usual)
    channels: int | str | None = None
    if shape is not None and layout is not None:
        channels = shape[1] if layout == "NCHW" else shape[3]
        if not isinstance(channels, int):
            channels = usual_channels or 3
    if value is None or shape is None or value.dtype not in _DTYPES or layout is None or channels not in _COLOURS:
        raise ModelFileError(
            f"{path} is not an image classifier that edgeclf can run",
            got=_inputs_text(values),
            expected="one uint8, float32 or float16 input (N, H, W, C) or (N, C, H, W) with 1 or 3 channels",
            hint="export the classifier alone, with images as its only input",
        )
    sides = shape[2:4] if layout == "NCHW" else shape[1:3]
    height, width = (side if isinstance(side, int) and side > 0 else None for side in sides)
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return ImageInput(value.name, value.dtype, layout, 1 if channels == 1 else 3, (height, width), batch)


def _layout(shape: Sequence[int | str | None], usual: Layout | None) -> Layout | None:
    first, last = shape[1] in _COLOURS, shape[3] in _COLOURS
    if first and last:
        # (N, 3, H, 3) and the like: images of one or three pixels' width.
        return usual or "NCHW"
    if first or last:
        return "NCHW" if first else "NHWC"
    # Free where the first convolution has its channels.
    return usual if usual is not None and not isinstance(shape[1 if usual == "NCHW" else 3], int) else None


def _inputs_text(values: Sequence[TensorFacts]) -> str:
    shown = [f"{item.name} {item.dtype} {shape_text(item.shape)}" for item in values[:3]]
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return f"input{'s' if len(values) != 1 else ''} {'; '.join(shown) or 'none'}{more}"


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """A shape as text: `(N, 3, 224, 224)`, `?` for what is unknown."""
    if shape is None:
        return "of unknown rank"
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


class PixelConversion:
    """Converts RGB pixels to a model's input, each value by one look in a table of 256.

    Args:
        image_input: The input.
        is_bgr: Whether it takes B, G, R.
        scaling: Pixel normalisation for pixels of 0..255; None leaves them 0..255.
    """

    def __init__(self, image_input: ImageInput, *, is_bgr: bool = False, scaling: PixelScaling | None = None) -> None:
        self._layout = image_input.layout
        self._channels = image_input.channels
        self._is_bgr = is_bgr and image_input.channels == 3
        self._is_float16 = image_input.dtype == "float16"
        # (256, C): what each channel's pixel becomes, channels in the order of the input.
        self._table: AnyArray | None = None
        if not image_input.is_uint8:
            self._table = _table(image_input.channels, scaling, is_bgr=self._is_bgr)
            if self._is_float16:
                # OpenCV has no table of float16; it moves their bits.
                self._table = self._table.astype(np.float16).view(np.uint16)

    def __call__(self, images_rgb: UInt8Array) -> AnyArray:
        """The input tensor of a batch of images.

        Args:
            images_rgb: (N, H, W, 3) uint8, RGB, contiguous.

        Returns:
            The batch in the input's layout and dtype, contiguous: `images_rgb` itself where nothing is to be changed.
        """
        pixels = self._in_order(images_rgb)
        table = self._table
        if self._layout == "NHWC":
            if table is None:
                return pixels
            count, height, width, channels = pixels.shape
            flat = pixels.reshape(count * height, width, channels)
            return self._as_float(cv2.LUT(flat, table[None]).reshape(pixels.shape))
        count, height, width, channels = pixels.shape
        out: AnyArray = np.empty((count, channels, height, width), np.uint8 if table is None else table.dtype)
        for image, planes in zip(pixels, out, strict=True):
            for channel, plane in enumerate(cv2.split(image)):
                if table is None:
                    planes[channel] = plane
                else:
                    cv2.LUT(plane, np.ascontiguousarray(table[:, channel]), planes[channel])
        return self._as_float(out)

    def _in_order(self, images_rgb: UInt8Array) -> UInt8Array:
        """(N, H, W, C) uint8: grey, BGR or RGB as the input takes it."""
        if self._channels == 3 and not self._is_bgr:
            return images_rgb
        count, height, width, _ = images_rgb.shape
        flat = images_rgb.reshape(count * height, width, 3)
        code = cv2.COLOR_RGB2BGR if self._channels == 3 else cv2.COLOR_RGB2GRAY
        return cv2.cvtColor(flat, code).reshape(count, height, width, self._channels)  # type: ignore[no-any-return]  # OpenCV's types are loose

    def _as_float(self, tensor: AnyArray) -> AnyArray:
        return tensor.view(np.float16) if self._is_float16 else tensor


def _table(channels: int, scaling: PixelScaling | None, *, is_bgr: bool) -> AnyArray:
    """(256, C) float32: the values of the pixels 0..255 in each channel of the input."""
    numbers = None if scaling is None else scaling.of_channels(channels)
    mean, std = ((0.0,) * channels, (1.0,) * channels) if numbers is None else numbers
    table = (np.arange(256, dtype=np.float64)[:, None] - np.array(mean)) / np.array(std)
    return np.ascontiguousarray(table[:, ::-1] if is_bgr else table, np.float32)
