"""The training loop: the best weights are kept however it ends."""

import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.errors import RunFolderError
from edgeclf.runtime.progress import no_progress
from edgeclf.training.data.loader import BatchLoader, Subset
from edgeclf.training.fit.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeclf.training.fit.loop import Best, DivergedError, FitState, cross_entropy, fit_network, make_optimizer
from edgeclf.training.options import OPTIMIZERS, FitOptions

pytestmark = pytest.mark.slow

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads


def options(**changes):
    values = {"epochs": 3, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.01, "patience": 10, "seed": 0}
    return FitOptions(**{**values, **changes})


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


def part(pixels, first):
    images, true = pixels
    rows = np.arange(first, len(images), 2)
    return Subset(images, rows, true[rows])


def run(pixels, fit_options, progress=no_progress, model=None, **more):
    model = model or network()
    batches = BatchLoader(part(pixels, 0), 2, fit_options)
    validation = part(pixels, 1)
    result = fit_network(model, batches, validation, fit_options, progress=progress, **more)
    probabilities = model.predict(validation.inputs[validation.positions], verbose=0)
    return model, result, cross_entropy(probabilities, validation.true_indices)


def network(hidden=64, dropout=0.0):
    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dense(hidden, activation="relu")(x)
    x = keras.layers.Dropout(dropout)(x)
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
    assert list(result.history[0]) == [
        "epoch",
        "stage",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "val_macro_f1",
        "learning_rate",
    ]
    assert len(result.seconds) == 5


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
    made = make_optimizer(options(optimizer=name, learning_rate=0.125), 10)
    assert type(made).__name__.lower() == name
    assert float(made.learning_rate) == 0.125


def test_progress_names_stage_step_and_figures(pixels):
    calls = []
    run(pixels, options(epochs=2), lambda *call: calls.append(call))
    assert [(done, total) for _, done, total in calls] == [(step, 8) for step in range(1, 9)]
    assert calls[0][0].startswith("fit: epoch 1, loss ")
    assert "images/s" in calls[0][0]
    assert "best val_loss" not in calls[0][0]
    assert "best val_loss" in calls[-1][0]


def test_a_loss_that_stops_being_a_number_in_the_first_epoch_is_an_error(pixels):
    with pytest.raises(DivergedError, match=r"diverged in its first epoch.*--learning-rate below 1e\+30") as caught:
        run(pixels, options(optimizer="sgd", learning_rate=1e30))
    assert caught.value.facts["stage"] == "fit"
    assert 0 < caught.value.facts["steps"] < caught.value.facts["epoch_steps"] == 4


