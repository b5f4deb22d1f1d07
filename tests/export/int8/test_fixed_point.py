"""Fixed-point layers: sums that are exact, whatever their order."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.export.int8.calibrator import calibrate_network, quantize_int8
from edgeclf.export.int8.fixed_point import (
    FixedPoint,
    choose_fixed_point_prefix,
    fixed_point_of_range,
    fixed_point_weights,
    integer_input,
)
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.recipe import QuantizationRecipe

from .networks import Builder, relative_error, residual_depthwise, run


def mobile(ceiling=6.0):
    """A stem, a depthwise layer and a projection that are cheap beside what follows."""
    b = Builder(2)
    b.conv(8, strides=[2, 2])
    b.relu(ceiling)
    b.conv(8, groups=8)
    b.relu(ceiling)
    b.conv(8, 1)
    b.conv(96)
    b.relu(ceiling)
    return b.finish()


def with_output(model, codes, options=None):
    """A session of a model that gives some codes too."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.output.append(onnx.helper.make_tensor_value_info(codes, onnx.TensorProto.UINT8, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def fixed_layers(quantized):
    return quantized.recipe["fixed_point"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 4096), st.floats(1e-6, 1e3))
def test_no_sum_leaves_what_float32_holds_exactly(seed, width, largest, size):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, width)) * size
    bias = rng.normal(size=5) * size * width
    weights, biases = fixed_point_weights(rows, bias, unit=0.01, largest=largest)
    assert np.array_equal(weights, weights.astype(np.float32))
    assert np.array_equal(biases, biases.astype(np.float32))
    # Integers in units of each row's own grid, the finest power of two that divides all of it.
    x = rng.integers(-largest, largest + 1, size=(3, width)).astype(np.float64)
    for row, offset in zip(weights, biases, strict=True):
        wanted = (x * row).sum(axis=1) + offset
        for _ in range(3):
            order = rng.permutation(width)
            total = np.full(3, offset, np.float32)
            for k in order:
                total = total + np.float32(row[k]) * x[:, k].astype(np.float32)
            assert np.array_equal(total.astype(np.float64), wanted)


def test_weights_are_as_fine_as_the_sums_allow(rng):
    rows = rng.normal(size=(16, 27))
    weights, _ = fixed_point_weights(rows, np.zeros(16), unit=1.0, largest=255)
    # Int8 would err by up to 1/254 of the largest weight.
    assert np.abs(weights - rows).max() < np.abs(rows).max() / 254 / 8
    coarse, _ = fixed_point_weights(rows, np.zeros(16), unit=1.0, largest=255 * 64)
    assert np.abs(coarse - rows).max() > np.abs(weights - rows).max()


def test_values_between_two_layers_have_eleven_bits_and_a_sign():
    assert fixed_point_of_range(0.0, 6.0) == FixedPoint(2.0**-8, 0, 1536)
    signed = fixed_point_of_range(-3.0, 2.0)
    assert signed.step == 2.0**-9
    assert (signed.low, signed.high) == (-1536, 1024)
    assert integer_input(signed) == (2.0**-9, 1536)
    assert integer_input(QuantParams(0.5, 127)) == (0.5, 128)


def test_the_prefix_ends_where_it_would_cost_something():
    graph = read_graph(prepare_model(mobile()))
    pixels = find_pixel_normalisation(graph.model).output
    assert len(choose_fixed_point_prefix(graph, pixels)) == 2
    assert choose_fixed_point_prefix(graph, pixels, share=0.001) == ()
    # A network whose first convolution is a large part of it has none.
    graph = read_graph(prepare_model(residual_depthwise()))
    assert choose_fixed_point_prefix(graph, find_pixel_normalisation(graph.model).output) == ()


@pytest.mark.parametrize("ceiling", [6.0, None])
def test_the_first_layers_give_the_same_bits_under_any_optimisation(images, ceiling):
    quantized = quantize_int8(mobile(ceiling), images[:48])
    assert len(fixed_layers(quantized)) == 2
    assert quantized.left_in_float == ()
    outputs = []
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        codes = next(node.output[0] for node in quantized.model.graph.node if node.op_type == "QuantizeLinear")
        session = with_output(quantized.model, codes, options)
        outputs.append(session.run([codes], {"image": images[48:]})[0])
    assert outputs[0].std() > 1
    for other in outputs[1:]:
        assert np.array_equal(other, outputs[0])


def test_what_the_prefix_gives_is_closer_to_the_float_network(images):
    model = mobile()
    fixed = quantize_int8(model, images[:48])
    plain = quantize_int8(model, images[:48], QuantizationRecipe(fixed_point=False))
    assert fixed_layers(plain) == []
    codes = next(node.output[0] for node in fixed.model.graph.node if node.op_type == "QuantizeLinear")
    value = codes.removesuffix("_u8")
    wanted = run(prepare_model(model), images[48:], value)
    errors = []
    for item in (fixed, plain):
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in item.model.graph.initializer}
        session = with_output(item.model, codes)
        # Behind the channels are those of zeros that int8 depthwise kernels are given.
        got = session.run([codes], {"image": images[48:]})[0].astype(np.float32)[:, : wanted.shape[1]]
        real = (got - constants[f"{value}_zero"]) * constants[f"{value}_scale"]
        errors.append(relative_error(real, wanted))
    # Half of a step of the output is in both.
    assert errors[0] < 0.95 * errors[1]


def test_further_convolutions_can_be_in_fixed_point(images):
    model = residual_depthwise()
    network = calibrate_network(model, images[:32], QuantizationRecipe(exact=("conv5", "conv7")))
    quantized = network.write()
    assert fixed_layers(quantized) == ["conv5", "conv7"]
    assert quantized.left_in_float == ()
    assert relative_error(run(quantized.model, images[32:]), run(model, images[32:])) < 0.2


def test_a_layer_that_is_kept_in_float_is_not_in_fixed_point(images):
    model = mobile()
    first = fixed_layers(quantize_int8(model, images[:16]))[0]
    kept = quantize_int8(model, images[:16], QuantizationRecipe(keep_float=(first,)))
    assert first not in fixed_layers(kept)
    assert first in dict(kept.left_in_float)


def test_recipes_that_bring_their_own_first_layers_have_no_prefix():
    assert QuantizationRecipe().has_fixed_point_prefix
    for changes in ({"fixed_point": False}, {"float_prefix": ("a",)}, {"trained_ranges": True}):
        assert not replace(QuantizationRecipe(), **changes).has_fixed_point_prefix
