"""Fake quantization in Keras: differentiable layers that compute what the exported 8-bit layers compute.

Weights are rounded per output channel as `export.int8.weights` rounds them, the pair constraint included; activations as
QuantizeLinear and DequantizeLinear do. Gradients pass both as if nothing had been rounded (Bengio
et al. 2013, the straight-through estimator; Jacob et al. 2018, "Quantization and Training"); those of activations stop
where values were clipped, those of weights do not.

Imports Keras, so import it late.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from keras import layers, ops

from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import MAX_CODE, PAIR_BOUND, quantize_rows
from edgeclf.export.keras_backend import KerasLayer, KerasTensor, KerasVariable
from edgeclf.runtime.arrays import Float64Array
from edgeclf.training.networks.folding import batch_norm_affine, fold_affine

# The channel axis of a kernel, and the order that brings it to rows: output channels first, input channels last.
_TO_ROWS = {"conv": (3, 0, 1, 2), "depthwise": (2, 0, 1, 3), "dense": (1, 0)}
_FROM_ROWS = {"conv": (1, 2, 3, 0), "depthwise": (1, 2, 0, 3), "dense": (1, 0)}

# Steps of the logarithm of a value's scale next to those of weights: at 1e-4, a hundredth.
_RANGE_SPEED = 100.0


def kind_of(layer: KerasLayer) -> str | None:
    """The kind of a layer with an 8-bit form: `conv`, `depthwise` or `dense`; None for any other."""
    if isinstance(layer, layers.DepthwiseConv2D):
        # Only one output channel for each input channel has its own kernels in int8.
        return "depthwise" if layer.depth_multiplier == 1 and layer.data_format == "channels_last" else None
    if type(layer) is layers.Conv2D and layer.data_format == "channels_last":
        return "conv"
    return "dense" if type(layer) is layers.Dense else None


def round_to_codes(scaled: KerasTensor, *, paired: bool) -> KerasTensor:
    """Rounds weights to codes under the pair constraint: `export.int8.weights.round_to_codes` on tensors.

    Args:
        scaled: (O, K) float32 weights in units of the scale.
        paired: Whether neighbours must respect the pair constraint.

    Returns:
        (O, K) float32 whole numbers in -127..127.
    """
    codes = ops.clip(ops.round(scaled), -MAX_CODE, MAX_CODE)
    width = scaled.shape[1]
    if not paired or width < 2:
        return codes
    even = width // 2 * 2
    shape = (-1, even // 2, 2)
    values, pairs = ops.reshape(scaled[:, :even], shape), ops.reshape(codes[:, :even], shape)
    magnitude, size = ops.abs(values), ops.abs(pairs)
    same = ops.sign(pairs[..., 0]) * ops.sign(pairs[..., 1]) > 0
    violated = ops.logical_and(same, size[..., 0] + size[..., 1] > PAIR_BOUND)
    first = ops.clip(
        ops.round((PAIR_BOUND + magnitude[..., 0] - magnitude[..., 1]) / 2), PAIR_BOUND - MAX_CODE, MAX_CODE
    )
    held = ops.sign(pairs) * ops.stack([first, PAIR_BOUND - first], axis=-1)
    pairs = ops.where(violated[..., None], held, pairs)
    return ops.concatenate([ops.reshape(pairs, (-1, even)), codes[:, even:]], axis=1)


class FakeQuantizedLayer(layers.Layer):  # type: ignore[misc] # keras carries no types
    """A convolution or dense layer with the batch normalisation behind it folded in and its weights in 8 bits.

    Its trainable variables are the folded kernel and bias in units of their own sizes: of each output channel and of each
    input channel for the kernel, of each output channel for the bias. Adam's steps have one size for all weights of a
    variable, and a channel that is written 64 times larger and read as many times smaller would be moved 64 times too far.

    Args:
        inner: The layer it stands for, which `write_back` writes to; its variables are read once.
        norm: The batch normalisation behind it; None for none.
        paired: Whether its weights respect the pair constraint; depthwise kernels need not.
        scales: (O,) float64 weight scales it was trained with; None for those of the least error.
    """

    def __init__(
        self, inner: KerasLayer, norm: KerasLayer, *, paired: bool, name: str, scales: Float64Array | None = None
    ) -> None:
        super().__init__(name=name)
        self._given_scales = scales

        # Behind a function, Keras does not take their variables for those of this layer.
        def stands_for() -> tuple[Any, Any]:
            return inner, norm

        self._stands_for = stands_for
        self.kind = kind_of(inner)
        self.paired = paired and self.kind != "depthwise"

    def build(self, _: KerasTensor) -> None:
        """Reads the folded weights, and their scales as shares of the one that maps the largest weight to 127."""
        inner, norm = self._stands_for()
        kernel = np.asarray(inner.kernel, np.float64)
        units = np.ones(inner.kernel.shape[_TO_ROWS[self.kind or ""][0]])
        bias = np.asarray(inner.bias, np.float64) if inner.use_bias else None
        size = np.sqrt(np.square(kernel).mean())
        if norm is not None:
            axis = 2 if self.kind == "depthwise" else -1
            kernel, bias = fold_affine(kernel, bias, *_affine(norm), axis=axis)
            units = np.abs(np.asarray(norm.gamma, np.float64)) if norm.scale else units
        rows = np.asarray(self._rows(kernel), np.float64)
        scales = self._given_scales
        if scales is None:
            _codes, scales = quantize_rows(rows, paired=self.paired)
        finest = np.abs(rows).max(axis=1) / MAX_CODE
        self.shares = _add_weight(self, np.where(finest > 0, scales / np.where(finest > 0, finest, 1.0), 1.0), "shares")
        sizes = self._sizes(kernel)
        relative = np.divide(kernel, sizes, out=np.zeros_like(kernel), where=sizes > 0)
        # As large as the kernel was ahead of the normalisation: learning rates mean what they mean elsewhere.
        spread = np.sqrt(np.square(relative).mean()) / size if size > 0 else 1.0
        self.unit = _add_weight(self, sizes * spread, "unit")
        self.relative = _add_weight(self, relative / spread, "kernel", trainable=True)
        self.bias = None
        if bias is not None:
            self.bias_unit = _add_weight(self, units, "bias_unit")
            start = np.divide(bias, units, out=np.zeros_like(bias), where=units > 0)
            self.bias_rest = _add_weight(self, bias - start * units, "bias_rest")
            self.bias = _add_weight(self, start, "bias", trainable=True)
        self.built = True

    def call(self, inputs: KerasTensor) -> KerasTensor:
        """The layer's output in real units, ahead of any activation function but its own."""
        inner, _ = self._stands_for()
        kernel, bias = self.folded()
        rounded = kernel + ops.stop_gradient(self.rounded(kernel) - kernel)
        if self.kind == "dense":
            outputs = ops.matmul(inputs, rounded)
        else:
            run = ops.depthwise_conv if self.kind == "depthwise" else ops.conv
            outputs = run(
                inputs, rounded, strides=inner.strides, padding=inner.padding, dilation_rate=inner.dilation_rate
            )
        outputs = outputs + bias
        # Where batch normalisation follows, the activation function does not stand in between.
        return outputs if inner.activation is None else inner.activation(outputs)

    def compute_output_shape(self, input_shape: KerasTensor) -> KerasTensor:
        """As of the layer."""
        return self._stands_for()[0].compute_output_shape(input_shape)

    def folded(self) -> tuple[Any, Any]:
        """Kernel and bias with the normalisation in them."""
        bias = 0.0 if self.bias is None else self.bias * self.bias_unit + self.bias_rest
        return self.relative * self.unit, bias

    def rounded(self, kernel: KerasTensor) -> KerasTensor:
        """The quantized and dequantized form of a folded kernel, in real units."""
        rows = self._rows(kernel)
        scales = self._scales(rows)[:, None]
        real = round_to_codes(rows / scales, paired=self.paired) * scales
        order = _FROM_ROWS[self.kind or ""]
        shape = ops.shape(kernel)
        return ops.transpose(ops.reshape(real, [shape[axis] for axis in _TO_ROWS[self.kind or ""]]), order)

    def write_back(self) -> None:
        """Assigns the layer it stands for the weights with which rounding changes nothing: multiples of `scales`."""
        inner, norm = self._stands_for()
        kernel, bias = (np.asarray(value, np.float64) for value in self.folded())
        rounded = np.asarray(self.rounded(kernel), np.float64)
        if norm is None:
            inner.kernel.assign(rounded.astype(np.float32))
            if self.bias is not None:
                inner.bias.assign(bias.astype(np.float32))
            return
        factor, _ = _affine(norm)
        mean = np.asarray(norm.moving_mean, np.float64)
        along = factor.reshape(1, 1, -1, 1) if self.kind == "depthwise" else factor
        # A channel that the normalisation multiplies by zero may have any kernel.
        rounded = np.where(along == 0, np.asarray(inner.kernel), rounded / np.where(along == 0, 1.0, along))
        inner.kernel.assign(rounded.astype(np.float32))
        own = np.asarray(inner.bias, np.float64) if inner.use_bias else 0.0
        if norm.center:
            norm.beta.assign((bias - (own - mean) * factor).astype(np.float32))
        else:
            shift = np.divide(bias, factor, out=np.zeros_like(bias), where=factor != 0)
            norm.moving_mean.assign((own - shift).astype(np.float32))

    def scales(self) -> Float64Array:
        """(O,) scales of the output channels as they are now, exact in float32."""
        kernel, _ = self.folded()
        return np.asarray(self._scales(self._rows(kernel)), np.float64)

    def _scales(self, rows: KerasTensor) -> KerasTensor:
        largest = ops.max(ops.abs(rows), axis=1)
        return ops.where(largest > 0, largest / MAX_CODE * self.shares, 1.0)

    def _sizes(self, kernel: Float64Array) -> Float64Array:
        """Root mean square of each output channel's weights, times that of each input channel's relative to it."""
        if self.kind == "depthwise":
            return np.broadcast_to(np.sqrt(np.square(kernel).mean(axis=(0, 1, 3), keepdims=True)), kernel.shape)
        # (kh, kw, I, O) or (I, O).
        others = tuple(range(kernel.ndim - 2))
        outputs = np.sqrt(np.square(kernel).mean(axis=(*others, -2), keepdims=True))
        even = np.divide(kernel, outputs, out=np.zeros_like(kernel), where=outputs > 0)
        return np.asarray(outputs * np.sqrt(np.square(even).mean(axis=(*others, -1), keepdims=True)))

    def _rows(self, kernel: KerasTensor) -> KerasTensor:
        rows = ops.transpose(ops.convert_to_tensor(kernel, "float32"), _TO_ROWS[self.kind or ""])
        return ops.reshape(rows, (rows.shape[0], -1))


