"""Padded channels: the same answers bit for bit, every depthwise layer at a multiple of 16, and no graph that cannot take it changed."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeclf.export.graph.float_graph import read_graph
from edgeclf.export.graph.pad_channels import pad_depthwise_channels
from edgeclf.export.int8 import calibrator
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.verify.layer_report import compare_layers

from ..int8.networks import SIZE, Builder

# Nothing in fixed point, so that all depthwise layers are in 8 bits.
_RECIPE = QuantizationRecipe(gptq=False, correct_bias=False, fixed_point=False)


@pytest.fixture
def images(rng):
    """(24, 32, 32, 3) uint8 RGB."""
    coarse = rng.integers(0, 200, (24, 4, 4, 3)).repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    return (coarse + rng.integers(0, 56, (24, SIZE, SIZE, 3))).astype(np.uint8)


def inverted_residual():
    """Hard swish, squeeze and excitation, a residual add, PRelu-like constants by channel; 24 and 20 channels."""
    b = Builder(21)
    start = b.conv(16, strides=[2, 2])
    b.conv(24, 1)
    b.x = b.op("HardSwish", b.x)
    b.conv(24, groups=24)
    x = b.op("HardSwish", b.x)
    b.x = b.op("GlobalAveragePool", x)
    b.conv(6, 1)
    b.relu()
    b.conv(24, 1)
    b.x = b.op("Mul", x, b.op("HardSigmoid", b.x, alpha=1 / 6))
    b.x = b.op("Mul", b.x, b.constant(b.rng.uniform(0.5, 1.5, (24, 1, 1)).astype(np.float32)))
    b.conv(16, 1)
    b.x = b.op("Add", b.x, start)
    b.conv(20, 1)
    b.relu(6.0)
    b.conv(20, groups=20, bias=False)
    b.relu(6.0)
    b.conv(16, 1)
    return b.finish()


def trunk_of_odd_width():
    """Depthwise layers on the values that residual adds carry, and a pooling."""
    b = Builder(22)
    start = b.conv(20, strides=[2, 2])
    b.conv(20, groups=20)
    b.conv(20, 1)
    b.x = b.op("Add", b.x, start)
    b.x = b.op("MaxPool", b.x, kernel_shape=[2, 2], strides=[2, 2])
    b.conv(20, groups=20)
    b.relu()
    b.conv(12, 1)
    return b.finish()


def joined():
    """A depthwise layer whose channels are concatenated with others."""
    b = Builder(23)
    left = b.conv(12, strides=[2, 2])
    right = b.conv(12, groups=12)
    b.x, b.channels = b.op("Concat", left, right, axis=1), 24
    b.conv(8, 1)
    return b.finish()


def at_the_end():
    """A depthwise layer whose channels reach a dense layer."""
    b = Builder(24)
    b.conv(12, strides=[2, 2])
    b.conv(12, groups=12)
    return b.finish()


def even():
    b = Builder(25)
    b.conv(16, strides=[2, 2])
    b.conv(16, groups=16)
    b.conv(8, 1)
    return b.finish()


def by_one_channel():
    """A gate of one channel that all channels are multiplied with."""
    b = Builder(26)
    b.conv(12, strides=[2, 2])
    x = b.conv(12, groups=12)
    b.conv(1, 1)
    b.x, b.channels = b.op("Mul", x, b.op("Sigmoid", b.x)), 12
    b.conv(8, 1)
    return b.finish()


def answers(model, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"image": images})[0]


def depthwise_widths(model):
    graph = read_graph(model)
    widths = []
    for node in graph.nodes:
        groups = [item.i for item in node.attribute if item.name == "group" and item.i > 1]
        if node.op_type == "Conv" and groups:
            widths += groups
    return widths


def quantized(build, images, monkeypatch, recipe=_RECIPE):
    """The model as it would be without padding."""
    with monkeypatch.context() as patch:
        patch.setattr(calibrator, "pad_depthwise_channels", lambda _: 0)
        return calibrator.quantize_int8(build(), images, recipe).model


@pytest.mark.parametrize(
    ("build", "before", "after"),
    [
        (inverted_residual, [24, 20], [32, 32]),
        (trunk_of_odd_width, [20, 20], [32, 32]),
        (by_one_channel, [12], [16]),
    ],
)
def test_padded_layers_give_the_same_answers(build, before, after, images, monkeypatch):
    plain = quantized(build, images, monkeypatch)
    assert depthwise_widths(plain) == before
    padded = onnx.ModelProto.FromString(plain.SerializeToString())
    assert pad_depthwise_channels(padded) == len(before)
    onnx.checker.check_model(padded, full_check=True)
    assert depthwise_widths(padded) == after
    assert np.array_equal(answers(plain, images), answers(padded, images))
    # What an export writes is the padded model.
    assert depthwise_widths(calibrator.quantize_int8(build(), images, _RECIPE).model) == after
    # A second time nothing is left to do.
    assert pad_depthwise_channels(padded) == 0


@pytest.mark.parametrize("build", [joined, at_the_end, even])
def test_what_cannot_be_padded_or_need_not_be_stays(build, images, monkeypatch):
    plain = quantized(build, images, monkeypatch)
    before = plain.SerializeToString(deterministic=True)
    assert pad_depthwise_channels(plain) == 0
    assert plain.SerializeToString(deterministic=True) == before


def test_a_depthwise_layer_in_float_needs_no_channels(images, monkeypatch):
    names = [node.name for node in trunk_of_odd_width().graph.node if node.op_type == "Conv"]
    recipe = QuantizationRecipe(gptq=False, correct_bias=False, fixed_point=False, keep_float=(names[1], names[3]))
    plain = quantized(trunk_of_odd_width, images, monkeypatch, recipe)
    assert depthwise_widths(plain) == [20, 20]
    assert pad_depthwise_channels(plain) == 0


def test_a_constant_that_others_read_keeps_its_shape(images, monkeypatch):
    plain = quantized(by_one_channel, images, monkeypatch)
    # The scales of the depthwise layer, read a second time by a value that reaches nothing but the labels' sum.
    graph = read_graph(plain)
    (node,) = [
        node
        for node in graph.nodes
        if node.op_type == "Conv"
        and graph.constants.get(node.input[1]) is None
        and any(item.name == "group" and item.i > 1 for item in node.attribute)
    ]
    scale = graph.producers[node.input[1]].input[1]
    nothing = onnx.helper.make_node("ReduceMin", [scale], ["smallest_scale"], "smallest_scale", keepdims=0)
    plain.graph.node.append(nothing)
    plain.graph.output.append(onnx.helper.make_tensor_value_info("smallest_scale", onnx.TensorProto.FLOAT, []))
    wanted = answers(plain, images)
    assert pad_depthwise_channels(plain) == 1
    onnx.checker.check_model(plain, full_check=True)
    (tensor,) = [tensor for tensor in plain.graph.initializer if tensor.name == scale]
    assert numpy_helper.to_array(tensor).shape == (12,)
    assert np.array_equal(wanted, answers(plain, images))


def test_padded_layers_are_reported_next_to_their_own(images, monkeypatch):
    plain = quantized(inverted_residual, images, monkeypatch)
    padded = calibrator.quantize_int8(inverted_residual(), images, _RECIPE).model
    assert depthwise_widths(plain) != depthwise_widths(padded)
    assert compare_layers(inverted_residual(), padded, images) == compare_layers(inverted_residual(), plain, images)


def bytes_with_a_pad(*pads):
    """A network that pads the bytes of the image, as models of others do whose channels have means of their own."""
    b = Builder(27)
    b.nodes.clear()
    x = b.op(
        "Pad", b.op("Transpose", "image", perm=[0, 3, 1, 2]), b.constant(np.array(pads)), b.constant(np.uint8(200))
    )
    b.x = b.op("Sub", b.op("Cast", x, to=onnx.TensorProto.FLOAT), b.constant(np.float32(120)))
    b.channels = 3 + pads[5]
    b.conv(16, strides=[2, 2])
    b.relu()
    return b.finish()


def pads_in(model, tmp_path):
    """The pads of the first Pad that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    graph = read_graph(onnx.load(options.optimized_model_filepath))
    (pad,) = [node for node in graph.nodes if node.op_type == "Pad"]
    return graph.constants[pad.input[1]].tolist()


def test_a_further_channel_of_the_image_is_added_in_one_row(images, monkeypatch, tmp_path):
    model = bytes_with_a_pad(0, 0, 0, 0, 0, 1, 0, 0)
    found = calibrator.quantize_int8(model, images, _RECIPE).model
    with monkeypatch.context() as patch:
        patch.setattr("edgeclf.export.int8.qdq_writer._padded_image", lambda *_: None)
        plain = calibrator.quantize_int8(model, images, _RECIPE).model
    # By the runtime's own choice on each pixel by itself.
    assert pads_in(plain, tmp_path) == [0, 0, 0, 0, 0, 0, 0, 1]
    assert pads_in(found, tmp_path) == [0, 0, 0, 0, 1, 0]
    assert np.array_equal(answers(found, images), answers(plain, images))


def test_a_pad_around_the_image_stays(images, tmp_path):
    found = calibrator.quantize_int8(bytes_with_a_pad(0, 0, 1, 1, 0, 0, 1, 1), images, _RECIPE).model
    assert len(pads_in(found, tmp_path)) == 8
