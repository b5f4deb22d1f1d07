import numpy as np
import pytest

from edgeclf.training.networks.folding import batch_norm_affine, fold_affine


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "Dense"])
@pytest.mark.parametrize("use_bias", [False, True])
def test_a_folded_layer_computes_what_the_two_did(kind, use_bias):
    from keras import layers

    rng = np.random.default_rng(3)
    shape = (2, 9) if kind == "Dense" else (2, 7, 7, 9)
    inputs = rng.normal(size=shape).astype(np.float32)
    sizes = {"Conv2D": (5, 3), "DepthwiseConv2D": (3,), "Dense": (5,)}[kind]
    layer = getattr(layers, kind)(*sizes, use_bias=use_bias)
    norm = layers.BatchNormalization(epsilon=1e-3)
    wanted = norm(layer(inputs))
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    channels = norm.gamma.shape
    statistics = [rng.uniform(0.3, 2, channels) * sign for sign in (-1, 1, 1, 1)]
    norm.set_weights(statistics)
    wanted = np.asarray(norm(layer(inputs), training=False))
    scale, offset = batch_norm_affine(*statistics, epsilon=norm.epsilon)
    kernel, *rest = layer.get_weights()
    axis = 2 if kind == "DepthwiseConv2D" else -1
    folded, bias = fold_affine(kernel, rest[0] if rest else None, scale, offset, axis=axis)
    alone = getattr(layers, kind)(*sizes)
    alone(inputs)
    alone.set_weights([folded, bias])
    np.testing.assert_allclose(np.asarray(alone(inputs)), wanted, rtol=1e-4, atol=1e-4)
