"""Steps of gradient descent: many batches in one call do what they do one by one."""

import numpy as np

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.training.fit.train_step import grouped, make_steps

from ...randomness import fresh_rng

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads


def head(dropout=0.2):
    keras.utils.set_random_seed(4)
    features = keras.Input((12,))
    return keras.Model(features, keras.layers.Dense(3, activation="softmax")(keras.layers.Dropout(dropout)(features)))


def network():
    image = keras.Input((8, 8, 3), dtype="uint8")
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(image)))


def batches(sizes):
    rng = fresh_rng()
    return [
        (
            rng.normal(size=(size, 12)).astype(np.float32),
            np.eye(3, dtype=np.float32)[rng.integers(0, 3, size)],
            rng.uniform(0.5, 2, size).astype(np.float32),
        )
        for size in sizes
    ]


def fitted(given, together):
    model = head()
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    steps = make_steps(model, optimizer)
    groups = grouped(given, model) if together else ([batch] for batch in given)
    return np.concatenate([steps(group) for group in groups]), model, optimizer


def test_many_batches_in_one_call_are_the_same_steps():
    given = batches([16] * 20 + [5])
    one_by_one, reference, _ = fitted(given, together=False)
    figures, model, optimizer = fitted(given, together=True)
    assert int(optimizer.iterations) == 21
    np.testing.assert_allclose(figures, one_by_one, rtol=1e-5, atol=1e-6)
    for values, expected in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(model.get_weights()[0], head().get_weights()[0])


def test_the_figures_are_loss_and_accuracy_before_the_step():
    ((inputs, targets, weights),) = given = batches([16])
    model = head(dropout=0.0)
    probabilities = model.predict(inputs, verbose=0)
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    ((loss, accuracy),) = make_steps(model, optimizer)(given)
    chosen = (probabilities * targets).sum(axis=1)
    np.testing.assert_allclose(loss, (-np.log(chosen) * weights).mean(), rtol=1e-4)
    np.testing.assert_allclose(accuracy, (probabilities.argmax(axis=1) == targets.argmax(axis=1)).mean(), rtol=1e-6)


def test_only_batches_of_one_size_for_a_head_come_together():
    given = batches([4] * 35 + [2, 4])
    groups = list(grouped(given, head()))
    assert [len(group) for group in groups] == [16, 16, 3, 1, 1]
    assert [id(batch) for group in groups for batch in group] == [id(batch) for batch in given]
    assert [len(group) for group in grouped(given, network())] == [1] * 37
