"""Frozen features: Keras's numbers, computed by ONNX Runtime, once for each image and backbone."""

import dataclasses

import cv2
import numpy as np
import pytest
from skimage import data as photographs

import edgeclf.training.cache.features as features_module
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.features import backbone_features, checked_features
from edgeclf.training.cache.pixels import cached_images
from edgeclf.training.networks.frozen_backbone import backbone_digest, freeze_converted

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads

SMALL = Preprocess((32, 32))


def network(seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((32, 32, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(image)
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="tiny")


@pytest.fixture
def files(tmp_path):
    paths = []
    image = cv2.cvtColor(photographs.coffee(), cv2.COLOR_RGB2BGR)
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), image[number * 20 : number * 20 + 80, 50:150])
    return paths


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def ran(monkeypatch):
    """Numbers of images that the backbone was run on, call by call."""
    calls = []
    compute = features_module._compute

    def count(path, cached, positions):
        calls.append(len(positions))
        return compute(path, cached, positions)

    monkeypatch.setattr(features_module, "_compute", count)
    return calls


def features_of(model, files, cache, progress=no_progress):
    cached = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    backbone = freeze_converted(model, cache_folder=CacheFolder(cache), progress=progress)
    return cached, backbone_features(backbone, cached, cache_folder=CacheFolder(cache), progress=progress)


def test_they_are_what_keras_computes(files, cache):
    model = network()
    calls = []
    cached, features = features_of(model, files, cache, lambda *call: calls.append(call))
    expected = model.predict(np.asarray(cached.images), verbose=0)
    np.testing.assert_allclose(np.asarray(features), expected, rtol=1e-3, atol=1e-5)
    assert [call for call in calls if call[0] == "features"][-1] == ("features", 9, 9)


def test_a_second_run_runs_nothing_and_a_larger_set_only_what_is_new(files, cache, ran):
    model = network()
    _, first = features_of(model, files[:6], cache)
    _, again = features_of(model, files[:6], cache)
    assert ran == [6, 0]
    np.testing.assert_array_equal(np.asarray(again), np.asarray(first))
    _, more = features_of(model, files[::-1], cache)
    assert ran == [6, 0, 3]
    np.testing.assert_array_equal(np.asarray(more)[::-1][:6], np.asarray(first))
    assert len(list(cache.glob("*.onnx"))) == 1


def test_other_weights_and_other_pixels_are_other_features(files, cache, ran):
    _, first = features_of(network(0), files, cache)
    _, second = features_of(network(1), files, cache)
    assert ran == [9, 9]
    assert not np.allclose(np.asarray(first), np.asarray(second))
    assert backbone_digest(network(0)) == backbone_digest(network(0)) != backbone_digest(network(1))
    cached = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    backbone = freeze_converted(network(0), cache_folder=CacheFolder(cache), progress=no_progress)
    backbone_features(
        backbone, dataclasses.replace(cached, key="other pixels"), cache_folder=CacheFolder(cache), progress=no_progress
    )
    assert ran == [9, 9, 9]


def test_features_do_not_depend_on_the_number_of_threads(files, cache, monkeypatch, tmp_path):
    _, first = features_of(network(), files, cache)
    monkeypatch.setattr(features_module, "usable_cpus", lambda: 5)
    _, second = features_of(network(), files, tmp_path / "other")
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


def test_features_do_not_depend_on_their_neighbours(files, cache, tmp_path):
    _, first = features_of(network(), files, cache)
    _, second = features_of(network(), files[::-1][:6], tmp_path / "other")
    np.testing.assert_array_equal(np.asarray(first)[::-1][:6], np.asarray(second))


def test_a_damaged_entry_and_a_damaged_backbone_are_made_anew(files, cache, ran):
    model = network()
    _, first = features_of(model, files, cache)
    before = np.asarray(first)
    (path,) = cache.glob("features-*.array")
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(bytes(data))
    _, again = features_of(model, files, cache)
    np.testing.assert_array_equal(np.asarray(again), before)
    # Only what was damaged.
    assert ran == [9, 0, 1]
    path.unlink()
    (converted,) = cache.glob("*.onnx")
    converted.write_bytes(converted.read_bytes()[:200])
    _, again = features_of(model, files, cache)
    np.testing.assert_array_equal(np.asarray(again), before)


def checked_against(model, given_by, files, cache):
    """Features by ONNX Runtime of one network, compared with another one in Keras, which has its digest."""
    folder = CacheFolder(cache)
    backbone = freeze_converted(given_by, cache_folder=folder, progress=no_progress)
    backbone = dataclasses.replace(backbone, digest=backbone_digest(model))
    cached = cached_images(files, SMALL, cache_folder=folder)
    features = backbone_features(backbone, cached, cache_folder=folder, progress=no_progress)
    calls = []
    taken, note = checked_features(
        features, backbone, model, cached, cache_folder=folder, progress=lambda *call: calls.append(call)
    )
    return cached, features, taken, note, calls


def test_keras_is_asked_about_eight_images_once(files, cache):
    model = network()
    _, features, taken, note, calls = checked_against(model, model, files, cache)
    assert note is None
    assert taken is features
    assert calls == [("features by Keras", done, 8) for done in range(1, 9)]
    # Neither again nor, nearly always, because of images that came since: those with the first digests are asked about.
    assert checked_against(model, model, files[::-1], cache)[-1] == []


def test_a_network_that_onnx_runtime_answers_wrongly_has_keras_features(files, cache):
    model = network()
    for _ in range(2):
        # The wrong rows lie in the cache, and are no more believed in a second training.
        cached, features, taken, note, calls = checked_against(model, network(1), files, cache)
        expected = model.predict(np.asarray(cached.images), verbose=0)
        assert not np.allclose(np.asarray(features), expected, rtol=0.1)
        np.testing.assert_allclose(np.asarray(taken), expected, rtol=1e-4, atol=1e-6)
        assert "other features in ONNX Runtime than in Keras: those of 8 images differ by up to " in note
    assert calls == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda rows: rows * np.float32(1 + 1e-3), False),
        (lambda rows: rows * np.float32(1.02), True),
        (lambda rows: np.where(np.arange(8)[:, None] == 5, np.float32(np.nan), rows), True),
        (np.zeros_like, True),
    ],
)
def test_rounding_is_let_pass_and_no_more(change, wrong):
    rows = np.random.default_rng(0).random((8, 30), np.float32)
    assert (features_module._largest_difference(change(rows), rows) > features_module._TOLERANCE) is wrong


def test_images_without_finite_features_in_keras_say_nothing():
    rows = np.full((2, 3), np.nan, np.float32)
    assert features_module._largest_difference(np.ones((2, 3), np.float32), rows) == 0
    assert features_module._largest_difference(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)) == 0
