"""The learning-rate sweep: its suggestion trains, and the network is afterwards what it was."""

import itertools
import math

import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.errors import InputError
from edgeclf.training.fit.lr_finder import find_learning_rate

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads

SIDE_PX, CLASSES, BATCH = 12, 3, 24


@pytest.fixture(scope="module")
def pixels():
    """(360, 12, 12, 3) uint8 crops of three photographs, shuffled, and which of the three each is from."""
    rng = np.random.default_rng(3)
    crops = []
    for image in (photographs.coffee(), photographs.chelsea(), photographs.astronaut()):
        for _ in range(120):
            top, left = rng.integers(0, 280), rng.integers(0, 400)
            crops.append(image[top : top + SIDE_PX, left : left + SIDE_PX])
    order = rng.permutation(len(crops))
    return np.stack(crops)[order], np.repeat(np.arange(CLASSES), 120)[order]


def batches_of(pixels):
    images, true = pixels
    targets = np.eye(CLASSES, dtype=np.float32)[true]
    weights = np.ones(len(true), np.float32)
    return [
        (images[start : start + BATCH], targets[start : start + BATCH], weights[start : start + BATCH])
        for start in range(0, len(images), BATCH)
    ]


def network(dropout=0.0):
    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE_PX, SIDE_PX, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, -1)(image)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D()(x))
    x = keras.layers.Dropout(dropout)(x)
    return keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax")(x))


def loss_after(pixels, make_optimizer, rate, steps=45):
    """Cross-entropy on all images after a short training; infinite where it is no number."""
    model = network()
    model.compile(optimizer=make_optimizer(rate), loss="categorical_crossentropy", jit_compile=False)
    for batch in itertools.islice(itertools.cycle(batches_of(pixels)), steps):
        model.train_on_batch(*batch)
    images, true = pixels
    loss = model.test_on_batch(images, np.eye(CLASSES)[true])
    return loss if math.isfinite(loss) else math.inf


@pytest.mark.parametrize(
    "make_optimizer",
    [keras.optimizers.Adam, lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)],
    ids=["adam", "sgd"],
)
def test_the_suggestion_trains_better_than_far_smaller_and_far_larger_rates(pixels, make_optimizer):
    sweep = find_learning_rate(network(), batches_of(pixels), make_optimizer(1e-3))
    suggested = loss_after(pixels, make_optimizer, sweep.suggestion)
    assert suggested < 0.9 * loss_after(pixels, make_optimizer, sweep.suggestion / 100)
    assert suggested < 0.9 * loss_after(pixels, make_optimizer, sweep.suggestion * 100)
    assert suggested < 0.8 * math.log(CLASSES)
    assert sweep.suggestion <= sweep.learning_rates[int(np.argmin(sweep.smoothed))] / 3


def test_the_rates_grow_evenly_and_the_loss_is_smoothed(pixels):
    calls = []
    sweep = find_learning_rate(
        network(),
        batches_of(pixels),
        keras.optimizers.Adam(),
        lowest=1e-5,
        highest=1e-1,
        steps=41,
        progress=lambda *call: calls.append(call),
    )
    assert sweep.learning_rates == pytest.approx(np.logspace(-5, -1, 41)[: len(sweep.learning_rates)])
    assert len(sweep.learning_rates) == len(sweep.losses) == len(sweep.smoothed) == len(calls)
    weights = 0.9 ** np.arange(len(sweep.losses))[::-1]
    assert sweep.smoothed[-1] == pytest.approx(float((weights * sweep.losses).sum() / weights.sum()))
    assert sweep.smoothed[0] == pytest.approx(sweep.losses[0])
    assert calls[0][1:] == (1, 41)
    assert calls[0][0].startswith("find-lr: learning rate 1.0e-05, loss ")
    document = sweep.to_json()
    assert document["suggestion"] == sweep.suggestion
    assert document["losses"] == sweep.losses.tolist()


def test_the_network_is_afterwards_exactly_what_it_was(pixels):
    model = network(dropout=0.3)
    before = [np.asarray(variable).copy() for variable in model.variables]
    assert any(variable.path.endswith("seed_generator_state") for variable in model.variables)
    variables = list(model.variables)
    find_learning_rate(model, batches_of(pixels), keras.optimizers.Adam())
    for variable, values in zip(variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), values, err_msg=variable.path)


def test_a_loss_that_becomes_no_number_ends_the_sweep(pixels):
    model = network()
    before = model.get_weights()
    batches = list(itertools.islice(itertools.cycle(batches_of(pixels)), 100))
    images, targets, weights = batches[80]
    batches[80] = images, targets, weights * np.float32(np.nan)
    sweep = find_learning_rate(model, batches, keras.optimizers.Adam())
    assert len(sweep.losses) == len(sweep.smoothed) == len(sweep.learning_rates) == 80
    assert np.isfinite(sweep.losses).all()
    assert 0 < sweep.suggestion < sweep.learning_rates[-1]
    for now, values in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, values)


def test_an_exploding_loss_ends_the_sweep(pixels):
    sweep = find_learning_rate(network(), batches_of(pixels), keras.optimizers.Adam(), highest=1e3)
    assert len(sweep.losses) < 100
    assert sweep.smoothed[-1] > 4 * sweep.smoothed.min()


def test_targets_may_be_indices_and_batches_an_endless_iterator(pixels):
    images, true = pixels
    indices = ((images[s : s + BATCH], true[s : s + BATCH]) for s in itertools.cycle(range(0, len(images), BATCH)))
    by_index = find_learning_rate(
        network(), indices, keras.optimizers.Adam(), loss="sparse_categorical_crossentropy", steps=60
    )
    one_hot = find_learning_rate(network(), batches_of(pixels), keras.optimizers.Adam(), steps=60)
    assert by_index.losses[:20] == pytest.approx(one_hot.losses[:20], rel=1e-3)


def test_images_that_say_nothing_about_their_labels_are_an_honest_error(pixels):
    _, true = pixels
    grey = np.full((len(true), SIDE_PX, SIDE_PX, 3), 128, np.uint8)
    model = network()
    before = model.get_weights()
    with pytest.raises(InputError, match=r"finds no learning rate.*at its lowest.*look at the images"):
        find_learning_rate(model, batches_of((grey, true)), keras.optimizers.SGD(), highest=1e-2)
    for now, values in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, values)


def test_a_loss_that_is_no_number_from_the_beginning_is_an_error(pixels):
    model = network()
    model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])
    with pytest.raises(InputError, match="no number after 0 steps"):
        find_learning_rate(model, batches_of(pixels), keras.optimizers.Adam())


def test_no_batches_are_an_error():
    with pytest.raises(InputError, match="no batches"):
        find_learning_rate(network(), [], keras.optimizers.Adam())
