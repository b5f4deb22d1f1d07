import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.graph.fuse_clips import fuse_clips
from edgeclf.export.int8.calibrator import quantize_int8


def graph_of(steps, *, second_reader=False, dims=(), dtype=np.float32):
    """x through Relu, (Max, c), (Min, c) and (Clip, low, high) in their order."""
    nodes, constants, value = [], [], "x"
    for number, (kind, *ends) in enumerate(steps):
        names = []
        for end in ends:
            names.append(f"c{len(constants)}")
            constants.append(numpy_helper.from_array(np.full(dims, end, dtype), names[-1]))
        # Both orders of the operands mean the same.
        inputs = [*names, value] if kind in {"Min", "Max"} and number % 2 else [value, *names]
        nodes.append(helper.make_node(kind, inputs, [f"v{number}"], f"n{number}"))
        value = f"v{number}"
    nodes.append(helper.make_node("Identity", [value], ["y"], "last"))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])]
    if second_reader:
        nodes.append(helper.make_node("Neg", ["v0"], ["z"], "second"))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs, constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


ENDS = st.floats(-5, 5, width=32)
STEP = st.one_of(
    st.just(("Relu",)), st.tuples(st.sampled_from(["Max", "Min"]), ENDS), st.tuples(st.just("Clip"), ENDS, ENDS).map(
        lambda step: (step[0], *sorted(step[1:]))
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=5), st.integers(0, 1 << 30))
def test_a_chain_and_its_clip_give_the_same(steps, seed):
    x = np.random.default_rng(seed).normal(0, 4, (8, 3)).astype(np.float32)
    model = graph_of(steps)
    (wanted,) = run(model, x)
    count = fuse_clips(model)
    onnx.checker.check_model(model)
    kinds = [node.op_type for node in model.graph.node]
    if {kind for kind, *_ in steps} & {"Min", "Max"}:
        assert (count, kinds) == (1, ["Clip", "Identity"])
    else:
        assert (count, len(kinds)) == (0, len(steps) + 1)
    np.testing.assert_array_equal(run(model, x)[0], wanted)


def test_a_value_that_something_else_reads_stays():
    model = graph_of([("Relu",), ("Min", 2.0), ("Max", 0.5)], second_reader=True)
    x = np.random.default_rng(0).normal(0, 4, (8, 3)).astype(np.float32)
    wanted = run(model, x)
    assert fuse_clips(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Relu", "Clip", "Identity", "Neg"]
    for got, value in zip(run(model, x), wanted, strict=True):
        np.testing.assert_array_equal(got, value)


@pytest.mark.parametrize("dims", [(3,), (1, 1, 1)])
def test_ends_that_are_more_than_one_number_or_add_axes_stay(dims):
    model = graph_of([("Min", 2.0)], dims=dims)
    assert fuse_clips(model) == 0
    assert [node.op_type for node in model.graph.node] == ["Min", "Identity"]


def test_a_number_with_axes_that_the_value_has_as_well_is_one():
    model = graph_of([("Min", 2.0), ("Max", 0.5)], dims=(1, 1))
    x = np.random.default_rng(0).normal(0, 4, (8, 3)).astype(np.float32)
    (wanted,) = run(model, x)
    assert fuse_clips(model) == 1
    np.testing.assert_array_equal(run(model, x)[0], wanted)


def test_a_relu_of_keras_with_a_ceiling_costs_int8_nothing(tmp_path):
    from keras import Input, Model, layers

    image = Input((16, 16, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128)(image)
    for ceiling in (3.3, 0.25):
        x = layers.ReLU(max_value=ceiling)(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x))
    model = Model(image, layers.Softmax(name="probabilities")(x))
    proto = onnx_from_keras(model)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Clip") == 2
    assert not {"Min", "Max", "Relu"} & set(kinds)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"image": images})[0], np.asarray(model(images)), atol=1e-5)
    quantized = quantize_int8(proto, images)
    assert quantized.left_in_float == ()
    assert "Clip" not in [node.op_type for node in quantized.model.graph.node]
