"""Every layout, dtype, colour, activation and batch of a foreign model: adopted, it gives what plain ONNX Runtime gives."""

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling

from ....runtime.session.foreign.tiny import (
    MEAN,
    SIZE_HW,
    STD,
    Tiny,
    probabilities_by_hand,
    scores_by_hand,
    tensor_by_hand,
    write_model,
)
from .adopted import adopted, run

# Activation of the file, values an image, what the user says of it.
ENDS = [
    ("softmax", 3, None),
    ("logits", 3, None),
    ("sigmoid", 3, None),
    ("sigmoid", 1, None),
    ("logits", 1, None),
    ("logits", 3, "sigmoid-logits"),
]
BATCHES = [("N", False), ("N", True), (1, False), (4, False)]


@pytest.mark.parametrize("order", ["rgb", "bgr", "grey"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_an_adopted_model_gives_what_onnx_runtime_gives_when_it_is_fed_by_hand(rng, tmp_path, layout, dtype, order):
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (4, 1, 1, 3), dtype=np.uint8)
    single = slice(0, 1) if order == "grey" else slice(None)
    scaling = None if dtype == "uint8" else PixelScaling(tuple(MEAN[single]), tuple(STD[single]))
    for (activation, classes, said), (batch, is_baked) in itertools.product(ENDS, BATCHES):
        given = ForeignModel(scaling=scaling, channels="bgr" if order == "bgr" else None, activation=said)
        tiny = Tiny(layout, dtype, 1 if order == "grey" else 3, classes, activation, batch, is_baked)
        path = tiny.write(tmp_path / "m.onnx")
        session, result = adopted(path, given)
        at_once = 1 if is_baked else batch if isinstance(batch, int) else None
        scores = scores_by_hand(path, tensor_by_hand(images, tiny, order), at_once)
        wanted = 1 / (1 + np.exp(-scores)) if said else probabilities_by_hand(scores, activation)
        found = run(result.model, images)
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0, err_msg=str(tiny))
        np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1), err_msg=str(tiny))
        np.testing.assert_allclose(session.run(images), wanted, atol=1e-6, rtol=0, err_msg=str(tiny))


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_codes_become_probabilities(rng, tmp_path, kind):
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    nodes, values = Tiny(dtype="uint8", activation="logits").nodes()
    nodes.append(helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["codes"]))
    values |= {"step": np.float32(0.4), "zero": np.asarray(100 if kind == "uint8" else -28, kind)}
    outputs = [("codes", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), ["N", 3])]
    path = write_model(tmp_path / "m.onnx", nodes, values, TensorProto.UINT8, ["N", 3, *SIZE_HW], outputs)
    session, result = adopted(path, ForeignModel())
    np.testing.assert_allclose(run(result.model, images), session.run(images), atol=1e-6, rtol=0)