def test_what_the_last_epoch_knows_of_the_training_images_is_measured_without_dropout(pixels):
    model = network(dropout=0.9)
    _, result, _ = run(pixels, options(epochs=12, learning_rate=3e-3), model=model)
    assert result.training is not None
    assert (result.training["epoch"], result.training["images"]) == (12, 60)
    assert result.training["accuracy"] > result.history[-1]["accuracy"]
    assert result.training["loss"] < result.history[-1]["loss"]


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
        return run(pixels, options(seed=seed, epochs=2))[1].history

    first, again, other = figures(4), figures(4), figures(5)
    assert first == again
    assert first != other


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_fit_ends_as_if_nothing_had_happened(pixels, tmp_path, stop_after):
    # Dropout, augmentation, a schedule and an optimizer with moments: everything that has a state.
    how = options(
        epochs=5,
        augment="strong",
        mixup=0.3,
        schedule="cosine",
        warmup_epochs=1,
        optimizer="adamw",
        weight_decay=0.01,
        average_epochs=0.5,
    )

    def model():
        return network(hidden=16, dropout=0.3)

    whole_model, whole, _ = run(pixels, how, model=model())

    class KilledError(Exception):
        pass

    def die(state):
        save_checkpoint(Checkpoint("fit", state, "images"), tmp_path / "checkpoint.npz")
        if len(state.history) == stop_after:
            raise KilledError

    with pytest.raises(KilledError):
        run(pixels, how, model=model(), on_epoch=die)
    state = load_checkpoint(tmp_path / "checkpoint.npz").state
    assert len(state.history) == stop_after
    keras.utils.set_random_seed(99)
    resumed_model, resumed, _ = run(pixels, how, model=model(), state=state)
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    for mine, theirs in zip(resumed_model.get_weights(), whole_model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("other", [{"hidden": 32}, {"optimizer": "sgd"}])
def test_the_state_of_another_network_or_optimizer_is_refused(pixels, other):
    states = []
    run(pixels, options(epochs=1), model=network(hidden=16), on_epoch=states.append)
    model = network(hidden=other.pop("hidden", 16))
    with pytest.raises(RunFolderError, match="cannot resume this training: got the state of another network"):
        run(pixels, options(**other), model=model, state=states[0])


def test_the_training_figures_are_means_over_the_epoch(pixels):
    # With a learning rate of next to nothing the network stays what it was, so that its own loss is known.
    how = options(epochs=1, learning_rate=1e-12, batch_size=7, optimizer="sgd")
    model = network()
    training = part(pixels, 0)
    probabilities = model.predict(training.inputs[training.positions], verbose=0)
    (row,) = run(pixels, how, model=model)[1].history
    assert row["loss"] == pytest.approx(cross_entropy(probabilities, training.true_indices), rel=1e-4)
    assert row["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == training.true_indices).mean(), rel=1e-5)


def test_a_fit_never_ends_worse_than_it_started(pixels):
    model, first, good = run(pixels, options(epochs=4, learning_rate=1e-3))
    best = model.get_weights()
    state = FitState(list(first.history), len(first.history), Best(good, first.best_epoch, best))
    how = options(epochs=2, optimizer="sgd", learning_rate=3.0)
    model, second, kept = run(pixels, how, model=model, state=state, stage="fine-tune")
    assert [row["stage"] for row in second.history] == ["fit"] * 4 + ["fine-tune"] * 2
    assert [row["epoch"] for row in second.history] == [1, 2, 3, 4, 5, 6]
    assert min(row["val_loss"] for row in second.history[4:]) > good
    assert second.best_epoch == first.best_epoch
    assert kept == pytest.approx(good, rel=1e-5)


def test_divergence_after_a_good_start_keeps_the_start(pixels):
    model, first, good = run(pixels, options(epochs=2, learning_rate=1e-3))
    state = FitState(list(first.history), 2, Best(good, first.best_epoch, model.get_weights()))
    _, second, kept = run(pixels, options(optimizer="sgd", learning_rate=1e30), model=model, state=state)
    assert second.ending == "diverged"
    assert len(second.history) == 2
    assert kept == pytest.approx(good, rel=1e-5)


@pytest.mark.parametrize("monitor", ["val_accuracy", "val_macro_f1"])
def test_the_monitored_figure_chooses_the_epoch(pixels, monitor):
    _, result, _ = run(pixels, options(epochs=6, monitor=monitor, learning_rate=3e-3))
    figures = [row[monitor] for row in result.history]
    assert result.best_epoch == int(np.argmax(figures)) + 1


def test_cosine_warms_up_and_falls_to_nearly_nothing(pixels):
    how = options(epochs=5, schedule="cosine", warmup_epochs=2, learning_rate=0.01)
    rates = [row["learning_rate"] for row in run(pixels, how)[1].history]
    assert rates[0] == pytest.approx(0.00525, rel=0.01)  # half-way from 5 % of it
    assert rates[1] == pytest.approx(0.01, rel=0.01)
    assert rates[1] > rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(0.01 * 0.002, rel=0.01)


def test_weight_decay_shrinks_kernels_and_leaves_biases():
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    layer.bias.assign(np.ones(3))
    optimizer = make_optimizer(options(optimizer="sgd", learning_rate=0.1, weight_decay=0.5), 1)
    before = [np.array(w) for w in layer.get_weights()]
    optimizer.build(layer.trainable_variables)
    optimizer.apply([np.zeros((4, 3), "float32"), np.zeros(3, "float32")], layer.trainable_variables)
    after = layer.get_weights()
    assert after[0] == pytest.approx(before[0] * 0.95, rel=1e-5)
    assert after[1] == pytest.approx(before[1])


def test_the_average_of_the_weights_is_what_is_validated_and_kept(pixels):
    # Over so many epochs that it stays where the first step has left it, while the weights themselves go on.
    still = options(average_epochs=1e6, learning_rate=0.01)
    start = network().get_weights()
    model, result, loss = run(pixels, still)
    for before, after in zip(start, model.get_weights(), strict=True):
        np.testing.assert_allclose(after, before, atol=0.0101)
    assert loss == pytest.approx(min(row["val_loss"] for row in result.history), rel=1e-4)
    assert result.history[-1]["loss"] < result.history[0]["loss"]

    moved, _, _ = run(pixels, options(learning_rate=0.01))
    assert max(np.abs(a - b).max() for a, b in zip(start, moved.get_weights(), strict=True)) > 0.05


def test_the_average_over_no_more_than_a_step_is_the_weights_themselves(pixels):
    plain, _, _ = run(pixels, options())
    averaged, _, _ = run(pixels, options(average_epochs=1e-9))
    for a, b in zip(plain.get_weights(), averaged.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
