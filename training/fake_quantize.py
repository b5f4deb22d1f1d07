"""8-bit arithmetic in a Keras graph that gradients pass through: what an exported layer computes, differentiable.

Weights are rounded per output channel as `export.int8.weights` rounds them, the pair constraint included; activations as
QuantizeLinear and DequantizeLinear do. Behind both, gradients pass as if nothing had been rounded, and stop where values
were clipped (Bengio et al. 2013, the straight-through estimator; Jacob et al. 2018, "Quantization and Training").

Imports Keras, so import it late.
"""

from typing import Any

import numpy as np
from keras import layers, ops

from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import MAX_CODE, PAIR_BOUND, quantize_rows

# The channel axis of a kernel, and the order that brings it to rows: output channels first, input channels last.
_TO_ROWS = {"conv": (3, 0, 1, 2), "depthwise": (2, 0, 1, 3), "dense": (1, 0)}
_FROM_ROWS = {"conv": (1, 2, 3, 0), "depthwise": (1, 2, 0, 3), "dense": (1, 0)}


def kind_of(layer: Any) -> str | None:  # noqa: ANN401 - keras carries no types
    """What a layer with weights is here; None for one that has no such form."""
    if isinstance(layer, layers.DepthwiseConv2D):
        # Only one output channel for each input channel has its own kernels in int8.
        return "depthwise" if layer.depth_multiplier == 1 and layer.data_format == "channels_last" else None
    if type(layer) is layers.Conv2D and layer.data_format == "channels_last":
        return "conv"
    return "dense" if type(layer) is layers.Dense else None


