"""Quantized graphs of many shapes, each run by ONNX Runtime on crops of real photographs and compared with its float form."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.graph.layers import read_layer
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.export.int8.determinism.saturation import prove_no_saturation
from edgeclf.export.int8.layerwise.im2col import im2col
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.errors import InputError, UsageError

from .networks import Builder, kinds_run, plain, relative_error, residual_depthwise, run

pytestmark = pytest.mark.slow


def squeeze_and_excite_with_silu():
    b = Builder(2)
    b.conv(16, strides=[2, 2])
    x = b.op("Mul", b.x, b.op("Sigmoid", b.x))
    b.x = b.op("GlobalAveragePool", x)
    b.conv(4, 1)
    b.relu()
    b.conv(16, 1)
    b.x = b.op("Mul", x, b.op("Sigmoid", b.x))
    b.conv(16)
    return b.finish(dense="MatMul")


def groups_dilation_and_concat():
    b = Builder(3)
    b.conv(16)
    left = b.relu()
    b.conv(16, groups=4)
    b.x = b.op("LeakyRelu", b.x, alpha=0.1)
    right = b.conv(8, 3, dilations=[2, 2], pads=[2, 2, 2, 2])
    b.x = b.op("Concat", left, right, axis=1)
    b.channels = 24
    b.conv(8, 5, pads=[0, 0, 0, 0], strides=[2, 2])
    b.x = b.op("AveragePool", b.x, kernel_shape=[2, 2], strides=[2, 2])
    b.conv(12, 3, pads=[0, 0, 1, 1])
    b.relu(4.0)
    return b.finish()


def arithmetic_with_constants():
    b = Builder(4)
    b.conv(12, strides=[2, 2])
    # hard swish written out: x * clip(x + 3, 0, 6) / 6
    shifted = b.op("Add", b.x, b.constant(np.float32(3)))
    clipped = b.op("Clip", shifted, b.constant(np.float32(0)), b.constant(np.float32(6)))
    b.x = b.op("Mul", b.x, b.op("Mul", clipped, b.constant(np.float32(1 / 6))))
    b.conv(12)
    return b.finish()


def splits():
    """An operator with two outputs, of which the second reaches a layer by itself and the first through a sum."""
    b = Builder(7)
    b.conv(16, strides=[2, 2])
    b.count += 1
    b.nodes.append(helper.make_node("Split", [b.x], ["left", "right"], "split", axis=1))
    b.channels = 8
    b.conv(8, 3, x="right")
    b.x = b.op("Add", b.x, "left")
    b.relu()
    return b.finish()


def shapes_from_values():
    """Shapes computed from other values', a constant that no preparation folds, and a float chain between layers."""
    b = Builder(8)
    b.conv(16, strides=[2, 2])
    count = b.op("Gather", b.op("Shape", b.x), b.constant(np.array([0])), axis=0)
    tail = [b.constant(np.array(size)) for size in ([4, 4, 16, 16], [16, 16, 16])]
    rows, flat = (b.op("Concat", count, size, axis=0) for size in tail)
    b.x = b.op("Reshape", b.x, rows)
    b.x = b.op("Sub", b.x, b.op("ReduceMean", b.x, axes=[2, 3, 4]))
    b.x = b.op("Reshape", b.x, flat)
    b.conv(16)
    b.x = b.op("Mul", b.x, b.op("Cast", b.constant(np.full((1, 1, 1, 1), 2, np.float16)), to=TensorProto.FLOAT))
    b.conv(8)
    return b.finish()


def determinants():
    """An operator that symbolic shape inference does not know."""
    b = Builder(10)
    start = b.conv(8, strides=[2, 2])
    ends = [b.constant(np.array(value)) for value in ([0, 0], [2, 2], [2, 3])]
    x = b.op("Sigmoid", b.op("Det", b.op("Slice", start, *ends)))
    b.x = b.op("Mul", start, b.op("Unsqueeze", x, b.constant(np.array([2, 3]))))
    b.conv(8)
    return b.finish()


def batch_and_rows_swapped():
    """Values of which the first axis counts no images, between layers."""
    b = Builder(9)
    b.conv(8, strides=[2, 2])
    b.x = b.op("Transpose", b.op("Transpose", b.x, perm=[1, 0, 2, 3]), perm=[1, 0, 2, 3])
    b.conv(8)
    return b.finish()


def with_an_operator_of_no_int8_form():
    b = Builder(5)
    b.conv(12, strides=[2, 2])
    b.x = b.op("Softplus", b.x)
    b.conv(12)
    b.relu()
    return b.finish()


