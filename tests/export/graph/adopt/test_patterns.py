"""Patterns of exporters in the forms that the quantizer knows, and names of layers; the values stay the same."""

import numpy as np
import pytest

from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling

from .adopted import adopted, run
from .networks import SIZE_HW, Network, operators

GIVEN = ForeignModel(scaling=PixelScaling((120.0,), (60.0,)))


def check(rng, tmp_path, net, given=GIVEN):
    session, result = adopted(net.write(tmp_path / "m.onnx"), given)
    images = rng.integers(0, 256, (4, *SIZE_HW, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (3, 1, 1, 3), dtype=np.uint8)
    np.testing.assert_allclose(run(result.model, images), session.run(images), atol=2e-6)
    return result.model


def padded(net, sides=(1, 1, 2, 1), value=None, mode="constant"):
    """Pads height and width by (top, left, bottom, right)."""
    top, left, bottom, right = sides
    more = [np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)]
    if value is not None:
        more.append(np.float32(value))
    net.op("Pad", *more, mode=mode)


@pytest.mark.parametrize(
    ("value", "mode", "is_merged"),
    [(None, "constant", True), (0, "constant", True), (0.5, "constant", False), (None, "reflect", False)],
)
def test_zeros_are_padded_by_the_convolution_itself(rng, tmp_path, value, mode, is_merged):
    net = Network(rng)
    net.conv(4)
    net.op("Relu")
    padded(net, value=value, mode=mode)
    net.conv(5, pads=[0, 1, 1, 0], strides=[2, 1])
    net.head()
    model = check(rng, tmp_path, net)
    assert ("Pad" in operators(model)) != is_merged


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_zeros_are_padded_by_a_pooling_of_values_that_are_not_negative(rng, tmp_path, kind, activation):
    net = Network(rng)
    net.conv(4)
    net.op(activation)
    padded(net, (1, 1, 1, 1))
    net.op(kind, kernel_shape=[3, 3], strides=[2, 2])
    net.head()
    model = check(rng, tmp_path, net)
    if kind == "MaxPool":
        assert ("Pad" not in operators(model)) == (activation == "Relu")


def test_pads_as_large_as_a_window_are_left(rng, tmp_path):
    net = Network(rng)
    net.conv(4)
    net.op("Relu")
    padded(net, (2, 0, 0, 0))
    net.op("MaxPool", kernel_shape=[2, 2], strides=[1, 1])
    net.head()
    assert "Pad" in operators(check(rng, tmp_path, net))


def test_pads_that_keep_the_size_are_written_out(rng, tmp_path):
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        net = Network(rng)
        net.conv(4, strides=[2, 2], auto_pad=auto)
        net.op("Relu")
        net.conv(4, kernel=2, auto_pad=auto)
        net.op("MaxPool", kernel_shape=[2, 2], strides=[2, 2], auto_pad=auto)
        net.op("AveragePool", kernel_shape=[2, 2], strides=[1, 1], auto_pad=auto)
        net.head()
        model = check(rng, tmp_path, net)
        assert not any(item.name == "auto_pad" for node in model.graph.node for item in node.attribute)


@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("kind", ["axes", "negative axes", "window"])
def test_means_over_height_and_width_are_one_pooling(rng, tmp_path, kind, keeps):
    net = Network(rng)
    net.conv(4)
    if kind == "window":
        net.op("AveragePool", kernel_shape=[SIZE_HW[0] - 2, SIZE_HW[1] - 2])
        net.op("Flatten", axis=1)
    else:
        net.op("ReduceMean", axes=[2, 3] if kind == "axes" else [-1, -2], keepdims=keeps)
        if keeps:
            net.op("Flatten", axis=1)
    net.dense(3)
    net.op("Softmax", axis=1)
    found = operators(check(rng, tmp_path, net))
    assert "GlobalAveragePool" in found
    assert not {"ReduceMean", "AveragePool"} & set(found)


def test_means_over_other_axes_stay(rng, tmp_path):
    net = Network(rng)
    net.conv(4)
    net.op("ReduceMean", axes=[3], keepdims=1)
    net.head()
    assert "ReduceMean" in operators(check(rng, tmp_path, net))


def test_chains_of_clips_are_one(rng, tmp_path):
    net = Network(rng)
    net.conv(4)
    net.op("Relu")
    net.op("Min", np.array(6, np.float32))
    net.head()
    found = operators(check(rng, tmp_path, net))
    assert "Clip" in found
    assert not {"Relu", "Min"} & set(found)


def test_differences_and_divisions_of_constants_are_sums_and_products(rng, tmp_path):
    net = Network(rng)
    net.conv(4)
    net.op("Sub", rng.normal(size=(4, 1, 1)).astype(np.float32))
    net.op("Div", np.float32(6))
    # Away from zero, where a last bit of the divisor would move the quotient by any amount.
    net.op("Abs")
    net.op("Add", np.float32(1))
    net.op("Div", net.value, value=net.constant(np.float32(3)))
    net.head()
    found = operators(check(rng, tmp_path, net))
    # What is divided by the values stays.
    assert [kind for kind in found if kind in {"Sub", "Div"}] == ["Sub", "Div"]
    zero = Network(rng)
    zero.conv(4)
    zero.op("Div", np.array([[[1.0]], [[np.inf]], [[2.0]], [[-3.0]]], np.float32))
    zero.head()
    assert "Div" in operators(check(rng, tmp_path, zero))


def test_layers_have_the_names_of_their_modules_and_all_names_differ(rng, tmp_path):
    net = Network(rng)
    net.conv(4)
    net.op("Relu")
    net.conv(5)
    net.op("Relu")
    net.conv(6)
    net.head()
    convolutions = [node for node in net.nodes if node.op_type == "Conv"]
    names = {"c0": "features.0.weight", "c2": "block.conv.weight", "c4": "onnx::Conv_17"}
    for node, name in zip(convolutions, ("node_conv_1", "/block/conv/Conv", "Conv_7"), strict=True):
        node.name = name
        node.input[:] = [names.get(value, value) for value in node.input]
    for tensor in net.constants:
        tensor.name = names.get(tensor.name, tensor.name)
    model = check(rng, tmp_path, net)
    found = [node.name for node in model.graph.node]
    assert [node.name for node in model.graph.node if node.op_type == "Conv"] == [
        "features.0",
        "/block/conv/Conv",
        "Conv_7",
    ]
    assert len(set(found)) == len(found)
    assert all(found)
