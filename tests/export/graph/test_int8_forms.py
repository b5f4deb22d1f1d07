"""Operators without an int8 kernel in their int8 forms: the same values in float, and nothing but int8 kernels after."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.graph.int8_forms import prepare_for_int8
from edgeclf.export.int8.calibrator import quantize_int8

from ..int8.networks import SIZE, Builder, kinds_run, relative_error, run


@pytest.fixture
def images(rng):
    """(64, 32, 32, 3) uint8 RGB with structure of two sizes."""
    coarse = rng.integers(0, 200, (64, 4, 4, 3)).repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    return (coarse + rng.integers(0, 56, (64, SIZE, SIZE, 3))).astype(np.uint8)


def hard_swish_and_excitation():
    b = Builder(11)
    b.conv(16, strides=[2, 2])
    x = b.op("HardSwish", b.x)
    b.x = b.op("GlobalAveragePool", x)
    b.conv(8, 1)
    b.relu()
    b.conv(16, 1)
    b.x = b.op("Mul", x, b.op("HardSigmoid", b.x, alpha=0.3, beta=0.4))
    b.conv(16)
    return b.finish()


def norm_ahead_of_its_convolution():
    """As in ResNets of the second version and in DenseNets."""
    b = Builder(12)
    start = b.conv(16, strides=[2, 2])
    b.x = b.op("Add", b.conv(16), start)
    norm = [b.rng.uniform(low, 2, 16).astype(np.float32) for low in (0.5, -2, -0.5, 0.5)]
    b.x = b.op("BatchNormalization", b.x, *(b.constant(values) for values in norm), epsilon=1e-3)
    b.relu()
    b.conv(16)
    return b.finish()


def uneven_split_and_one_slope():
    b = Builder(13)
    b.conv(16, strides=[2, 2])
    b.x = b.op("PRelu", b.x, b.constant(np.full((16, 1, 1), 0.2, np.float32)))
    first = b.op("Split", b.x, b.constant(np.array([6, 10])), axis=1)
    b.nodes[-1].output.append("second")
    b.channels = 10
    right = b.conv(10, x="second")
    b.x = b.op("Concat", first, right, axis=1)
    b.relu()
    b.channels = 16
    b.conv(16)
    return b.finish()


def means_of_height_and_width():
    b = Builder(16)
    x = b.conv(16, strides=[2, 2])
    b.x = b.op("ReduceMean", x, axes=[-1, 2])
    b.x = b.op("Mul", x, b.op("Sigmoid", b.conv(16, 1)))
    b.conv(16)
    last = b.op("Transpose", b.x, perm=[0, 2, 3, 1])
    gate = b.op("Sigmoid", b.op("ReduceMean", last, axes=[1, 2]))
    b.x = b.op("Transpose", b.op("Mul", last, gate), perm=[0, 3, 1, 2])
    b.conv(16, 1)
    b.x = b.op("ReduceMean", b.x, axes=[2, 3], keepdims=0)
    b.x = b.op("Unsqueeze", b.x, b.constant(np.array([2, 3])))
    return b.finish(pool=False)


def means_of_windows():
    b = Builder(17)
    b.conv(16, strides=[2, 2])
    b.relu()
    b.x = b.op("AveragePool", b.x, kernel_shape=[3, 2], strides=[2, 1])
    b.conv(16)
    b.x = b.op("AveragePool", b.x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    b.conv(16)
    return b.finish()


BUILDS = [
    means_of_windows,
    hard_swish_and_excitation,
    norm_ahead_of_its_convolution,
    uneven_split_and_one_slope,
    means_of_height_and_width,
]
REWRITTEN = {"AveragePool", "ReduceMean", "HardSwish", "HardSigmoid", "BatchNormalization", "PRelu", "Split"}


@pytest.mark.parametrize("build", BUILDS)
def test_the_forms_compute_the_same(build, images):
    model = build()
    assert REWRITTEN & {node.op_type for node in prepare_model(model).graph.node}
    prepared = prepare_for_int8(model)
    assert not REWRITTEN & {node.op_type for node in prepared.graph.node}
    np.testing.assert_allclose(run(prepared, images), run(model, images), rtol=1e-4, atol=1e-6)
    # What is known by its name keeps it.
    names = {node.name for node in prepare_model(model).graph.node if node.op_type != "Split"}
    found = [node.name for node in prepared.graph.node]
    assert names <= set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("build", BUILDS)
def test_nodes_without_names_have_some_in_their_forms(build):
    model = build()
    for node in model.graph.node:
        node.name = ""
    names = [node.name for node in prepare_for_int8(model).graph.node if node.name]
    assert names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("build", BUILDS)
def test_nothing_is_left_in_float(build, images, tmp_path):
    model = build()
    quantized = quantize_int8(model, images[:48])
    assert quantized.left_in_float == ()
    assert quantized.recipe["portable"], quantized.recipe["portable_reason"]
    kinds = set(kinds_run(quantized.model, tmp_path))
    assert not kinds & {"Conv", "Add", "Mul", "Relu", "LeakyRelu", "Clip", "HardSigmoid", "QuantizeLinear"}, kinds
    assert relative_error(run(quantized.model, images[48:]), run(model, images[48:])) < 0.25


def number_added_to_a_convolution(number=0.7, *, bias=True, kept=False):
    b = Builder(19)
    first = b.conv(16, strides=[2, 2], bias=bias)
    b.x = b.op("Add", b.constant(np.asarray(number, np.float32)), first)
    b.relu(4.0)
    b.conv(16)
    if kept:
        b.x = b.op("Add", b.x, first)
        b.conv(8)
    return b.finish()


@pytest.mark.parametrize("bias", [True, False])
def test_a_number_added_to_a_convolution_goes_into_its_bias(bias, images):
    model = number_added_to_a_convolution(bias=bias)
    prepared = prepare_for_int8(model)
    assert "Add" not in [node.op_type for node in read_graph(prepared).nodes[4:]]
    np.testing.assert_allclose(run(prepared, images), run(model, images), rtol=1e-4, atol=1e-6)


def test_a_hard_sigmoid_behind_a_convolution_needs_no_sum(images):
    prepared = prepare_for_int8(hard_swish_and_excitation())
    sums = [node for node in prepared.graph.node if node.op_type == "Add" and node.name.endswith("/add")]
    # That of the hard swish alone, whose convolution is read twice.
    assert len(sums) == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: number_added_to_a_convolution(kept=True),
        lambda: number_added_to_a_convolution(np.full((1, 1, 1, 16), 0.5)),
    ],
)
def test_a_sum_of_more_than_a_number_or_of_what_others_read_stays(build, images):
    model = build()
    kinds = [
        [node.op_type for node in graph.graph.node].count("Add")
        for graph in (prepare_model(model), prepare_for_int8(model))
    ]
    assert kinds[0] == kinds[1]


def test_sums_stay_where_biases_are_not_simulated():
    kinds = [node.op_type for node in prepare_for_int8(number_added_to_a_convolution(), norms=False).graph.node]
    assert kinds.count("Add") == [node.op_type for node in number_added_to_a_convolution().graph.node].count("Add")


def test_means_of_fewer_places_at_the_edges_stay():
    b = Builder(18)
    b.conv(8, strides=[2, 2])
    b.x = b.op("AveragePool", b.x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    b.conv(8)
    assert "AveragePool" in [node.op_type for node in prepare_for_int8(b.finish()).graph.node]
    assert "AveragePool" in [node.op_type for node in prepare_for_int8(means_of_windows(), norms=False).graph.node]


def test_a_norm_stays_where_its_weights_are_not_simulated(images):
    kinds = [node.op_type for node in prepare_for_int8(norm_ahead_of_its_convolution(), norms=False).graph.node]
    assert kinds.count("BatchNormalization") == 1


def test_what_has_no_int8_form_stays(images, rng):
    b = Builder(14)
    b.conv(12, strides=[2, 2])
    b.x = b.op("PRelu", b.x, b.constant(rng.uniform(0.1, 0.3, (12, 1, 1)).astype(np.float32)))
    b.x = b.op("HardSigmoid", b.x, alpha=-0.2)
    b.conv(8)
    model = b.finish()
    kinds = [node.op_type for node in prepare_for_int8(model).graph.node]
    assert kinds.count("PRelu") == kinds.count("HardSigmoid") == 1
    quantized = quantize_int8(model, images[:16])
    assert sorted(kind for _, kind in quantized.left_in_float) == ["HardSigmoid", "PRelu"]
    assert quantized.recipe["portable_reason"].startswith("1 PRelu, 1 HardSigmoid (")


def test_the_cast_of_a_newer_operator_set_is_read(images):
    model = hard_swish_and_excitation()
    model.opset_import[0].version = 20
    model.ir_version = 9
    (cast,) = [node for node in model.graph.node if node.op_type == "Cast"]
    cast.attribute.append(helper.make_attribute("saturate", 1))
    quantized = quantize_int8(model, images[:16])
    assert quantized.recipe["normalisation_folded"]
    assert quantized.left_in_float == ()


def test_a_split_of_images_stays(images):
    # Along the first axis there would be other images behind it.
    b = Builder(15)
    b.conv(8, strides=[2, 2])
    b.x = b.op("Split", b.x, axis=0)
    b.conv(8)
    model = b.finish()
    assert "Split" in [node.op_type for node in prepare_for_int8(model).graph.node]
    assert not [t.name for t in model.graph.initializer if numpy_helper.to_array(t).dtype == np.int64]
