"""Weights of saved Keras models, taken layer by layer."""

import numpy as np
import pytest

from edgeclf.runtime.errors import InputError, ModelFileError
from edgeclf.training.networks.registry import get_architecture
from edgeclf.training.networks.small_cnn import build_small_cnn
from edgeclf.training.networks.weights.model_file_weights import (
    WeightsMatch,
    fill_by_name,
    is_model_file,
    match_with_file,
)


def saved(keras, path, classes, first=4):
    layers = keras.layers
    base = keras.Sequential([keras.Input((12, 12, 3)), layers.Conv2D(first, 3), layers.BatchNormalization()])
    model = keras.Sequential([base, layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), layers.Dense(classes)])
    model.build((None, 12, 12, 3))
    model.save(path)
    return model


@pytest.fixture
def keras():
    from edgeclf.export.keras_backend import import_tensorflow

    import_tensorflow()
    import keras

    return keras


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_layers_of_the_same_name_and_shapes_are_taken(tmp_path, keras, suffix):
    theirs = saved(keras, tmp_path / f"m{suffix}", classes=7)
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(x))
    x = layers.Dense(5, name="extra")(x)
    network = keras.Model(image, layers.Dense(3, name="logits")(x))
    match = fill_by_name(network, tmp_path / f"m{suffix}")
    assert len(match.loaded) == 3
    assert (match.mismatched, match.missing, match.unused) == (("logits",), ("extra",), ())
    assert match.sentence() == "3 layers loaded, 1 of another shape (logits), 1 not in the file (extra)"
    wanted = [*theirs.layers[0].get_weights(), *theirs.layers[1].get_weights()]
    got = [value for layer in network.layers[1:4] for value in layer.get_weights()]
    for one, other in zip(sorted(got, key=np.shape), sorted(wanted, key=np.shape), strict=True):
        assert one.shape == other.shape
    np.testing.assert_array_equal(network.layers[1].get_weights()[0], theirs.layers[0].layers[0].get_weights()[0])
    assert match_with_file(network, tmp_path / f"m{suffix}") == match


def test_a_file_of_another_network_is_an_error_and_changes_nothing(tmp_path, keras):
    saved(keras, tmp_path / "m.keras", classes=3)
    network = build_small_cnn((32, 32), 3)
    before = network.get_weights()
    with pytest.raises(InputError, match=r"of another network.*0 layers loaded.*stem_conv"):
        fill_by_name(network, tmp_path / "m.keras")
    assert all((a == b).all() for a, b in zip(before, network.get_weights(), strict=True))


def test_a_frozen_backbone_takes_all_or_nothing(tmp_path, keras):
    whole = keras.applications.MobileNetV2((32, 32, 3), alpha=1.0, weights=None, classes=3)
    whole.save(tmp_path / "m.keras")
    architecture = get_architecture("keras:MobileNetV2")
    backbone = architecture.build_backbone((32, 32), tmp_path / "m.keras")
    np.testing.assert_array_equal(
        backbone.get_layer("block_3_expand").get_weights()[0], whole.get_layer("block_3_expand").get_weights()[0]
    )
    cut = keras.Model(whole.inputs, whole.get_layer("block_3_expand_relu").output)
    cut.save(tmp_path / "cut.keras")
    with pytest.raises(InputError, match=r"not in the file \(block_3_depthwise"):
        architecture.build_backbone((32, 32), tmp_path / "cut.keras")


def test_code_in_the_file_is_not_run(tmp_path, keras):
    trace = tmp_path / "trace"
    writes = eval(f"lambda x: (open({str(trace)!r}, 'w').close(), x)[1]")
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(writes), keras.layers.Conv2D(2, 3)]).save(
        tmp_path / "m.keras"
    )
    trace.unlink()
    with pytest.raises(ModelFileError, match="code in it"):
        fill_by_name(build_small_cnn((32, 32), 2), tmp_path / "m.keras")
    assert not trace.exists()


def test_whole_models_are_told_from_weights_alone(tmp_path, keras):
    model = saved(keras, tmp_path / "m.keras", classes=2)
    model.save(tmp_path / "m.h5")
    model.save_weights(tmp_path / "w.weights.h5")
    (tmp_path / "text.keras").write_text("no model")
    names = ("m.keras", "m.h5", "w.weights.h5", "text.keras", "absent.keras")
    assert [is_model_file(tmp_path / name) for name in names] == [True, True, False, False, False]


def test_the_sentence_names_the_first_of_many():
    names = tuple(f"layer{number}" for number in range(9))
    assert WeightsMatch(names, (), names, ()).sentence() == (
        "9 layers loaded, 9 not in the file (layer0, layer1, layer2, layer3, ...)"
    )
