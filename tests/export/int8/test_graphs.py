"""Quantized graphs of many shapes, each run by ONNX Runtime on crops of real photographs and compared with its float form."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.int8.equalize import equalize, find_streams
from edgeclf.export.int8.graph import prepare_model, read_graph
from edgeclf.export.int8.layers import patches, read_layer
from edgeclf.export.int8.observe import observe
from edgeclf.export.int8.saturation import prove_no_saturation
from edgeclf.export.quantize import Calibrator, QuantizationRecipe, quantize_int8
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.progress import no_progress

SIZE = 32


@pytest.fixture(scope="module")
def images():
    from skimage import data

    rng = np.random.default_rng(3)
    photographs = [data.astronaut(), data.chelsea(), data.coffee()]
    crops = []
    for number in range(96):
        photo = photographs[number % 3]
        top, left = rng.integers(0, photo.shape[0] - SIZE), rng.integers(0, photo.shape[1] - SIZE)
        crops.append(photo[top : top + SIZE, left : left + SIZE])
    return np.stack(crops)


class Builder:
    """Writes a float graph from pixels to probabilities, with weights that keep the size of values."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        self.count = 0
        self.x = self.op("Cast", "image", to=TensorProto.FLOAT)
        self.x = self.op("Mul", self.x, self.constant(np.float32(1 / 128)))
        self.x = self.op("Add", self.x, self.constant(np.float32(-127 / 128)))
        self.x = self.op("Transpose", self.x, perm=[0, 3, 1, 2])
        self.channels = 3

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        output = f"v{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], f"{kind.lower()}{self.count}", **attributes))
        return output

    def conv(self, channels, kernel=3, *, groups=1, bias=True, x=None, **attributes):
        x = self.x if x is None else x
        inputs = self.channels // groups
        weight = self.rng.normal(size=(channels, inputs, kernel, kernel)) * np.sqrt(2 / (inputs * kernel * kernel))
        constants = [self.constant(weight.astype(np.float32))]
        if bias:
            constants.append(self.constant(self.rng.normal(size=channels).astype(np.float32) * np.float32(0.1)))
        pads = attributes.pop("pads", [kernel // 2] * 4)
        self.x = self.op("Conv", x, *constants, group=groups, kernel_shape=[kernel, kernel], pads=pads, **attributes)
        self.channels = channels
        return self.x

    def relu(self, ceiling=None):
        if ceiling is None:
            self.x = self.op("Relu", self.x)
        else:
            self.x = self.op("Clip", self.x, self.constant(np.float32(0)), self.constant(np.float32(ceiling)))
        return self.x

    def finish(self, classes=5, *, pool=True, dense="Gemm"):
        if pool:
            self.x = self.op("GlobalAveragePool", self.x)
        self.x = self.op("Flatten", self.x)
        width = self.channels if pool else None
        if width is None:
            raise ValueError("finish without pooling is not built here")
        weight = (self.rng.normal(size=(width, classes)) * 2 / np.sqrt(width)).astype(np.float32)
        if dense == "Gemm":
            self.x = self.op("Gemm", self.x, self.constant(weight), self.constant(np.zeros(classes, np.float32)))
        else:
            self.x = self.op("MatMul", self.x, self.constant(weight))
        self.nodes.append(helper.make_node("Softmax", [self.x], ["probabilities"], "softmax", axis=-1))
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes])
        graph = helper.make_graph(self.nodes, "g", [image], [output], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def run(model, images, output=None):
    if output is not None:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": images})[-1]


def kinds_run(model, tmp_path):
    """The operators ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def plain():
    b = Builder()
    b.conv(16, strides=[2, 2])
    b.relu()
    b.x = b.op("MaxPool", b.x, kernel_shape=[2, 2], strides=[2, 2])
    b.conv(24, bias=False)
    b.relu()
    b.conv(24, 1)
    return b.finish()


def residual_depthwise():
    b = Builder(1)
    b.conv(16, strides=[2, 2])
    start = b.relu(6.0)
    b.conv(16, groups=16)
    b.relu(6.0)
    b.conv(16, 1)
    b.x = b.op("Add", b.x, start)
    b.relu()
    b.conv(32, groups=16)  # two outputs an input: not depthwise to the kernels
    b.relu(6.0)
    return b.finish()


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
        columns = patches(layer, node, inputs, 10**9, np.random.default_rng(0))
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


def relative_error(got, wanted):
    return np.abs(got - wanted).mean() / np.abs(wanted - wanted.mean(axis=0)).mean()


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
    wanted = run(model, images[48:])
    np.testing.assert_allclose(wanted, run(plain(), images[48:]), atol=1e-4)
    broken = relative_error(run(naive(model, images[:48], tmp_path), images[48:]), wanted)
    without = relative_error(run(quantize_int8(model, images[:48]).model, images[48:]), wanted)
    recipe = QuantizationRecipe(equalize=True)
    ours = relative_error(run(quantize_int8(model, images[:48], recipe).model, images[48:]), wanted)
    assert min(broken, without) > 0.5
    assert ours < 0.2


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
    assert not Calibrator(plain(), images[:16]).evens_channels
    assert Calibrator(scaled_channel(), images[:16]).evens_channels


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
    wanted = run(model, images[48:])
    np.testing.assert_allclose(wanted, run(residual(), images[48:]), atol=1e-4)
    graph = read_graph(prepare_model(model))
    streams = find_streams(graph)
    whole = max(streams, key=lambda stream: len(stream.writers))
    assert [len(whole.writers), len(whole.readers), whole.channels] == [2, 2, 16]
    changed, _ = equalize(graph.model, graph, channel_peaks(graph, streams, images))
    np.testing.assert_allclose(run(changed, images[:16]), run(model, images[:16]), atol=1e-4)
    broken = relative_error(run(naive(model, images[:48], tmp_path), images[48:]), wanted)
    without = relative_error(run(quantize_int8(model, images[:48]).model, images[48:]), wanted)
    recipe = QuantizationRecipe(equalize=True)
    ours = relative_error(run(quantize_int8(model, images[:48], recipe).model, images[48:]), wanted)
    assert min(broken, without) > 0.5
    assert ours < 0.2


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
            recipe = QuantizationRecipe(learn_rounding=learn, correct_bias=correct)
            got = run(quantize_int8(model, images[:48], recipe).model, images[48:])
            errors[learn, correct] = relative_error(got, wanted)
    assert max(errors.values()) < 0.3
    assert errors[True, True] <= errors[False, False]
