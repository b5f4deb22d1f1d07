"""Networks of keras.applications: names, sizes, and that pixels go in as their weights expect; none is downloaded."""

import os
import subprocess
import sys

import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.training.networks.keras_applications import (
    application_names,
    build_application,
    find_normalisation,
    get_application,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pixels():
    return np.stack([photographs.astronaut()[100:164, 200:264], photographs.chelsea()[100:164, 150:214]])


def keras_model(name, size):
    return get_application(name).function(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")


def preprocess_input(name):
    from importlib import import_module

    return import_module(get_application(name).function.__module__).preprocess_input


def test_every_network_of_keras_is_known_with_its_size_and_normalisation(pixels):
    names = application_names()
    assert len(names) >= 38
    for name in names:
        application = get_application(name)
        assert 32 <= application.min_size <= 75 <= application.default_size <= 600, name
        found = find_normalisation(application)
        ours = pixels * found.scale + found.offset
        theirs = preprocess_input(name)(pixels.astype(np.float32))
        np.testing.assert_allclose(ours[..., ::-1] if found.is_reversed else ours, theirs, atol=1e-4, err_msg=name)
    sizes = {name: (get_application(name).default_size, get_application(name).min_size) for name in names}
    assert sizes["MobileNetV2"] == sizes["MobileNetV3Small"] == sizes["ResNet50"] == (224, 32)
    assert (sizes["InceptionV3"], sizes["Xception"], sizes["EfficientNetB3"]) == ((299, 75), (299, 71), (300, 32))


def test_names_in_any_case_and_unknown_ones():
    assert get_application("mobilenetv2").name == get_application("MOBILENETV2").name == "MobileNetV2"
    with pytest.raises(UsageError, match=r"no network 'resnet5': expected ResNet50 or .*ConvNeXtBase or .*Xception"):
        get_application("resnet5")


def outputs(model, pixels):
    """Run once, without the tracing that predict begins with."""
    return model(pixels, training=False).numpy()


# Channels reversed; scaled.
@pytest.mark.parametrize("name", ["VGG16", "MobileNet"])
def test_the_backbone_sees_what_preprocess_input_gives(tmp_path, pixels, name):
    original = keras_model(name, 64)
    expected = outputs(original, preprocess_input(name)(pixels.astype(np.float32)))
    path = tmp_path / "mine.weights.h5"
    original.save_weights(path)
    backbone = build_application(name, (64, 64), path)
    assert backbone.trainable_weights == []
    assert (backbone.input.name, backbone.input.dtype, len(backbone.output.shape)) == ("image", "uint8", 2)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(outputs(backbone, pixels), expected, atol=1e-4 * scale)
    wrong = outputs(backbone, np.ascontiguousarray(pixels[..., ::-1]))
    assert np.abs(wrong - expected).max() > 0.01 * scale


def test_channels_are_scaled_each_in_its_own_way(pixels):
    from keras import Model

    model = build_application("DenseNet121", (64, 64), "none")
    normalise = Model(model.input, model.get_layer("normalise").output)
    expected = preprocess_input("DenseNet121")(pixels.astype(np.float32))
    np.testing.assert_allclose(outputs(normalise, pixels), expected, atol=1e-5)


def test_published_efficientnet_weights_in_a_file_are_normalised_as_keras_does_when_it_downloads_them(tmp_path, pixels):
    from keras import Model

    original = keras_model("EfficientNetB0", 64)
    normalisation = next(layer for layer in original.layers if type(layer).__name__ == "Normalization")
    deviation = np.float32([0.229, 0.224, 0.225])
    mean = np.float32([0.485, 0.456, 0.406])
    # The published file has the deviation in the variance's place.
    normalisation.set_weights([mean, deviation, np.int32(0)])
    original.save_weights(path := tmp_path / "published.weights.h5")
    model = build_application("EfficientNetB0", (64, 64), path)
    standardise = Model(model.input, model.get_layer("standardise").output)
    np.testing.assert_allclose(outputs(standardise, pixels), (pixels / 255 - mean) / deviation, atol=1e-4)
    # A constant: nothing that set_weights would have to carry over.
    assert len(model.weights) == len(original.weights) - 3
    np.testing.assert_array_equal(
        model.get_layer("stem_conv").get_weights(), original.get_layer("stem_conv").get_weights()
    )


def test_random_weights_are_trained_and_layers_have_the_same_names_each_time():
    first, second = (build_application("Xception", (71, 71), "none") for _ in range(2))
    names = [layer.name for layer in first.layers]
    assert first.input.name == "image"
    assert names == [layer.name for layer in second.layers]
    assert {"conv2d", "conv2d_3", "add_11", "block14_sepconv2"} <= set(names)
    assert len(set(names)) == len(names)
    assert first.get_layer("conv2d_1") is not second.get_layer("conv2d_1")
    assert first.trainable_weights


def test_a_network_for_any_size_takes_several(pixels):
    model = build_application("mobilenet", (None, None), "none")
    assert outputs(model, pixels).shape == outputs(model, pixels[:, :40, :33]).shape == (2, 1024)


def test_the_smallest_size_is_said():
    with pytest.raises(UsageError, match=r"keras:Xception: got 70 x 71 px, expected at least 71 px"):
        build_application("xception", (70, 71), "none")


def test_the_weights_of_another_network_are_refused(tmp_path):
    keras_model("MobileNet", 32).save_weights(path := tmp_path / "whole.weights.h5")
    with pytest.raises(InputError, match=r"whole\.weights\.h5: got .*, expected a Keras file of weights only"):
        build_application("MobileNetV2", (32, 32), path)


def test_weights_that_cannot_be_downloaded_are_one_clear_error(tmp_path):
    program = """
from edgeclf.runtime.errors import InputError
from edgeclf.training.networks.registry import get_architecture
try:
    get_architecture("keras:MobileNet").check_available("imagenet")
except InputError as error:
    import sys
    sys.exit(f"{error.exit_code} {error}")
"""
    # A proxy that is not there stands for a network that is not there.
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "NO_PROXY": "", "no_proxy": ""}
    environment |= dict.fromkeys(("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout == ""
    message = done.stderr.splitlines()[-1]
    assert message.startswith("3 cannot get the ImageNet weights of keras:MobileNet: got URL fetch failure on https://")
    assert "--weights FILE" in message
    assert "--weights none" in message
    assert "Traceback" not in done.stderr
