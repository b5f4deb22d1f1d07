"""Equalization of channels across layers: where it may be done, that it changes nothing in float, and what it saves in 8 bits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.graph.light import weights
from edgeclf.export.int8.calibrator import Calibrator, quantize_int8
from edgeclf.export.int8.equalization import equalize, find_streams
from edgeclf.export.int8.observe import observe
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.progress import no_progress

from .networks import SIZE, Builder, plain, relative_error, residual_depthwise, run


def naive(model, images, tmp_path):
    """ONNX Runtime's quantizer as its documentation recommends it for CPUs: QDQ, u8 activations, s8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        rows = iter(np.array_split(images, 6))

        def get_next(self):
            batch = next(self.rows, None)
            return None if batch is None else {"image": batch}

    path = tmp_path / "naive.onnx"
    quantize_static(
        prepare_model(model),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )
    return onnx.load(str(path))


def check_that_only_equalization_helps(model, images, tmp_path):
    wanted = run(model, images[48:])
    broken = relative_error(run(naive(model, images[:48], tmp_path), images[48:]), wanted)
    without = relative_error(run(quantize_int8(model, images[:48]).model, images[48:]), wanted)
    recipe = QuantizationRecipe(equalize=True)
    ours = relative_error(run(quantize_int8(model, images[:48], recipe).model, images[48:]), wanted)
    assert min(broken, without) > 0.5
    assert ours < 0.2


