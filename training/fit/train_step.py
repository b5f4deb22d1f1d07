"""The train step: a gradient step per batch, several batches of features in one TensorFlow call."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from edgeclf.export.keras_backend import KerasModel, KerasOptimizer, KerasTensor, import_tensorflow
from edgeclf.runtime.arrays import Float64Array
from edgeclf.training.data.loader import Batch

# Batches of one size that features are fitted to in one call: calling TensorFlow takes longer than a step of a head.
_TOGETHER = 16

Steps: TypeAlias = Callable[[Sequence[Batch]], Float64Array]


def grouped(batches: Iterable[Batch], model: KerasModel) -> Iterator[list[Batch]]:
    """Groups batches for `make_steps`: one by one, or for a head up to 16 consecutive ones of equal size.

    Args:
        batches: Inputs, targets and weights.
        model: The Keras model that is fitted to them.
    """
    if len(model.input_shape) > 2:
        yield from ([batch] for batch in batches)
        return
    for _, alike in itertools.groupby(batches, key=lambda batch: len(batch[0])):
        while together := list(itertools.islice(alike, _TOGETHER)):
            yield together


def make_steps(model: KerasModel, optimizer: KerasOptimizer) -> Steps:
    """Builds the function that takes a gradient step for each of some batches of equal size.

    Each step is the same as `train_on_batch` of a compiled model, without its metrics, which take longer than a step of
    a small head.

    Args:
        model: A Keras model that ends in probabilities.
        optimizer: A built Keras optimizer.

    Returns:
        A function from n batches to (n, 2) float64, loss and accuracy of each batch before its step.
    """
    tensorflow = import_tensorflow()
    import keras

    def step(inputs: KerasTensor, targets: KerasTensor, weights: KerasTensor) -> KerasTensor:
        with tensorflow.GradientTape() as tape:
            probabilities = model(inputs, training=True)
            losses = keras.losses.categorical_crossentropy(targets, probabilities) * weights
            loss = tensorflow.reduce_mean(losses)
            total = tensorflow.add_n([loss, *model.losses])
        optimizer.apply(tape.gradient(total, model.trainable_variables), model.trainable_variables)
        right = tensorflow.equal(tensorflow.argmax(probabilities, axis=1), tensorflow.argmax(targets, axis=1))
        return tensorflow.stack([loss, tensorflow.reduce_mean(tensorflow.cast(right, "float32"))])

    def steps(inputs: KerasTensor, targets: KerasTensor, weights: KerasTensor) -> KerasTensor:
        def one(index: KerasTensor, measured: KerasTensor) -> tuple[KerasTensor, KerasTensor]:
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