GRAPHS = [
    plain,
    residual_depthwise,
    squeeze_and_excite_with_silu,
    groups_dilation_and_concat,
    arithmetic_with_constants,
    with_an_operator_of_no_int8_form,
    splits,
    shapes_from_values,
    batch_and_rows_swapped,
    determinants,
]


@pytest.mark.parametrize("build", GRAPHS)
def test_the_int8_graph_gives_what_the_float_graph_gives(build, images):
    model = build()
    quantized = quantize_int8(model, images[:48])
    wanted, got = run(model, images[48:]), run(quantized.model, images[48:])
    spread = np.abs(wanted - wanted.mean(axis=0)).mean()
    assert np.abs(got - wanted).mean() < 0.2 * spread
    assert quantized.recipe["saturation"]["holds"]
    # Other batch sizes, the same rows.
    np.testing.assert_allclose(run(quantized.model, images[48:51]), got[:3], atol=1e-6)


def test_what_shape_inference_does_not_know_leaves_nothing_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = [node.op_type for node in prepare_model(determinants()).graph.node]
    assert "Det" in kinds
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("build", GRAPHS[:4])
def test_no_layer_is_left_in_float(build, images, tmp_path):
    quantized = quantize_int8(build(), images[:16])
    assert quantized.left_in_float == ()
    kinds = kinds_run(quantized.model, tmp_path)
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Sigmoid", "Mul"} & set(kinds)
    assert "QLinearConv" in kinds


def test_a_product_with_a_number_costs_nothing_and_rounds_nothing(images, tmp_path):
    model = arithmetic_with_constants()
    quantized = quantize_int8(model, images[:16])
    # Of hard swish's two products one is with a sixth.
    assert [node.op_type for node in model.graph.node].count("Mul") == 3
    kinds = kinds_run(quantized.model, tmp_path)
    assert kinds.count("QLinearMul") == 1
    assert not {"Mul", "Identity"} & set(kinds)
    values = {t.name: t for t in quantized.model.graph.initializer}
    (identity,) = [node for node in quantized.model.graph.node if node.op_type == "Identity"]
    before, after = (
        [float(numpy_helper.to_array(values[node.input[1]])) for node in quantized.model.graph.node if of(node)]
        for of in (
            lambda node: node.op_type == "QuantizeLinear" and node.output[0] == identity.input[0],
            lambda node: node.op_type == "DequantizeLinear" and node.input[0] == identity.output[0],
        )
    )
    assert after == pytest.approx([scale / 6 for scale in before], rel=1e-6)
    assert len(after) == 1


@pytest.mark.parametrize("factor", [-1 / 6, [[[[0.5]], [[2.0]], *[[[1.0]]] * 10]]])
def test_a_product_with_anything_else_is_computed(images, tmp_path, factor):
    b = Builder(8)
    b.conv(12, strides=[2, 2])
    b.relu()
    b.x = b.op("Mul", b.x, b.constant(np.asarray(factor, np.float32)))
    b.conv(12)
    model = b.finish()
    quantized = quantize_int8(model, images[:48])
    assert kinds_run(quantized.model, tmp_path).count("QLinearMul") == 1
    assert relative_error(run(quantized.model, images[48:]), run(model, images[48:])) < 0.2


def test_what_has_no_int8_form_stays_in_float_and_is_named(images):
    quantized = quantize_int8(with_an_operator_of_no_int8_form(), images[:16])
    assert [kind for _, kind in quantized.left_in_float] == ["Softplus"]
    assert "Softplus" in [node.op_type for node in quantized.model.graph.node]


@pytest.mark.parametrize("build", [plain, residual_depthwise, squeeze_and_excite_with_silu])
def test_a_layer_can_be_kept_in_float(build, images, tmp_path):
    # ONNX Runtime would quantize the weights of a float layer between 8-bit values by itself.
    model = build()
    whole = quantize_int8(model, images[:16])
    for position, name in enumerate(whole.layers):
        kept = quantize_int8(model, images[:16], QuantizationRecipe(keep_float=(name,)))
        assert kept.layers == (*whole.layers[:position], *whole.layers[position + 1 :])
        assert [left for left, _ in kept.left_in_float] == [name]
        ran = [kind for kind in kinds_run(kept.model, tmp_path) if kind in {"Conv", "FusedConv", "Gemm", "MatMul"}]
        assert len(ran) == 1


def test_a_network_kept_in_float_layer_by_layer_is_the_float_network(images):
    model = residual_depthwise()
    layers = quantize_int8(model, images[:16]).layers
    kept = quantize_int8(model, images[:16], QuantizationRecipe(keep_float=layers))
    np.testing.assert_allclose(run(kept.model, images[48:]), run(model, images[48:]), atol=0.02)
    with pytest.raises(UsageError, match="no layer 'nonsense'"):
        quantize_int8(model, images[:16], QuantizationRecipe(keep_float=("nonsense",)))


