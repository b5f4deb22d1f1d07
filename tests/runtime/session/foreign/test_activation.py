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


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_softmax_along_another_axis_than_the_classes_is_refused(tmp_path, batch):
    nodes, values = Tiny(dtype="uint8", activation="logits").nodes()
    shape, outputs = [batch, 3, *SIZE_HW], [("y", TensorProto.FLOAT, [batch, 3])]
    along_images = [*nodes[:-1], node("Softmax", "logits", axis=0)]
    path = write_model(tmp_path / "n.onnx", along_images, values, TensorProto.UINT8, shape, outputs)
    with pytest.raises(ModelFileError, match="its softmax is not along the classes"):
        ModelSession(path, foreign=ForeignModel())
    along_ones = [
        *nodes[:-1], node("Unsqueeze", "logits axis", "column"), node("Softmax", "column", "z", axis=-1), node("Flatten", "z"),
    ]  # fmt: skip
    values["axis"] = np.array([2], np.int64)
    path = write_model(tmp_path / "o.onnx", along_ones, values, TensorProto.UINT8, shape, outputs)
    with pytest.raises(ModelFileError, match=r"add up to 3, with a softmax found in the graph"):
        ModelSession(path, foreign=ForeignModel())


def test_what_noise_showed_and_a_photograph_contradicts_is_an_error(tmp_path):
    # Noise is grey on the whole: squared distances from it are small, those of plain colours are large.
    tail = [node("Sub", "pixel_means grey", "off"), node("Mul", "off off", "square"), node("Mul", "square small")]
    nodes = [*Tiny(dtype="uint8").nodes()[0][:2], *tail]
    nodes[1].output[0] = "pixel_means"
    values = {"grey": np.float32(100), "small": np.float32(5e-5)}
    shape, outputs = ["N", 3, *SIZE_HW], [("y", TensorProto.FLOAT, ["N", 3])]
    path = write_model(tmp_path / "m.onnx", nodes, values, TensorProto.UINT8, shape, outputs)
    session = ModelSession(path, foreign=ForeignModel())
    assert session.use.activation == "sigmoid"
    assert session.run(np.full((1, *SIZE_HW, 3), 90, np.uint8)).max() < 1
    with pytest.raises(ModelFileError, match=r"to 1\.2.*, with a sigmoid measured on probe images.*activation logits"):
        session.run(np.full((1, *SIZE_HW, 3), 255, np.uint8))
    given = ModelSession(path, foreign=ForeignModel(activation="logits"))
    np.testing.assert_allclose(given.run(np.full((1, *SIZE_HW, 3), 255, np.uint8)), 1 / 3, rtol=1e-5)


def test_a_tanh_is_neither_probability_nor_logit(tmp_path):
    path = with_tail(tmp_path / "m.onnx", node("Tanh", "logits", "t"), node("Identity", "t"))
    with pytest.raises(ModelFileError, match="ends in a Tanh"):
        ModelSession(path, foreign=ForeignModel())
    assert ModelSession(path, foreign=ForeignModel(activation="none")).use.activation == "logits"
    capped = with_tail(tmp_path / "c.onnx", node("Tanh", "logits", "t"), node("Mul", "t cap"), cap=np.float32(30))
    assert ModelSession(capped, foreign=ForeignModel()).use.activation == "logits"


CHOICES = {
    "ArgMax": ([node("ArgMax", "logits", "i", axis=1), node("Cast", "i", to=1)], {}, 1),
    "TopK": ([helper.make_node("TopK", ["logits", "k"], ["y", "i"], axis=1)], {"k": np.array([3], np.int64)}, 3),
    "ReduceMax": ([node("Softmax", "logits", "p", axis=1), node("ReduceMax", "p", axes=[1])], {}, 1),
}


@pytest.mark.parametrize("operator", CHOICES)
def test_a_choice_among_the_classes_is_no_row_of_them(tmp_path, operator):
    tail, constants, columns = CHOICES[operator]
    nodes, values = Tiny(dtype="uint8", activation="logits").nodes()
    nodes, values = [*nodes[:-1], *tail], {**values, **constants}
    shape, choice = ["N", 3, *SIZE_HW], ("y", TensorProto.FLOAT, ["N", columns])
    alone = write_model(tmp_path / "a.onnx", nodes, values, TensorProto.UINT8, shape, [choice])
    for given in ({}, {"output": "y"}):
        with pytest.raises(ModelFileError, match=f"export it without the {operator} at its end"):
            ModelSession(alone, foreign=ForeignModel(**given))
    outputs = [choice, ("logits", TensorProto.FLOAT, ["N", 3])]
    beside = write_model(tmp_path / "b.onnx", nodes, values, TensorProto.UINT8, shape, outputs)
    assert ModelSession(beside, foreign=ForeignModel()).use.output == "logits"
