"""Every layout, dtype, colour, activation and batch of a foreign model, next to plain ONNX Runtime that is fed by hand."""

import itertools

import numpy as np
import pytest

from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession

from .tiny import MEAN, SIZE_HW, STD, Tiny, probabilities_by_hand, scores_by_hand, tensor_by_hand

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
    from onnx import TensorProto, helper

    from .tiny import write_model

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
