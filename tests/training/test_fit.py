"""The training loop: the best weights are kept however it ends."""

import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.export._packages import import_tensorflow
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.progress import no_progress
from edgeclf.training.fit import OPTIMIZERS, FitOptions, _optimizer, fit, image_batches

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads


def options(**changes):
    return FitOptions(
        **{
            "epochs": 3,
            "batch_size": 16,
            "optimizer": "adam",
            "learning_rate": 0.01,
            "patience": 10,
            "seed": 0,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def pixels():
    """(120, 16, 16, 3) uint8 crops of two photographs, and which of the two each is from."""
    rng = np.random.default_rng(3)
    crops = []
    for image in (photographs.coffee(), photographs.chelsea()):
        for _ in range(60):
            top, left = rng.integers(0, 280), rng.integers(0, 400)
            crops.append(image[top : top + 16, left : left + 16])
    return np.stack(crops), np.repeat([0, 1], 60)


def batches(pixels, *, first, step, seed):
    images, true = pixels
    rows = np.arange(first, len(images), step)
    return image_batches(images, rows, true[rows], 16, seed)


def run(pixels, fit_options, progress=no_progress, model=None):
    model = model or network()
    validation = batches(pixels, first=1, step=2, seed=None)
    result = fit(model, batches(pixels, first=0, step=2, seed=fit_options.seed), validation, fit_options, progress)
    return model, result, float(model.evaluate(validation, verbose=0)[0])


def network(hidden=64):
    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dense(hidden, activation="relu")(x)
    return keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))


def test_the_weights_of_the_best_epoch_are_kept(pixels):
    model = network()

    def spoil(stage, done, total):
        if done == total:  # the classes swapped, so that the last epoch is not the best
            model.set_weights([*model.get_weights()[:2], *(w[..., ::-1] for w in model.get_weights()[2:])])

    _, result, val_loss = run(pixels, options(epochs=5, learning_rate=1e-3), spoil, model)
    losses = [row["val_loss"] for row in result.history]
    assert result.ending == "finished"
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5]
    assert 1 < result.best_epoch < 5
    assert result.best_epoch == int(np.argmin(losses)) + 1
    assert val_loss == pytest.approx(min(losses), rel=1e-4)
    assert set(result.history[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"}


def test_training_stops_early_after_its_patience(pixels):
    model = network()
    weights = []

    def spoil(stage, done, total):
        if done == 8:
            weights.extend(-w for w in model.get_weights())
        if done > 8:  # from the third epoch on
            model.set_weights(weights)

    _, result, val_loss = run(pixels, options(epochs=50, learning_rate=1e-3, patience=2), spoil, model)
    assert result.ending == "early"
    assert len(result.history) == result.best_epoch + 2 == 4
    assert val_loss == pytest.approx(min(row["val_loss"] for row in result.history), rel=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_the_one_named(name):
    made = _optimizer(options(optimizer=name, learning_rate=0.125))
    assert type(made).__name__.lower() == name
    assert float(made.learning_rate) == 0.125


def test_progress_names_stage_step_and_figures(pixels):
    calls = []
    run(pixels, options(epochs=2), lambda *call: calls.append(call))
    assert [(done, total) for _, done, total in calls] == [(step, 8) for step in range(1, 9)]
    assert calls[0][0].startswith("fit: epoch 1, loss ")
    assert "images/s" in calls[0][0]
    assert "best val loss" not in calls[0][0]
    assert "best val loss" in calls[-1][0]


def test_a_loss_that_stops_being_a_number_in_the_first_epoch_is_an_error(pixels):
    with pytest.raises(InputError, match=r"diverged in its first epoch.*--learning-rate below 1e\+30"):
        run(pixels, options(optimizer="sgd", learning_rate=1e30))


def test_a_loss_that_stops_being_a_number_later_keeps_the_best(pixels):
    model = network()

    def poison(stage, done, total):
        if done == 6:  # the second step of the second epoch
            model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])

    _, result, val_loss = run(pixels, options(epochs=5), poison, model)
    assert result.ending == "diverged"
    assert (len(result.history), result.best_epoch) == (1, 1)
    assert val_loss == pytest.approx(result.history[0]["val_loss"], rel=1e-4)


def test_an_interruption_after_the_first_epoch_keeps_the_best(pixels):
    def interrupt(stage, done, total):
        if done == 6:
            raise KeyboardInterrupt

    _, result, val_loss = run(pixels, options(), interrupt)
    assert result.ending == "interrupted"
    assert (len(result.history), result.best_epoch) == (1, 1)
    assert val_loss == pytest.approx(result.history[0]["val_loss"], rel=1e-4)


def test_an_interruption_before_the_first_epoch_ends_is_passed_on(pixels):
    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pixels, options(), interrupt)


def test_the_seed_gives_the_same_history(pixels):
    def figures(seed):
        _, result, _ = run(pixels, options(seed=seed, epochs=2))
        return [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]

    first, again, other = figures(4), figures(4), figures(5)
    assert first == again
    assert first != other


def test_batches_are_every_row_once_in_another_order_each_epoch(pixels):
    images, true = pixels
    rows = np.arange(5, 55)
    shuffled = image_batches(images, rows, true[rows], 16, 9)
    assert len(shuffled) == 4
    epochs = []
    for _ in range(2):
        got = [shuffled[index] for index in range(4)]
        assert [len(x) for x, _ in got] == [16, 16, 16, 2]
        epochs.append(np.concatenate([x for x, _ in got]))
        shuffled.on_epoch_end()
    wanted = sorted(image.tobytes() for image in images[rows])
    assert all(sorted(image.tobytes() for image in epoch) == wanted for epoch in epochs)
    assert not np.array_equal(*epochs)
    in_order = image_batches(images, rows, true[rows], 16, None)
    np.testing.assert_array_equal(np.concatenate([in_order[i][0] for i in range(4)]), images[rows])
    np.testing.assert_array_equal(np.concatenate([in_order[i][1] for i in range(4)]), true[rows])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "bad epochs"),
        ({"batch_size": 0}, "bad batch size"),
        ({"patience": 0}, "bad patience"),
        ({"learning_rate": 0.0}, "bad learning rate"),
        ({"learning_rate": -1.0}, "bad learning rate"),
        ({"learning_rate": float("nan")}, "bad learning rate"),
        ({"learning_rate": float("inf")}, "bad learning rate"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion': expected adam or"),
    ],
)
def test_options_out_of_range(change, words):
    with pytest.raises(UsageError, match=words):
        options(**change)
