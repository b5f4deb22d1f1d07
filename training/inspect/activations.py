"""Activations of a trained network on a few images: input statistics of its first layer, dead ReLU units."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeclf.export.keras_backend import KerasLayer, KerasModel, KerasTensor, UntypedModule, import_tensorflow
from edgeclf.runtime.arrays import Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.progress import Progress, no_progress

_BATCH = 16
# Layers that prepare pixels; their weights, where they have any, are statistics of the data.
_PREPARING = ("Normalization",)


@dataclass(frozen=True)
class ReluLayer:
    """A layer behind whose ReLU some units may be dead.

    Attributes:
        name: Of the layer.
        units: Its channels.
        dead: Number of units that are zero at every position of every image.
    """

    name: str
    units: int
    dead: int


@dataclass(frozen=True)
class NetworkProbe:
    """Activation statistics of a network on some images.

    Attributes:
        images: Number of images.
        first_layer: Name of the first layer that has weights; the input figures are of what reaches it.
        input_min: Smallest input of the first layer.
        input_max: Largest value.
        input_mean: Mean.
        input_std: Standard deviation.
        pixel_min: Smallest value of the pixels themselves.
        pixel_max: Largest value.
        batch_norm_log10_ratio: Median over the channels of the first batch normalisation of |log10(variance of what reaches
            it / the variance it expects)|; None where there is none.
        relu_layers: In the network's order.
        dropout: Rate of each dropout layer, by name.
        bias_to_kernel: Median over the trained layers of rms(bias) / rms(kernel), which begins at zero; the offset of the
            batch normalisation counts as bias where a layer has none. None where nothing of the kind is trained.
    """

    images: int
    first_layer: str
    input_min: float
    input_max: float
    input_mean: float
    input_std: float
    pixel_min: int
    pixel_max: int
    batch_norm_log10_ratio: float | None
    relu_layers: tuple[ReluLayer, ...]
    dropout: dict[str, float]
    bias_to_kernel: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def probe_network(model: KerasModel, images_rgb: UInt8Array, progress: Progress = no_progress) -> NetworkProbe:
    """Measures the activations of a network on images.

    Args:
        model: A Keras model, uint8 (None, H, W, 3) RGB in.
        images_rgb: (N, H, W, 3) uint8 RGB, at least one.
        progress: Called with the number of images done.
    """
    tensorflow = import_tensorflow()
    from keras import Model, layers

    first = next(layer for layer in model.layers if layer.weights and type(layer).__name__ not in _PREPARING)
    norm = next((layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)), None)
    relus = [layer for layer in model.layers if _is_relu(layer)]
    watched = [first.input, *([norm.input] if norm is not None else []), *(layer.output for layer in relus)]
    inside = Model(model.input, watched)

    # Sums and largest values only: all activations of a large network do not fit into memory.
    @tensorflow.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator, unused-ignore] # no types
    def measure(batch: KerasTensor) -> tuple[list[KerasTensor], list[KerasTensor]]:
        values = [tensorflow.cast(tensor, "float32") for tensor in inside(batch, training=False)]
        found = [_moments(tensorflow, values[0], keep=False)]
        at = 1
        if norm is not None:
            found.append(_moments(tensorflow, values[1], keep=True))
            at = 2
        return found, [tensorflow.reduce_max(value, axis=list(range(value.shape.rank - 1))) for value in values[at:]]

    moments: list[list[Any]] = []
    highest: list[FloatArray] | None = None
    for start in range(0, len(images_rgb), _BATCH):
        found, tops = measure(tensorflow.constant(images_rgb[start : start + _BATCH]))
        moments.append([[np.asarray(part, np.float64) for part in item] for item in found])
        tops = [np.asarray(top) for top in tops]
        highest = tops if highest is None else [np.maximum(a, b) for a, b in zip(highest, tops, strict=True)]
        progress("look inside", min(start + _BATCH, len(images_rgb)), len(images_rgb))
    mean, variance, low, high = _combine([item[0] for item in moments])
    ratio = None
    if norm is not None:
        _, actual, _, _ = _combine([item[1] for item in moments])
        expected = np.asarray(norm.moving_variance, np.float64)
        ratio = float(np.median(np.abs(np.log10((actual + norm.epsilon) / (expected + norm.epsilon)))))
    return NetworkProbe(
        images=len(images_rgb),
        first_layer=first.name,
        input_min=float(low),
        input_max=float(high),
        input_mean=float(mean),
        input_std=float(np.sqrt(variance)),
        pixel_min=int(images_rgb.min()),
        pixel_max=int(images_rgb.max()),
        batch_norm_log10_ratio=ratio,
        relu_layers=tuple(
            ReluLayer(layer.name, len(top), int((top <= 0).sum()))
            for layer, top in zip(relus, highest or [], strict=True)
        ),
        dropout={layer.name: float(layer.rate) for layer in model.layers if isinstance(layer, layers.Dropout)},
        bias_to_kernel=_bias_to_kernel(model),
    )


def _is_relu(layer: KerasLayer) -> bool:
    from keras import activations, layers

    if isinstance(layer, layers.ReLU):
        return True
    return getattr(layer, "activation", None) in {activations.relu, activations.relu6}


def _moments(tensorflow: UntypedModule, value: KerasTensor, *, keep: bool) -> list[Any]:
    """Sum, sum of squares, count, lowest and highest; of each channel where they are kept apart."""
    axes = list(range(value.shape.rank - 1)) if keep else None
    count = tensorflow.cast(tensorflow.size(value), "float64") / (float(value.shape[-1]) if keep else 1.0)
    wide = tensorflow.cast(value, "float64")
    return [
        tensorflow.reduce_sum(wide, axis=axes),
        tensorflow.reduce_sum(wide * wide, axis=axes),
        count,
        tensorflow.reduce_min(value),
        tensorflow.reduce_max(value),
    ]


def _combine(parts: list[list[Float64Array]]) -> tuple[Any, Any, Any, Any]:
    total, squares, count = (sum(part[position] for part in parts) for position in range(3))
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0.0), min(p[3] for p in parts), max(p[4] for p in parts)


def _bias_to_kernel(model: KerasModel) -> float | None:
    ratios = []
    kernel_rms: float | None = None
    for layer in model.layers:
        if not layer.trainable_weights:
            continue
        values = {weight.name: np.asarray(weight, np.float64) for weight in layer.trainable_weights}
        kernels = [value for name, value in values.items() if "kernel" in name]
        kernel_rms = _rms(kernels[0]) if kernels else kernel_rms
        offset = values.get("bias", values.get("beta"))
        if offset is not None and kernel_rms:
            ratios.append(_rms(offset) / kernel_rms)
    return float(np.median(ratios)) if ratios else None


def _rms(values: Float64Array) -> float:
    return float(np.sqrt((values**2).mean()))
