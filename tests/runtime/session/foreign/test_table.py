"""Every layout, dtype, colour, activation and batch of a foreign model, next to plain ONNX Runtime that is fed by hand."""

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession

from .tiny import DTYPES, MEAN, SIZE_HW, STD, Tiny, probabilities_by_hand, scores_by_hand, tensor_by_hand, write_model

ENDS = [("softmax", 3), ("logits", 3), ("sigmoid", 3), ("sigmoid", 1), ("logits", 1)]
BATCHES = [("N", False), ("N", True), (1, False), (4, False)]


@pytest.mark.parametrize("order", ["rgb", "bgr", "grey"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_foreign_model_gives_what_onnx_runtime_gives_when_it_is_fed_by_hand(rng, tmp_path, layout, dtype, order):
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (4, 1, 1, 3), dtype=np.uint8)
    single = slice(0, 1) if order == "grey" else slice(None)
    scaling = None if dtype == "uint8" else PixelScaling(tuple(MEAN[single]), tuple(STD[single]))
    given = ForeignModel(scaling=scaling, channels="bgr" if order == "bgr" else None)
    for (activation, classes), (batch, is_baked) in itertools.product(ENDS, BATCHES):
        tiny = Tiny(layout, dtype, 1 if order == "grey" else 3, classes, activation, batch, is_baked)
        path = tiny.write(tmp_path / "m.onnx")
        session = ModelSession(path, foreign=given)
        at_once = 1 if is_baked else batch if isinstance(batch, int) else None
        scores = scores_by_hand(path, tensor_by_hand(images, tiny, order), at_once)
        wanted = probabilities_by_hand(scores, activation)
        found = session.run(images)
        assert session.fixed_batch == at_once, tiny
        assert session.use.activation == activation, tiny
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0, err_msg=str(tiny))
        np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1), err_msg=str(tiny))
        assert session.spec.labels == tuple(map(str, range(max(classes, 2))))
        assert any("baked to one" in text for text in session.use.notes) == is_baked


@pytest.mark.parametrize("end", ["softmax", "sigmoid", "logits"])
@pytest.mark.parametrize("shape", [("N", 3, 1, 1), ("N", 1, 1, 3), ("N", "C"), None])
def test_outputs_of_other_shapes_are_rows_too(rng, tmp_path, end, shape):
    tiny = Tiny(activation=end)
    nodes, values = tiny.nodes()
    if shape is not None and len(shape) == 4:
        nodes[-1].output[0] = "flat"
        values["to"] = np.array([-1, *shape[1:]], np.int64)
        nodes.append(helper.make_node("Reshape", ["flat", "to"], ["y"]))
    path = write_model(
        tmp_path / "m.onnx", nodes, values, TensorProto.FLOAT, ["N", 3, *SIZE_HW], [("y", TensorProto.FLOAT, shape)]
    )
    images = rng.integers(0, 256, (3, *SIZE_HW, 3), dtype=np.uint8)
    session = ModelSession(path, foreign=ForeignModel(scaling=PixelScaling(tuple(MEAN), tuple(STD))))
    scores = scores_by_hand(path, tensor_by_hand(images, tiny, "rgb")).reshape(3, 3)
    np.testing.assert_allclose(session.run(images), probabilities_by_hand(scores, end), atol=1e-6)


def test_free_sizes_take_the_size_that_is_named(rng, tmp_path):
    path = Tiny(size_hw=("H", "W")).write(tmp_path / "m.onnx")
    scaling = PixelScaling(tuple(MEAN), tuple(STD))
    session = ModelSession(path, foreign=ForeignModel(scaling=scaling, image_size=(20, 30)))
    assert session.spec.preprocess.size_hw == (20, 30)
    images = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    wanted = scores_by_hand(path, tensor_by_hand(images, Tiny(), "rgb"))
    np.testing.assert_allclose(session.run(images), wanted, atol=1e-6)


def test_grey_is_the_luma_of_the_colours(rng, tmp_path):
    images = rng.integers(0, 256, (2, *SIZE_HW, 3), dtype=np.uint8)
    luma = images @ np.array([0.299, 0.587, 0.114])
    by_opencv = tensor_by_hand(images, Tiny(dtype="uint8", channels=1), "grey")[:, 0]
    assert np.abs(by_opencv - luma).max() <= 0.51


