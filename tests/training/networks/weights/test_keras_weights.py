"""Weights in Keras's own files: those that fit, and every kind that does not."""

import h5py
import numpy as np
import pytest

from edgeclf.runtime.errors import InputError
from edgeclf.training.networks.resnet8 import build_resnet8
from edgeclf.training.networks.weights.keras_weights import is_hdf5, load_keras_weights


@pytest.fixture(scope="module")
def original():
    return build_resnet8((32, 32), 3)


@pytest.fixture(scope="module")
def whole(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "whole.weights.h5"
    original.save_weights(path)
    return path


@pytest.mark.parametrize("name", ["new.weights.h5", "old.h5", "old.hdf5"])
def test_either_layout_is_read(tmp_path, original, name):
    path = tmp_path / name
    # The older layout is written with the whole model around it.
    (original.save_weights if name == "new.weights.h5" else original.save)(path)
    model = build_resnet8((32, 32), 3)
    load_keras_weights(model, path)
    for got, wanted in zip(model.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.weights.h5", lambda data: data[: len(data) // 2], "truncated file"),
        ("header.weights.h5", lambda data: data[:8], "file"),
        ("zeros.weights.h5", lambda data: data[:600] + bytes(len(data) - 600), "got "),
        ("renamed.bin", lambda data: data, r"an HDF5 file whose name ends in \.bin"),
        ("renamed", lambda data: data, "an HDF5 file whose name ends in renamed"),
        ("renamed.h5", lambda data: data, "Layer count mismatch"),
        ("text.weights.h5", lambda _: b"no weights", "got text"),
        ("empty.weights.h5", lambda _: b"", "an empty file"),
    ],
)
def test_files_that_are_not_what_they_seem_are_refused(tmp_path, whole, name, content, words):
    path = tmp_path / name
    path.write_bytes(content(whole.read_bytes()))
    with pytest.raises(InputError, match=words) as caught:
        load_keras_weights(build_resnet8((32, 32), 3), path)
    assert f"{name}: got " in str(caught.value)
    assert "expected a Keras file of weights only" in str(caught.value)


def test_what_is_not_there_is_said(tmp_path):
    for path, words in ((tmp_path / "nowhere.h5", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=words):
            load_keras_weights(build_resnet8((32, 32), 3), path)


def test_weights_of_another_shape_or_another_network_are_refused(whole):
    with pytest.raises(InputError, match=r"whole\.weights\.h5: got .*\(64, 4\).*\(64, 3\)"):
        load_keras_weights(build_resnet8((32, 32), 4), whole)


def test_weights_that_are_missing_or_no_numbers_are_refused(tmp_path, whole, original):
    path = tmp_path / "hole.weights.h5"
    path.write_bytes(whole.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d_3/vars/0"]
    with pytest.raises(InputError, match=r"hole\.weights\.h5: got "):
        load_keras_weights(build_resnet8((32, 32), 3), path)
    broken = build_resnet8((32, 32), 3)
    broken.set_weights(original.get_weights())
    kernel, bias = broken.get_layer("block2_a_conv").get_weights()
    kernel[0, 0, 0, 0] = np.nan
    broken.get_layer("block2_a_conv").set_weights([kernel, bias])
    broken.save_weights(path := tmp_path / "nan.weights.h5")
    with pytest.raises(InputError, match=r"no numbers, or NaN or infinity, for block2_a_conv/kernel"):
        load_keras_weights(build_resnet8((32, 32), 3), path)


def test_a_file_is_told_by_how_it_begins(tmp_path, whole):
    assert is_hdf5(whole)
    other = tmp_path / "other.h5"
    other.write_bytes(b"\x89PNG")
    assert not is_hdf5(other)