def scaled_channel(factor=1000.0):
    """`plain` with one channel that is a thousand times larger between two convolutions, and the same probabilities."""
    model = plain()
    tensors = {t.name: t for t in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    first, second = convs[0], convs[1]
    weight, bias, further = (numpy_helper.to_array(tensors[n]).copy() for n in (*first.input[1:3], second.input[1]))
    weight[5] *= factor
    bias[5] *= factor
    further[:, 5] /= factor
    for name, value in zip((*first.input[1:3], second.input[1]), (weight, bias, further), strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def test_a_channel_a_thousand_times_larger_is_equalized(images, tmp_path):
    model = scaled_channel()
    np.testing.assert_allclose(run(model, images[48:]), run(plain(), images[48:]), atol=1e-4)
    check_that_only_equalization_helps(model, images, tmp_path)


def test_equalization_changes_no_result_and_evens_channels_out(images):
    model = prepare_model(scaled_channel())
    graph = read_graph(model)
    streams = find_streams(graph)
    # Behind each convolution one: the last reaches the dense layer through pooling and flattening.
    assert len(streams) == 3
    changed, count = equalize(model, graph, channel_peaks(graph, streams, images))
    # The two others are even enough.
    assert count == 1
    np.testing.assert_allclose(run(changed, images[:16]), run(model, images[:16]), atol=1e-4)
    before, after = channel_peaks(graph, streams, images), channel_peaks(read_graph(changed), streams, images)
    (value, *_) = streams[0].measured
    assert before[value].max() / before[value].min() > 500
    assert after[value].max() / after[value].min() < 50


def test_a_network_with_even_channels_is_left_as_it_is(images):
    graph = read_graph(prepare_model(plain()))
    changed, count = equalize(graph.model, graph, channel_peaks(graph, find_streams(graph), images))
    assert (changed, count) == (graph.model, 0)
    assert not Calibrator(plain(), images[:16]).has_uneven_channels
    assert Calibrator(scaled_channel(), images[:16]).has_uneven_channels


def channel_peaks(graph, streams, images):
    wanted = [value for stream in streams for value in stream.measured]
    return observe(graph, wanted, images[:16], no_progress).channel_peaks


def residual(ceiling=None, *, widen=False):
    """Two branches of a sum, with a depthwise layer and a pooling on the way."""
    b = Builder(6)
    b.conv(16, strides=[2, 2])
    start = b.relu()
    b.conv(16, groups=16)
    b.relu(ceiling)
    b.conv(1 if widen else 16, 1)
    b.x = b.op("Add", b.x, start)
    b.channels = 16
    b.relu()
    b.x = b.op("MaxPool", b.x, kernel_shape=[2, 2], strides=[2, 2])
    b.conv(24, 1)
    b.relu()
    return b.finish()


def make_stream_uneven(model, factor):
    """Channel 5 of a residual stream of `residual`, made larger by all that write it, and smaller by all that read it."""
    tensors = {t.name: t for t in model.graph.initializer}
    stem, depthwise, projection, after = (node for node in model.graph.node if node.op_type == "Conv")
    changes = [(stem, 1, factor), (stem, 2, factor), (depthwise, 1, 1 / factor), (projection, 1, factor),
               (projection, 2, factor), (after, 1, 1 / factor)]  # fmt: skip
    for node, operand, by in changes:
        values = numpy_helper.to_array(tensors[node.input[operand]]).copy()
        values[(slice(None), 5) if node is after else 5] *= np.float32(by)
        tensors[node.input[operand]].CopyFrom(numpy_helper.from_array(values, node.input[operand]))
    return model


def test_a_residual_stream_is_equalized_as_one(images, tmp_path):
    model = make_stream_uneven(residual(), 500.0)
    np.testing.assert_allclose(run(model, images[48:]), run(residual(), images[48:]), atol=1e-4)
    graph = read_graph(prepare_model(model))
    streams = find_streams(graph)
    whole = max(streams, key=lambda stream: len(stream.writers))
    assert [len(whole.writers), len(whole.readers), whole.channels] == [2, 2, 16]
    changed, _ = equalize(graph.model, graph, channel_peaks(graph, streams, images))
    np.testing.assert_allclose(run(changed, images[:16]), run(model, images[:16]), atol=1e-4)
    check_that_only_equalization_helps(model, images, tmp_path)


def test_a_sum_that_stretches_one_channel_over_many_is_no_stream(images):
    graph = read_graph(prepare_model(residual(widen=True)))
    sums = {node.output[0] for node in graph.nodes if node.op_type == "Add"}
    assert not any(sums & set(stream.measured) for stream in find_streams(graph))
    model = residual(widen=True)
    got = run(quantize_int8(model, images[:48], QuantizationRecipe(equalize=True)).model, images[48:])
    assert relative_error(got, run(model, images[48:])) < 0.2


def test_only_what_scales_with_its_input_is_equalized_across():
    # Behind ReLU6 a channel cannot be scaled, nor where a sum has a branch that comes from there.
    graph = read_graph(prepare_model(residual_depthwise()))
    for stream in find_streams(graph):
        for value in stream.measured:
            assert graph.producers[value].op_type not in {"Clip", "Add"}
    graph = read_graph(prepare_model(residual(ceiling=6.0)))
    clipped = next(node.output[0] for node in graph.nodes if node.op_type == "Clip")
    assert not any(clipped in stream.measured for stream in find_streams(graph))


def test_columns_behind_a_flattening_without_pooling_are_no_channels():
    b = Builder(7)
    b.conv(4, strides=[8, 8])
    b.relu()
    b.x = b.op("Flatten", b.x)
    weight = b.rng.normal(size=(64, 5)).astype(np.float32)
    b.x = b.op("Gemm", b.x, b.constant(weight), b.constant(np.zeros(5, np.float32)))
    b.nodes.append(helper.make_node("Softmax", [b.x], ["probabilities"], "softmax", axis=-1))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(b.nodes, "g", [image], [output], b.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert find_streams(read_graph(prepare_model(model))) == []


@pytest.mark.parametrize("limit_bytes", [1 << 10, 1 << 13])
def test_weights_in_files_are_equalized_alike(images, monkeypatch, limit_bytes):
    recipe = QuantizationRecipe(equalize=True)
    wanted = Calibrator(scaled_channel(), images[:48]).network(recipe).write().model
    monkeypatch.setattr(weights, "LARGE_BYTES", limit_bytes)
    network = Calibrator(scaled_channel(), images[:48]).network(recipe)
    assert network.equalized_streams == 1
    # With the higher limit all weights that are in files are changed ones.
    in_files = [tensor for tensor in network.graph.model.graph.initializer if weights.is_outside(tensor)]
    assert (len(in_files) == 1) == (limit_bytes == 1 << 13)
    assert list(network.write().model.graph.initializer) == list(wanted.graph.initializer)