def test_independent_sigmoids_can_be_asked_for(rng, tmp_path):
    path = Tiny(activation="logits").write(tmp_path / "m.onnx")
    images = rng.integers(0, 256, (2, *SIZE_HW, 3), dtype=np.uint8)
    scaling = PixelScaling(tuple(MEAN), tuple(STD))
    session = ModelSession(path, foreign=ForeignModel(scaling=scaling, activation="sigmoid-logits"))
    logits = scores_by_hand(path, tensor_by_hand(images, Tiny(), "rgb"))
    np.testing.assert_allclose(session.run(images), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert session.use.origins["activation"] == "given"


def test_two_threads_and_one_thread_alone_give_the_same(rng, tmp_path):
    path = Tiny(is_baked=True).write(tmp_path / "m.onnx")
    session = ModelSession(path, threads=2, foreign=ForeignModel(scaling=PixelScaling(tuple(MEAN), tuple(STD))))
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    np.testing.assert_array_equal(session.run(images), session.on_one_thread().run(images))


KINDS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
# As converters choose them, so that no value lies outside of the codes; 1.0 alone is one step too large.
STEPS = {"softmax": 1 / 256, "sigmoid": 1 / 256, "logits": 0.4}


def quantized(path, tiny, kind, *, given_as="uint8", tail=(), scale=None, is_constant_node=False):
    """The classifier with its output rounded to codes of a kind, and further operators behind that, the last of which gives `codes`."""
    nodes, values = tiny.nodes()
    step = STEPS[tiny.activation] if scale is None else scale
    zero = {"softmax": 0, "sigmoid": 0, "logits": 100}[tiny.activation] - (128 if kind == "int8" else 0)
    constants = {"step": np.asarray(step, np.float32), "zero": np.asarray(zero, kind)}
    if is_constant_node:
        nodes += [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
            for name, array in constants.items()
        ]
    else:
        values |= constants
    nodes.append(helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["q"], axis=1))
    name = "q"
    for number, (operator, attributes, operand) in enumerate(tail):
        values |= {} if operand is None else {f"operand{number}": operand}
        inputs = [name] if operand is None else [name, f"operand{number}"]
        name = "codes" if number + 1 == len(tail) else f"q{number}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
    if not tail:
        nodes[-1].output[0] = "codes"
    shape = [("codes", KINDS[given_as], ["N", tiny.classes])]
    write_model(path, nodes, values, DTYPES[tiny.dtype], ["N", 3, *SIZE_HW], shape)
    return float(step), zero


CODE_TAILS = {
    "alone": {},
    "through shapes": {"tail": [("Reshape", {}, np.array([-1, 1, 1, 3])), ("Flatten", {"axis": 1}, None)]},
    "as float32": {"given_as": "float32", "tail": [("Cast", {"to": TensorProto.FLOAT}, None)]},
    "as int32": {"given_as": "int32", "tail": [("Cast", {"to": TensorProto.INT32}, None)]},
    "of Constant nodes": {"is_constant_node": True},
}


@pytest.mark.parametrize("name", CODE_TAILS)
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_codes_are_read_by_the_scale_and_zero_point_in_the_graph(rng, tmp_path, kind, name):
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (4, 1, 1, 3), dtype=np.uint8)
    for activation in STEPS:
        if name == "through shapes" and activation == "sigmoid":
            continue
        tiny, path = Tiny(dtype="uint8", activation=activation), tmp_path / "m.onnx"
        options = {"given_as": kind, **CODE_TAILS[name]}
        scale, zero = quantized(path, tiny, kind, **options)
        session = ModelSession(path, foreign=ForeignModel())
        assert session.use.codes == pytest.approx((scale, zero))
        assert (session.use.activation, session.use.origins["activation"]) == (activation, "found in the graph")
        codes = scores_by_hand(path, tensor_by_hand(images, tiny, "rgb"))
        assert np.array_equal(codes, np.round(codes))
        wanted = probabilities_by_hand(scale * (codes - zero), activation)
        np.testing.assert_allclose(session.run(images), wanted, atol=1e-6, rtol=0)
        exact = Tiny(dtype="uint8", activation=activation).write(tmp_path / "exact.onnx")
        apart = session.run(images) - ModelSession(exact, foreign=ForeignModel()).run(images)
        assert np.abs(apart).max() <= scale / 2 + 1 / 256
        assert f"zero point {zero}" in session.use.sentence()


def test_codes_of_one_sigmoid_are_of_the_second_of_two_classes(rng, tmp_path):
    images = rng.integers(0, 256, (3, *SIZE_HW, 3), dtype=np.uint8)
    tiny, path = Tiny(dtype="uint8", activation="sigmoid", classes=1), tmp_path / "m.onnx"
    scale, zero = quantized(path, tiny, "int8", given_as="int8")
    second = scale * (scores_by_hand(path, tensor_by_hand(images, tiny, "rgb")) - zero)
    found = ModelSession(path, foreign=ForeignModel()).run(images)
    np.testing.assert_allclose(found, np.concatenate([1 - second, second], axis=1), atol=1e-6)