def _add_weight(layer: KerasLayer, values: npt.ArrayLike, name: str, *, trainable: bool = False) -> KerasVariable:
    """Adds a float32 weight that begins with given values to a layer."""

    def initial(*_: object, **__: object) -> KerasTensor:
        return ops.convert_to_tensor(values, "float32")

    return layer.add_weight(shape=np.shape(values), initializer=initial, trainable=trainable, name=name)


def _affine(norm: KerasLayer) -> tuple[Float64Array, Float64Array]:
    """(C,) float64 scale and offset of a batch normalisation layer in inference mode."""
    gamma, beta = norm.gamma if norm.scale else 1.0, norm.beta if norm.center else 0.0
    return batch_norm_affine(gamma, beta, norm.moving_mean, norm.moving_variance, epsilon=norm.epsilon)


class FakeQuantizedValue(layers.Layer):  # type: ignore[misc] # keras carries no types
    """Activations quantized to 8 bits and back with a learned step size (LSQ), so that the loss decides what is clipped.

    The gradient of the scale is that of Esser et al. 2020, "Learned Step Size Quantization"; the trainable variable is the
    scale's logarithm, as in Jain et al. 2020, "Trained Quantization Thresholds".

    Args:
        params: Its zero point, and the scale to begin with.
    """

    def __init__(self, params: QuantParams, name: str) -> None:
        super().__init__(name=name)
        # Weights, so that a checkpoint holds what the values were rounded with.
        self.first_scale = _add_weight(self, params.scale, "first_scale")
        self.zero_point = _add_weight(self, params.zero_point, "zero_point")
        self.log_scale = _add_weight(self, 0.0, "log_scale", trainable=True)

    def call(self, inputs: KerasTensor) -> KerasTensor:
        """The value that the nearest code stands for."""
        scale = self.first_scale * ops.exp(_RANGE_SPEED * self.log_scale)
        inside = ops.clip(inputs / scale, -self.zero_point, 255 - self.zero_point)
        return (inside + ops.stop_gradient(ops.round(inside) - inside)) * scale

    def params(self) -> QuantParams:
        """Scale and zero point as they are now."""
        scale = float(self.first_scale) * float(np.exp(_RANGE_SPEED * float(self.log_scale)))
        return QuantParams(float(np.float32(scale)), int(self.zero_point))

    def compute_output_shape(self, input_shape: KerasTensor) -> KerasTensor:
        """As of the input."""
        return input_shape
