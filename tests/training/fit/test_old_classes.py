"""Old classes before and after a training that goes on from an earlier run."""

from pathlib import Path

import numpy as np
import pytest

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.training.cache.pixels import CachedImages
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.seen_images import images_of_split
from edgeclf.training.data.training_data import TrainingData
from edgeclf.training.fit.old_classes import answer_with_earlier, compare_old_classes
from edgeclf.training.fit.transfer import ClassChanges, Transfer

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads

# The earlier run knew these; `dog` is `hound` now, and `bird` is new.
OLD, NEW = ("cat", "dog"), ("bird", "cat", "hound")
CHANGES = ClassChanges(kept=("cat",), renamed=(("dog", "hound"),), added=("bird",), gone=())


@pytest.fixture
def transfer():
    image = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dense(2, name="logits")(keras.layers.Dropout(0.2, name="head_dropout")(x))
    model = keras.Model(image, keras.layers.Softmax(name="probabilities")(x))
    return Transfer(Path("runs/old"), OLD, model, CHANGES, 0)


def make_data(rng, count=60):
    """Random images of the new classes, two thirds of them test images."""
    samples, digests = [], [rng.bytes(16).hex() for _ in range(count)]
    for number in range(count):
        split = "test" if number % 3 else "train"
        samples.append(Sample(f"{number}.png", NEW[number % 7 % 3], split, digests[number]))
    images = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    cached = CachedImages(images, tuple(range(count)), tuple(digests), (), "")
    positions = {
        split: np.array([n for n, sample in enumerate(samples) if sample.split == split], np.int64)
        for split in ("train", "val", "test")
    }
    true = np.array([NEW.index(sample.label) for sample in samples], np.int64)
    return TrainingData(NEW, tuple(samples), cached, true, positions)


def test_images_that_the_earlier_network_has_seen_and_new_classes_are_left_out(transfer, rng):
    data = make_data(rng)
    test = [data.samples[position] for position in data.positions["test"]]
    trained = [Sample(f"moved/{sample.path}", "cat", "train", sample.digest) for sample in test[:10]]
    tested = [Sample(f"moved/{sample.path}", "cat", "test", sample.digest) for sample in test[10:20]]
    answers = answer_with_earlier(transfer, images_of_split([*trained, *tested]), data)
    expected = [row for row, sample in enumerate(test) if row >= 10 and sample.label != "bird"]
    assert answers.rows.tolist() == expected
    assert answers.labels == ("cat", "hound")
    # As Keras answers, under the old names.
    probabilities = transfer.model.predict(data.cached.images[data.positions["test"]], verbose=0)
    names = {"cat": "cat", "hound": "dog"}
    assert answers.correct.tolist() == [OLD[probabilities[row].argmax()] == names[test[row].label] for row in expected]
    everything = [Sample(sample.path, "cat", "train", sample.digest) for sample in test]
    assert answer_with_earlier(transfer, images_of_split(everything), data) is None


def test_features_give_the_answers_of_the_images(transfer, rng):
    data = make_data(rng)
    features = transfer.backbone().predict(data.cached.images, verbose=0)
    with_features = TrainingData(data.labels, data.samples, data.cached, data.true_indices, data.positions, features)
    seen = images_of_split(())
    first, second = (answer_with_earlier(transfer, seen, its) for its in (data, with_features))
    assert first.correct.tolist() == second.correct.tolist()
    assert len(first.correct) > 10


def test_the_new_network_is_counted_on_the_same_images(transfer, rng):
    data = make_data(rng)
    answers = answer_with_earlier(transfer, images_of_split(()), data)
    test = data.positions["test"]
    perfect = np.eye(len(NEW))[data.true_indices[test]]
    before = int(answers.correct.sum())
    found = compare_old_classes(answers, perfect, data)
    assert (found.images.images, found.images.both, found.images.lost) == (len(answers.rows), before, 0)
    assert sum(its.images for _, its in found.classes) == found.images.images
    # All birds: everything old is lost.
    blind = compare_old_classes(answers, np.tile([1.0, 0.0, 0.0], (len(test), 1)), data)
    assert (blind.images.lost, blind.images.won, blind.images.both) == (before, 0, 0)
