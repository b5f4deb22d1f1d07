"""Batch normalisation folded into the weights ahead of it: a scale and an offset for each output channel, on arrays."""

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import AnyArray, Float64Array


def batch_norm_affine(
    gamma: npt.ArrayLike, beta: npt.ArrayLike, mean: npt.ArrayLike, variance: npt.ArrayLike, *, epsilon: float
) -> tuple[Float64Array, Float64Array]:
    """Scale and offset of a batch normalisation in inference mode: scale * x + offset = gamma * (x - mean) / deviation + beta.

    Args:
        gamma: (C,) factor; 1 where there is none.
        beta: (C,) summand; 0 where there is none.
        mean: (C,) moving mean.
        variance: (C,) moving variance.
        epsilon: Added to the variance.

    Returns:
        (C,) float64 scale and (C,) float64 offset.
    """
    mean = np.asarray(mean, np.float64)
    scale = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    return scale, np.asarray(beta, np.float64) - mean * scale


def fold_affine(
    kernel: AnyArray, bias: AnyArray | None, scale: Float64Array, offset: Float64Array, *, axis: int = -1
) -> tuple[Float64Array, Float64Array]:
    """Kernel and bias of the layer that computes scale * layer(x) + offset.

    Args:
        kernel: Weights of a convolution or dense layer, in any layout.
        bias: (C,); None for none.
        scale: (C,) of each output channel.
        offset: (C,) of each output channel.
        axis: The axis of the kernel's output channels.

    Returns:
        The kernel in the same layout and (C,) bias, float64.
    """
    along = [1] * kernel.ndim
    along[axis] = -1
    folded = np.asarray(kernel, np.float64) * scale.reshape(along)
    return folded, offset if bias is None else np.asarray(bias, np.float64) * scale + offset
