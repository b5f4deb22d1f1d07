"""What an output has been through: read from the last operators, else measured."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.session.foreign.activation import activation_in_graph, measured_activation, probabilities_from
from edgeclf.runtime.session.foreign.given import ForeignModel
from edgeclf.runtime.session.graph_outline import read_graph_outline
from edgeclf.runtime.session.session import ModelSession

from .tiny import SIZE_HW, Tiny, write_model


def with_tail(path, *tail, **constants):
    """A uint8 model whose logits go through further nodes, the last of which gives `y`."""
    nodes, values = Tiny(dtype="uint8", activation="logits").nodes()
    values |= {name: np.asarray(value) for name, value in constants.items()}
    shape, outputs = ["N", 3, *SIZE_HW], [("y", TensorProto.FLOAT, ["N", 3])]
    return write_model(path, [*nodes[:-1], *tail], values, TensorProto.UINT8, shape, outputs)


def node(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


TAILS = {
    "softmax": ([node("Softmax", "logits", axis=1)], {}, "softmax"),
    "softmax, identity": ([node("Softmax", "logits", "p", axis=1), node("Identity", "p")], {}, "softmax"),
    "softmax through 8 bits": (
        [node("Softmax", "logits", "p", axis=1), node("QuantizeLinear", "p s z", "q"), node("DequantizeLinear", "q s z")],
        {"s": np.float32(1 / 256), "z": np.uint8(0)},
        "softmax",
    ),
    "softmax through float16": (
        [node("Softmax", "logits", "p", axis=1), node("Cast", "p", "h", to=10), node("Cast", "h", to=1)],
        {},
        "softmax",
    ),
    "softmax written out": (
        [node("Exp", "logits", "e"), node("ReduceSum", "e a", "t", keepdims=1), node("Div", "e t")],
        {"a": np.array([1])},
        "softmax",
    ),
    "sigmoid": ([node("Sigmoid", "logits")], {}, "sigmoid"),
    "flattened by a computed shape": (
        [node("Softmax", "logits", "p", axis=1), node("Shape", "p", "s"), node("Reshape", "p s")],
        {},
        "softmax",
    ),
    "log softmax": ([node("LogSoftmax", "logits", axis=1)], {}, "logits"),
    "scaled logits": ([node("Div", "logits t")], {"t": np.float32(1.5)}, "logits"),
    "scaled softmax": ([node("Softmax", "logits", "p", axis=1), node("Mul", "p t")], {"t": np.float32(2)}, None),
    "mean of two": (
        [node("Softmax", "logits", "p", axis=1), node("Softmax", "logits", "q", axis=1), node("Add", "p q", "s"),
         node("Mul", "s h")],
        {"h": np.float32(0.5)},
        None,
    ),
    "relu": ([node("Relu", "logits")], {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_the_last_operators_say_what_an_output_has_been_through(tmp_path, name):
    tail, constants, expected = TAILS[name]
    path = with_tail(tmp_path / "m.onnx", *tail, **constants)
    assert activation_in_graph(read_graph_outline(path), "y") == expected
    # What the graph does not say is measured.
    session = ModelSession(path, foreign=ForeignModel())
    assert session.use.origins["activation"] == (
        "measured on probe images" if expected is None else "found in the graph"
    )
    if name == "mean of two":
        assert session.use.activation == "softmax"


def test_probabilities_of_a_softmax_in_few_bits_are_left_as_they_are(tmp_path, rng):
    tail, constants, _ = TAILS["softmax through 8 bits"]
    session = ModelSession(with_tail(tmp_path / "m.onnx", *tail, **constants), foreign=ForeignModel())
    found = session.run(rng.integers(0, 256, (4, *SIZE_HW, 3), dtype=np.uint8))
    np.testing.assert_allclose(found * 256, np.round(found * 256), atol=1e-4)


def test_measured_activations():
    rows = np.array([[0.2, 0.796], [0.5, 0.5], [np.nan, 0.1]], np.float32)
    assert measured_activation(rows) == "softmax"
    assert measured_activation(np.array([[0.2, 0.3], [0.5, 0.5]], np.float32)) == "sigmoid"
    assert measured_activation(np.array([[0.5, 0.5], [1.5, -0.5]], np.float32)) == "logits"
    assert measured_activation(np.array([[0.5], [0.7]], np.float32)) == "sigmoid"
    assert measured_activation(np.full((2, 2), np.nan, np.float32)) is None


@pytest.mark.parametrize("activation", ["logits", "sigmoid-logits"])
def test_large_logits_do_not_overflow(activation):
    scores = np.array([[-1e4, 1e4], [900, -900]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        for columns in (scores, scores[:, :1]):
            found = probabilities_from(columns, activation)
            assert np.isfinite(found).all()
            assert found.shape == (2, 2)
    np.testing.assert_allclose(probabilities_from(scores, activation), [[0, 1], [1, 0]])


def test_logits_that_are_called_probabilities_are_refused(tmp_path):
    path = with_tail(tmp_path / "m.onnx", node("Mul", "logits t"), t=np.float32(100))
    with pytest.raises(UsageError, match="--output-activation logits"):
        ModelSession(path, foreign=ForeignModel(activation="softmax"))
    nothing = with_tail(tmp_path / "n.onnx", node("Mul", "logits t", "z"), node("Sqrt", "z"), t=np.float32(np.nan))
    with pytest.raises(ModelFileError, match="no numbers for images of noise"):
        ModelSession(nothing, foreign=ForeignModel())