def test_codes_that_are_made_real_numbers_in_the_graph_are_left_as_they_are(tmp_path):
    step, zero = np.float32(1 / 256), np.uint8(0)
    tiny, path = Tiny(dtype="uint8"), tmp_path / "m.onnx"
    nodes, values = tiny.nodes()
    nodes += [
        helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["p"]),
    ]
    outputs = [("p", TensorProto.FLOAT, ["N", 3])]
    shape = ["N", 3, *SIZE_HW]
    write_model(path, nodes, values | {"step": step, "zero": zero}, TensorProto.UINT8, shape, outputs)
    assert ModelSession(path, foreign=ForeignModel()).use.codes is None


@pytest.mark.parametrize("given", [{}, {"activation": "softmax"}])
@pytest.mark.parametrize("name", ["no scale", "a scale for each class"])
def test_codes_of_which_the_graph_says_nothing_are_refused_in_one_sentence(tmp_path, name, given):
    tiny, path = Tiny(dtype="uint8"), tmp_path / "m.onnx"
    if name == "no scale":
        nodes, values = tiny.nodes()
        nodes += [
            helper.make_node("Mul", ["y", "most"], ["large"]),
            helper.make_node("Cast", ["large"], ["codes"], to=TensorProto.UINT8),
        ]
        outputs = [("codes", TensorProto.UINT8, ["N", 3])]
        write_model(path, nodes, values | {"most": np.float32(255)}, TensorProto.UINT8, ["N", 3, *SIZE_HW], outputs)
    else:
        nodes, values = tiny.nodes()
        nodes.append(helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["codes"], axis=1))
        values |= {"step": np.array([1 / 256, 1 / 128, 1 / 64], np.float32), "zero": np.zeros(3, np.uint8)}
        outputs = [("codes", TensorProto.UINT8, ["N", 3])]
        write_model(path, nodes, values, TensorProto.UINT8, ["N", 3, *SIZE_HW], outputs)
    with pytest.raises(ModelFileError, match=r"the graph does not say what they stand for.*DequantizeLinear"):
        ModelSession(path, foreign=ForeignModel(**given))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_quantized", [False, True])
@pytest.mark.parametrize("size_hw", [SIZE_HW, ("H", "W")])
def test_channels_that_are_free_by_name_are_those_of_the_first_convolution(
    rng, tmp_path, layout, channels, is_quantized, size_hw
):
    kernel = rng.integers(-9, 9, (3, channels, 3, 3)).astype(np.int8)
    values = {
        "kernel": kernel if is_quantized else kernel * np.float32(0.01),
        "scale": np.float32(0.01),
        "zero": np.int8(0),
    }
    nodes = [
        helper.make_node("Conv", ["planes", "weights"], ["z"]),
        helper.make_node("GlobalAveragePool", ["z"], ["y"]),
    ]
    weights = ["DequantizeLinear", ["kernel", "scale", "zero"]] if is_quantized else ["Identity", ["kernel"]]
    perm = [0, 1, 2, 3] if layout == "NCHW" else [0, 3, 1, 2]
    first = [helper.make_node(*weights, ["weights"]), helper.make_node("Transpose", ["x"], ["planes"], perm=perm)]
    if layout == "NCHW":
        first[1] = helper.make_node("Identity", ["x"], ["planes"])
    shape = ["N", "C", *size_hw] if layout == "NCHW" else ["N", *size_hw, None]
    outputs = [("y", TensorProto.FLOAT, ["N", 3, 1, 1])]
    path = write_model(tmp_path / "m.onnx", [*first, *nodes], values, TensorProto.FLOAT, shape, outputs)
    scaling = PixelScaling(tuple(MEAN[:1]), tuple(STD[:1]))
    given = ForeignModel(scaling=scaling, activation="logits", image_size=None if size_hw == SIZE_HW else SIZE_HW)
    session = ModelSession(path, foreign=given)
    assert session.use.channels == ("grey" if channels == 1 else "rgb")
    images = rng.integers(0, 256, (2, *SIZE_HW, 3), dtype=np.uint8)
    tiny = Tiny(layout=layout, channels=channels)
    tensor = tensor_by_hand(images, tiny, session.use.channels, MEAN[:1], STD[:1])
    expected = probabilities_by_hand(scores_by_hand(path, tensor).reshape(2, 3), "logits")
    np.testing.assert_allclose(session.run(images), expected, atol=1e-6)


def test_a_first_convolution_of_two_channels_takes_no_image(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "kernel"], ["z"]), helper.make_node("GlobalAveragePool", ["z"], ["y"])]
    values = {"kernel": np.ones((3, 2, 3, 3), np.float32)}
    outputs = [("y", TensorProto.FLOAT, ["N", 3, 1, 1])]
    path = write_model(tmp_path / "m.onnx", nodes, values, TensorProto.FLOAT, ["N", "C", "H", "W"], outputs)
    with pytest.raises(ModelFileError, match="not an image classifier"):
        ModelSession(path, foreign=ForeignModel(preset="keras-tf", image_size=SIZE_HW))
