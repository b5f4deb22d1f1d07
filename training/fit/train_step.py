"""Steps of gradient descent: a batch at a time, or many small ones in one call."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.arrays import Float64Array
from edgeclf.training.data.loader import Batch

# Batches of one size that features are fitted to in one call: calling TensorFlow takes longer than a step of a head.
_TOGETHER = 16

Steps: TypeAlias = Callable[[Sequence[Batch]], Float64Array]


def grouped(batches: Iterable[Batch], model: Any) -> Iterator[list[Batch]]:  # noqa: ANN401 - keras carries no types
    """The batches in their order, in lists that `make_steps` takes: one by one, or for a head many of one size.

    Args:
        batches: Of inputs, targets and weights.
        model: What they are for.
    """
    if len(model.input_shape) > 2:
        yield from ([batch] for batch in batches)
        return
    for _, alike in itertools.groupby(batches, key=lambda batch: len(batch[0])):
        while together := list(itertools.islice(alike, _TOGETHER)):
            yield together


def make_steps(model: Any, optimizer: Any) -> Steps:  # noqa: ANN401
    """What fits a network to batches of one size, one after the other.

    Each step is the same as `train_on_batch` of a compiled model, without its metrics, which take longer than a step of
    a small head.

    Args:
        model: A Keras model that ends in probabilities.
        optimizer: A built Keras optimizer.

    Returns:
        Takes n batches, gives (n, 2) float64: the loss and the accuracy of each, as they were before its step.
    """
    tensorflow = import_tensorflow()
    import keras

    def step(inputs: Any, targets: Any, weights: Any) -> Any:  # noqa: ANN401
        with tensorflow.GradientTape() as tape:
            probabilities = model(inputs, training=True)
            losses = keras.losses.categorical_crossentropy(targets, probabilities) * weights
            loss = tensorflow.reduce_mean(losses)
            total = tensorflow.add_n([loss, *model.losses])
        optimizer.apply(tape.gradient(total, model.trainable_variables), model.trainable_variables)
        right = tensorflow.equal(tensorflow.argmax(probabilities, axis=1), tensorflow.argmax(targets, axis=1))
        return tensorflow.stack([loss, tensorflow.reduce_mean(tensorflow.cast(right, "float32"))])

    def steps(inputs: Any, targets: Any, weights: Any) -> Any:  # noqa: ANN401
        def one(index: Any, measured: Any) -> Any:  # noqa: ANN401
            return index + 1, measured.write(index, step(inputs[index], targets[index], weights[index]))

        count = tensorflow.shape(inputs)[0]
        measured = tensorflow.TensorArray("float32", size=count, element_shape=(2,))
        # Every step begins with the weights that the one before left.
        _, measured = tensorflow.while_loop(lambda index, _: index < count, one, (0, measured), parallel_iterations=1)
        return measured.stack()

    # Not compiled by XLA, which makes these networks several times slower on CPUs; nothing here branches, so that
    # looking for it (autograph) is time lost.
    options = {"jit_compile": False, "autograph": False}
    single = tensorflow.function(step, reduce_retracing=True, **options)
    several = tensorflow.function(
        steps,
        input_signature=[
            tensorflow.TensorSpec((None, None, *model.input_shape[1:]), model.inputs[0].dtype),
            tensorflow.TensorSpec((None, None, model.output_shape[-1]), "float32"),
            tensorflow.TensorSpec((None, None), "float32"),
        ],
        **options,
    )

    def run(batches: Sequence[Batch]) -> Float64Array:
        if len(batches) == 1:
            return np.asarray(single(*map(tensorflow.constant, batches[0])), np.float64)[np.newaxis]
        stacked = (tensorflow.constant(np.stack(arrays)) for arrays in zip(*batches, strict=True))
        return np.asarray(several(*stacked), np.float64)

    return run