def round_to_codes(scaled: Any, *, paired: bool) -> Any:  # noqa: ANN401
    """The same as `export.int8.weights.round_to_codes`, on tensors.

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

    It shares the variables of the layers it stands for; batch normalisation keeps its statistics.

    Args:
        inner: The layer.
        norm: The batch normalisation behind it; None for none.
        paired: Whether its weights respect the pair constraint; depthwise kernels need not.
    """

    def __init__(self, inner: Any, norm: Any, *, paired: bool, name: str) -> None:  # noqa: ANN401
        super().__init__(name=name)
        self.inner, self.norm = inner, norm
        self.kind = kind_of(inner)
        self.paired = paired and self.kind != "depthwise"

    def build(self, _: Any) -> None:  # noqa: ANN401
        """Chooses the scales that suit the weights as they are, as shares of the one that maps the largest to 127."""
        kernel, _bias = self.folded()
        rows = np.asarray(self._rows(kernel), np.float64)
        _codes, scales = quantize_rows(rows, paired=self.paired)
        finest = np.abs(rows).max(axis=1) / MAX_CODE
        shares = np.where(finest > 0, scales / np.where(finest > 0, finest, 1.0), 1.0)
        self.shares = self.add_weight(
            shape=shares.shape, initializer=lambda *_, **__: ops.convert_to_tensor(shares, "float32"), trainable=False,
            name="scale_shares",
        )  # fmt: skip
        self.built = True

    def call(self, inputs: Any) -> Any:  # noqa: ANN401
        """The layer's output in real units, ahead of any activation function but its own."""
        kernel, bias = self.folded()
        rounded = kernel + ops.stop_gradient(self.rounded(kernel) - kernel)
        if self.kind == "dense":
            outputs = ops.matmul(inputs, rounded)
        else:
            run = ops.depthwise_conv if self.kind == "depthwise" else ops.conv
            outputs = run(
                inputs,
                rounded,
                strides=self.inner.strides,
                padding=self.inner.padding,
                dilation_rate=self.inner.dilation_rate,
            )
        outputs = outputs + bias
        # Where batch normalisation follows, the activation function does not stand in between.
        return outputs if self.inner.activation is None else self.inner.activation(outputs)

    def compute_output_shape(self, input_shape: Any) -> Any:  # noqa: ANN401
        """As of the layer."""
        return self.inner.compute_output_shape(input_shape)

    def folded(self) -> tuple[Any, Any]:
        """Kernel and bias with the normalisation in them."""
        kernel, bias = self.inner.kernel, self.inner.bias if self.inner.use_bias else 0.0
        if self.norm is None:
            return ops.convert_to_tensor(kernel), bias
        factor, mean, beta = self._normalisation()
        return kernel * self._along_channels(factor), (bias - mean) * factor + beta

    def rounded(self, kernel: Any) -> Any:  # noqa: ANN401
        """What a folded kernel is in 8 bits, in real units."""
        rows = self._rows(kernel)
        scales = self._scales(rows)[:, None]
        real = round_to_codes(rows / scales, paired=self.paired) * scales
        order = _FROM_ROWS[self.kind or ""]
        shape = ops.shape(kernel)
        return ops.transpose(ops.reshape(real, [shape[axis] for axis in _TO_ROWS[self.kind or ""]]), order)

    def settle(self) -> None:
        """Gives the layer it stands for the kernel with which it is in 8 bits already."""
        kernel, _ = self.folded()
        scales = np.asarray(self._scales(self._rows(kernel)), np.float64)
        rounded = np.asarray(self.rounded(kernel), np.float64)
        # The largest weight has moved onto the grid as well, and the grid must not move with it.
        largest = np.abs(np.asarray(self._rows(rounded))).max(axis=1)
        self.shares.assign(np.where(largest > 0, scales * MAX_CODE / np.where(largest > 0, largest, 1.0), 1.0))
        if self.norm is not None:
            factor = np.asarray(self._along_channels(self._normalisation()[0]), np.float64)
            # A channel that the normalisation multiplies by zero may have any kernel.
            rounded = np.where(factor == 0, np.asarray(self.inner.kernel), rounded / np.where(factor == 0, 1, factor))
        self.inner.kernel.assign(rounded.astype(np.float32))

    def _scales(self, rows: Any) -> Any:  # noqa: ANN401
        largest = ops.max(ops.abs(rows), axis=1)
        return ops.where(largest > 0, largest / MAX_CODE * self.shares, 1.0)

    def _normalisation(self) -> tuple[Any, Any, Any]:
        norm = self.norm
        deviation = ops.sqrt(norm.moving_variance + norm.epsilon)
        gamma = norm.gamma if norm.scale else ops.ones_like(deviation)
        return gamma / deviation, norm.moving_mean, norm.beta if norm.center else 0.0

    def _along_channels(self, values: Any) -> Any:  # noqa: ANN401
        return ops.reshape(values, (1, 1, -1, 1)) if self.kind == "depthwise" else values

    def _rows(self, kernel: Any) -> Any:  # noqa: ANN401
        rows = ops.transpose(kernel, _TO_ROWS[self.kind or ""])
        return ops.reshape(rows, (rows.shape[0], -1))


class FakeQuantizedValue(layers.Layer):  # type: ignore[misc]
    """A value rounded to 8 bits and back.

    Args:
        params: Its scale and zero point.
    """

    def __init__(self, params: QuantParams, name: str) -> None:
        super().__init__(name=name)
        self.scale = self._constant(params.scale, "scale")
        self.zero_point = self._constant(params.zero_point, "zero_point")

    def _constant(self, value: float, name: str) -> Any:  # noqa: ANN401
        # A weight, so that a checkpoint holds what the values were rounded with.
        return self.add_weight(
            shape=(), initializer=lambda *_, **__: ops.convert_to_tensor(value, "float32"), trainable=False, name=name
        )

    def call(self, inputs: Any) -> Any:  # noqa: ANN401
        """The value that the nearest code stands for."""
        inside = ops.clip(inputs, -self.zero_point * self.scale, (255 - self.zero_point) * self.scale)
        codes = ops.clip(ops.round(inside / self.scale) + self.zero_point, 0, 255)
        return inside + ops.stop_gradient((codes - self.zero_point) * self.scale - inside)

    def compute_output_shape(self, input_shape: Any) -> Any:  # noqa: ANN401
        """As of the input."""
        return input_shape