def test_a_quantized_model_is_not_quantized_again(images):
    once = quantize_int8(plain(), images[:8])
    with pytest.raises(InputError, match="already quantized"):
        quantize_int8(once.model, images[:8])


def test_values_that_are_not_finite_are_an_error(images):
    model = plain()
    (first,) = [t for t in model.graph.initializer if list(t.dims) == [16, 3, 3, 3]]
    weight = numpy_helper.to_array(first).copy()
    weight[0, 0, 0, 0] = np.nan
    first.CopyFrom(numpy_helper.from_array(weight, first.name))
    with pytest.raises(InputError, match="not finite"):
        quantize_int8(model, images[:8])


def layer_values(model, images, position):
    """The layer at a position, its node, what it reads, and what it gives."""
    graph = read_graph(prepare_model(model))
    found = [(node, layer) for node in graph.nodes if (layer := read_layer(graph, node)) is not None]
    node, layer = found[position]
    return layer, node, run(graph.model, images, node.input[0]), run(graph.model, images, node.output[0])


@pytest.mark.parametrize("build", GRAPHS)
def test_rows_times_patches_is_what_the_layer_computes(build, images):
    model = build()
    graph = read_graph(prepare_model(model))
    count = sum(read_layer(graph, node) is not None for node in graph.nodes)
    for position in range(count):
        layer, node, inputs, outputs = layer_values(model, images[:2], position)
        columns = im2col(layer, node, inputs, 10**9, np.random.default_rng(0))
        per_group = len(layer.rows) // layer.groups
        got = [columns[g] @ layer.rows[g * per_group : (g + 1) * per_group].T for g in range(layer.groups)]
        got = np.concatenate(got, axis=1) + layer.bias
        wanted = np.moveaxis(outputs, 1, -1) if outputs.ndim == 4 else outputs
        np.testing.assert_allclose(got, wanted.reshape(-1, len(layer.rows)), rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(
            layer.weight_of(layer.rows),
            numpy_helper.to_array(next(t for t in graph.model.graph.initializer if t.name == layer.weight_name)),
        )


def test_the_proof_finds_a_pair_that_overflows(images):
    quantized = quantize_int8(plain(), images[:8])
    assert prove_no_saturation(quantized.model).largest_pair <= 128
    weights = [t for t in quantized.model.graph.initializer if t.name.endswith("_weight_codes") and len(t.dims) == 4]
    codes = numpy_helper.to_array(weights[1]).copy()
    # Neighbours along the input channels, the order in which kernels reduce.
    codes[3, 0:2, 1, 1] = 127, 2
    weights[1].CopyFrom(numpy_helper.from_array(codes, weights[1].name))
    proof = prove_no_saturation(quantized.model)
    assert proof.violating == (weights[1].name,)
    assert proof.largest_pair == 129
    # The same two weights at neighbouring places of the kernel are no neighbours in the sum.
    codes[3, 0:2, 1, 1] = 127, -2
    codes[3, 0, 1, 2] = 0
    weights[1].CopyFrom(numpy_helper.from_array(codes, weights[1].name))
    assert prove_no_saturation(quantized.model).holds


def test_full_range_weights_are_used_where_the_constraint_is_off(images):
    quantized = quantize_int8(plain(), images[:8], QuantizationRecipe(target="x86-vnni"))
    assert not quantized.recipe["saturation"]["holds"]


def test_a_dead_depthwise_channel_with_a_bias_is_kept_exactly(images, tmp_path):
    model = residual_depthwise()
    (depthwise,) = [n for n in model.graph.node if n.op_type == "Conv" and n.attribute[0].i == 16 and n.name != "conv"][
        :1
    ]
    tensors = {t.name: t for t in model.graph.initializer}
    weight, bias = (numpy_helper.to_array(tensors[name]).copy() for name in depthwise.input[1:3])
    weight[2] *= 1e-9
    bias[2] = 3.0
    for name, value in zip(depthwise.input[1:3], (weight, bias), strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))
    quantized = quantize_int8(model, images[:48])
    wanted, got = run(model, images[48:]), run(quantized.model, images[48:])
    assert relative_error(got, wanted) < 0.2


def test_every_step_of_the_recipe_can_be_left_out(images):
    model = residual_depthwise()
    wanted = run(model, images[48:])
    errors = {}
    for learn in (False, True):
        for correct in (False, True):
            recipe = QuantizationRecipe(gptq=learn, correct_bias=correct)
            got = run(quantize_int8(model, images[:48], recipe).model, images[48:])
            errors[learn, correct] = relative_error(got, wanted)
    assert max(errors.values()) < 0.3
    assert errors[True, True] <= errors[False, False]
