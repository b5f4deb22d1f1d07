import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.contract import attach_spec, check_contract
from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.export.verify.parity import compare_probabilities
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec, Preprocess

from ..conftest import LABELS, SIZE_HW

SPEC = ModelSpec(labels=LABELS, preprocess=Preprocess(SIZE_HW))


@pytest.fixture(scope="module")
def int8(fp32, trained):
    return quantize_int8(fp32, trained.train_rgb[::4])


def run(model, images, folder):
    attach_spec(model, SPEC)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return ModelSession(path).run(images)


def test_it_keeps_the_contract_and_shrinks_the_weights(int8):
    attach_spec(int8.model, SPEC)
    check_contract(int8.model, SPEC)
    weights = [numpy_helper.to_array(t) for t in int8.model.graph.initializer if len(t.dims) == 4]
    assert weights
    assert {w.dtype for w in weights} == {np.dtype(np.int8)}


def test_the_written_file_is_proved_to_saturate_nowhere(int8):
    proof = int8.recipe["saturation"]
    assert proof["holds"]
    assert 64 < proof["largest_pair"] <= 128
    assert (proof["layers"], proof["depthwise_layers"]) == (5, 3)
    # Weights of more than seven bits: what reduced range gives away.
    weights = [numpy_helper.to_array(t) for t in int8.model.graph.initializer if t.name.endswith("_weight_codes")]
    assert max(int(np.abs(w.astype(np.int32)).max()) for w in weights) > 64


def test_it_decides_like_keras_on_held_out_photographs(int8, trained, tmp_path):
    wanted = trained.model.predict_on_batch(trained.held_out_rgb)
    got = run(int8.model, trained.held_out_rgb, tmp_path)
    facts = compare_probabilities(wanted, got, "held-out", trained.held_out_indices)
    assert facts.agreement >= 0.97
    assert facts.mean_error < 0.02
    # The negative case: the figure is not one that any network would reach.
    shuffled = compare_probabilities(wanted, np.roll(got, 1, axis=1), "held-out")
    assert shuffled.agreement < 0.5


def test_pixels_enter_the_first_layer_untouched(int8):
    assert int8.recipe["normalisation_folded"] is True
    kinds = [node.op_type for node in int8.model.graph.node]
    assert "Cast" not in kinds
    (first,) = [node for node in int8.model.graph.node if "image" in node.input]
    assert first.op_type == "Transpose"
    (dequantize,) = [node for node in int8.model.graph.node if first.output[0] in node.input]
    constants = {t.name: numpy_helper.to_array(t) for t in int8.model.graph.initializer}
    assert dequantize.op_type == "DequantizeLinear"
    assert float(constants[dequantize.input[1]]) == 1 / 128
    assert int(constants[dequantize.input[2]]) == 127


def test_logits_reach_the_softmax_in_float(int8):
    producers = {name: node.op_type for node in int8.model.graph.node for name in node.output}
    (last,) = [node for node in int8.model.graph.node if node.op_type == "Softmax"]
    assert producers[last.input[0]] in {"MatMul", "Gemm"}


def test_every_node_and_tensor_is_used(int8):
    graph = int8.model.graph
    read = {name for node in graph.node for name in node.input} | {"probabilities"}
    assert all(set(node.output) & read for node in graph.node)
    assert all(t.name in read for t in graph.initializer)


def test_nothing_to_calibrate_on_or_to_quantize_is_an_error(fp32, trained):
    with pytest.raises(InputError, match="no calibration images"):
        quantize_int8(fp32, trained.train_rgb[:0])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 3])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], "mean", axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["m"], ["probabilities"], "softmax"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [out]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    with pytest.raises(InputError, match="without convolutions"):
        quantize_int8(model, trained.train_rgb[:2, :4, :4])


def stem_model(steps):
    """A graph image -> cast -> steps -> transpose -> ReduceMean; a step is (op, constant, constant_first)."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 3])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    nodes = [helper.make_node("Cast", ["image"], ["v0"], "cast", to=TensorProto.FLOAT)]
    constants = []
    for i, (op, value, constant_first) in enumerate(steps):
        constants.append(numpy_helper.from_array(np.float32(value), f"c{i}"))
        inputs = [f"c{i}", f"v{i}"] if constant_first else [f"v{i}", f"c{i}"]
        nodes.append(helper.make_node(op, inputs, [f"v{i + 1}"], f"step{i}"))
    nodes.append(helper.make_node("Transpose", [f"v{len(steps)}"], ["t"], "transpose", perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("ReduceMean", ["t"], ["probabilities"], "mean", axes=[2, 3], keepdims=0))
    graph = helper.make_graph(nodes, "g", [image], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("steps", "zero_point"),
    [
        ([("Mul", 1 / 128, False), ("Add", -127 / 128, False)], 127),
        ([("Sub", 127, False), ("Div", 128, False)], 127),
        ([("Mul", 1 / 255, True)], 0),
        ([("Div", 127.5, False), ("Sub", 1, False)], None),  # zero at 127.5: between two pixel values
        ([("Mul", 1 / 255, False), ("Add", 0.5, False)], None),  # zero below all pixel values
        ([("Sub", 255, True)], None),  # an inverted image: not `pixel - constant`
    ],
)
def test_a_stem_is_exact_in_eight_bits_or_not(steps, zero_point):
    stem = find_pixel_normalisation(stem_model(steps))
    assert stem is not None
    if stem.output != "t":
        assert zero_point is None
        return
    assert stem.perm == (0, 3, 1, 2)
    assert stem.zero_point == zero_point
    if zero_point is not None:
        pixels = np.arange(256)
        np.testing.assert_allclose(stem.scale * (pixels - zero_point), stem.scale * pixels + stem.offset, atol=1e-6)


def test_folding_the_stem_changes_no_number(fp32, trained, tmp_path):
    # The same weights behind a normalisation that cannot be folded, shifted by what is lost in float anyway.
    quantized = quantize_int8(fp32, trained.train_rgb[::4])
    folded = run(quantized.model, trained.held_out_rgb, tmp_path)
    unfolded = onnx.ModelProto.FromString(quantized.model.SerializeToString())
    graph = unfolded.graph
    (transpose,) = [node for node in graph.node if "image" in node.input]
    (dequantize,) = [node for node in graph.node if transpose.output[0] in node.input]
    scale, zero_point = dequantize.input[1], dequantize.input[2]
    # image -> cast -> (x - 127) / 128 -> transpose -> QuantizeLinear -> the same DequantizeLinear, written out in float.
    new = [
        helper.make_node("Cast", ["image"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["as_float", "n127"], ["shifted"]),
        helper.make_node("Mul", ["shifted", scale], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["nchw", scale, zero_point], ["pixels"]),
    ]
    dequantize.input[0] = "pixels"
    rest = [type(n).FromString(n.SerializeToString()) for n in graph.node if n.name != transpose.name]
    del graph.node[:]
    graph.node.extend([*new, *rest])
    graph.initializer.append(numpy_helper.from_array(np.float32(127), "n127"))
    np.testing.assert_array_equal(run(unfolded, trained.held_out_rgb, tmp_path), folded)
