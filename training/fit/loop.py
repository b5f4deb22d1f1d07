"""The training loop of heads and whole networks: best epoch kept, early stopping, clean Ctrl-C, resumable bit for bit."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from edgeclf.export.keras_backend import (
    Inference,
    KerasModel,
    KerasOptimizer,
    KerasVariable,
    import_tensorflow,
    inference_of,
)
from edgeclf.runtime.arrays import AnyArray, FloatArray, IntArray
from edgeclf.runtime.errors import InputError, RunFolderError, command_line
from edgeclf.runtime.metrics import classification_report
from edgeclf.runtime.progress import Progress
from edgeclf.training.data.loader import BatchLoader, Subset
from edgeclf.training.fit.train_step import grouped, make_steps
from edgeclf.training.options import MONITORS, FitOptions

if TYPE_CHECKING:
    # Loads onnx, which a training in float does without.
    from edgeclf.export.int8.qat_ranges import TrainedScales

Ending = Literal["finished", "early", "interrupted", "diverged"]
# Images and features that a network is run on at a time when it is not trained.
_PREDICT_IMAGES, _PREDICT_FEATURES = 64, 1024
# Training images that a network is run on after its last epoch: a share of them is then known to within 0.02.
_MEASURED_IMAGES = 512
# The end of the cosine schedule as a share of its learning rate, and the start of its warm-up.
_LAST_SHARE, _FIRST_SHARE = 0.002, 0.05


class DivergedError(InputError):
    """The loss stopped being a number in the first epoch of a training.

    Attributes:
        facts: `stage`; `steps` finished of `epoch_steps` in the epoch; mean `loss` of these, None before the first.
    """

    def __init__(self, facts: Mapping[str, Any], learning_rate: float, *, more: str = "") -> None:
        self.facts = facts
        self._learning_rate = learning_rate
        super().__init__(
            "training diverged in its first epoch",
            got=f"a loss that is not a number after {facts['steps']} of {facts['epoch_steps']} steps",
            expected="a finite loss",
            hint=f"use a --learning-rate below {learning_rate:g} (edgeclf train --find-lr suggests one){more}",
        )

    def with_run(self, folder: Path) -> "DivergedError":
        """The same error, its hint naming the run folder that the doctor can read."""
        return DivergedError(self.facts, self._learning_rate, more=f", or see {command_line('doctor', folder)}")


class Best(NamedTuple):
    """The best epoch so far, replaced as one object, so that Ctrl-C cannot fall between its fields.

    Attributes:
        value: Its monitored figure.
        epoch: Its number, from 1; 0 for weights that were there before the first.
        weights: The network's weights after it.
    """

    value: float
    epoch: int
    weights: list[AnyArray]


@dataclass(eq=False)
class FitState:
    """Training state, enough to resume bit for bit in another process.

    Attributes:
        history: One row per finished epoch, over all stages of a training: `epoch` from 1, `stage`, `loss` and
            `accuracy` (measured while training: augmented, dropout on), `val_loss`, `val_accuracy`, `val_macro_f1`,
            `learning_rate` after it.
        first: Number of these that belong to earlier stages.
        best: The best epoch; None before the first.
        variables: The network's weights, its random generators' states and the optimizer's state after the last
            finished epoch; empty before the first.
        seconds: Duration of each epoch.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    first: int = 0
    best: Best | None = None
    variables: list[AnyArray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """The result of a fit.

    Attributes:
        history: As in `FitState`.
        best_epoch: The epoch whose weights the model now has, from 1; 0 for its weights before the fit, where none was
            better.
        ending: `finished` all epochs, stopped `early`, was `interrupted`, or `diverged`.
        seconds: Duration of each epoch.
        training: `epoch`, `images`, `loss` and `accuracy` in inference mode after the last epoch, on a sample of the
            training images without augmentation; None where the fit was interrupted or diverged.
        scales_8bit: Scales from quantization-aware training; None for training in float.
    """

    history: tuple[dict[str, Any], ...]
    best_epoch: int
    ending: Ending
    seconds: tuple[float, ...]
    training: dict[str, Any] | None = None
    scales_8bit: "TrainedScales | None" = None


def fit_network(
    model: KerasModel,
    training: BatchLoader,
    validation: Subset,
    options: FitOptions,
    *,
    stage: str = "fit",
    state: FitState | None = None,
    on_epoch: Callable[[FitState], None] = lambda _: None,
    progress: Progress,
) -> FitResult:
    """Fits a classifier and leaves it with the weights of its best epoch.

    Args:
        model: A Keras model that ends in probabilities.
        training: The training images or features.
        validation: The images or features that choose the epoch, neither augmented nor balanced.
        options: The options of this fit.
        stage: Name of this fit in the history and in messages.
        state: The end of an earlier stage, or a finished epoch of this one, to start from; None for a new training. Its
            `best` counts: where no epoch of this fit is better, the model is left with the weights of that.
        on_epoch: Called with the state after every finished epoch; the fit goes on to change it.
        progress: Called with the step; its text has loss, accuracy and images/s.

    Raises:
        RunFolderError: The state is that of another network or optimizer.
        DivergedError: The loss stopped being a number in the first epoch of the training.
        KeyboardInterrupt: Ctrl-C in the first epoch; later, Ctrl-C ends the fit and the best weights are kept.
    """
    import_tensorflow()
    state = state or FitState()
    optimizer = make_optimizer(options, len(training))
    optimizer.build(model.trainable_variables)
    if state.variables:
        _restore(_variables(model, optimizer), state.variables)
    ending: Ending = "finished"
    measured = None
    try:
        ending = _run_epochs(
            model,
            optimizer,
            training=training,
            validation=validation,
            options=options,
            stage=stage,
            state=state,
            on_epoch=on_epoch,
            progress=progress,
        )
        if ending in {"finished", "early"}:
            measured = _measure_training(model, optimizer, training, len(state.history))
    except KeyboardInterrupt:
        if state.best is None or not state.history:
            raise
        ending = "interrupted"
    if state.best is None:
        raise ValueError("a fit that ended has a best epoch")
    model.set_weights(state.best.weights)
    return FitResult(tuple(state.history), state.best.epoch, ending, tuple(state.seconds), measured)


def _measure_training(
    model: KerasModel,
    optimizer: KerasOptimizer,
    training: BatchLoader,
    epoch: int,
) -> dict[str, Any] | None:
    """Loss and accuracy on training images in inference mode; the history has them with dropout and augmentation."""
    sample = training.sample(_MEASURED_IMAGES)
    with _averaged(model, optimizer):
        probabilities = predict(inference_of(model), sample)
    if not np.isfinite(probabilities).all():
        return None
    return {
        "epoch": epoch,
        "images": len(sample.positions),
        "loss": cross_entropy(probabilities, sample.true_indices),
        "accuracy": float((probabilities.argmax(axis=1) == sample.true_indices).mean()),
    }


def _run_epochs(
    model: KerasModel,
    optimizer: KerasOptimizer,
    *,
    training: BatchLoader,
    validation: Subset,
    options: FitOptions,
    stage: str,
    state: FitState,
    on_epoch: Callable[[FitState], None],
    progress: Progress,
) -> Ending:
    infer, fit_to = inference_of(model), make_steps(model, optimizer)
    sign = 1.0 if MONITORS[options.monitor] == "highest" else -1.0
    steps = len(training)
    while (epoch := len(state.history) - state.first) < options.epochs:
        # Checked before the epoch, so that a training resumed after its last patient epoch ends as it would have.
        if state.best is not None and len(state.history) - max(state.best.epoch, state.first) >= options.patience:
            return "early"
        started = time.perf_counter()
        figures = {"loss": math.nan, "accuracy": math.nan}
        totals = np.zeros(2)
        images = 0
        done = 0
        for batches in grouped(training.epoch(epoch), model):
            measured = fit_to(batches)
            if not np.isfinite(measured).all():
                return _diverged(state, options, stage=stage, done=done, steps=steps, loss=figures["loss"])
            done += len(batches)
            images += len(batches) * len(batches[0][0])
            totals += measured.sum(axis=0) * len(batches[0][0])
            figures = {"loss": float(totals[0] / images), "accuracy": float(totals[1] / images)}
            rate = images / (time.perf_counter() - started)
            progress(
                f"{stage}: epoch {epoch + 1}, loss {figures['loss']:.3f}, accuracy {figures['accuracy']:.3f}, "
                f"{rate:.0f} images/s{_best_text(state, options)}",
                epoch * steps + done,
                steps * options.epochs,
            )
        # A resumed training goes on from the weights themselves, not from their average.
        variables = [np.asarray(variable) for variable in _variables(model, optimizer)]
        with _averaged(model, optimizer):
            validated = validate(infer, validation, model.output_shape[-1])
            weights = model.get_weights()
        if validated is None:
            return _diverged(state, options, stage=stage, done=done, steps=steps, loss=figures["loss"])
        row: dict[str, Any] = {
            "epoch": len(state.history) + 1,
            "stage": stage,
            "loss": figures["loss"],
            "accuracy": figures["accuracy"],
            **validated,
            "learning_rate": float(optimizer.learning_rate),
        }
        state.variables = variables
        if state.best is None or sign * row[options.monitor] > sign * state.best.value:
            state.best = Best(row[options.monitor], row["epoch"], weights)
        state.seconds.append(time.perf_counter() - started)
        state.history.append(row)
        on_epoch(state)
    return "finished"


def _diverged(state: FitState, options: FitOptions, *, stage: str, done: int, steps: int, loss: float) -> Ending:
    # Weights that were there before the first epoch are those of another run, which still has them.
    if state.best is None or not state.history:
        facts = {"stage": stage, "steps": done, "epoch_steps": steps, "loss": loss if math.isfinite(loss) else None}
        raise DivergedError(facts, options.learning_rate)
    return "diverged"


@contextlib.contextmanager
def _averaged(model: KerasModel, optimizer: KerasOptimizer) -> Iterator[None]:
    """Gives the model the moving average of its weights for as long as the block lasts, where there is one."""
    if not optimizer.use_ema:
        yield
        return
    weights = [np.asarray(variable) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)


def _best_text(state: FitState, options: FitOptions) -> str:
    return f", best {options.monitor} {state.best.value:.3f}" if state.best else ""


def validate(infer: Inference, validation: Subset, classes: int) -> dict[str, float] | None:
    """`val_loss`, `val_accuracy` and `val_macro_f1`; None where a probability is not finite.

    Args:
        infer: The network, see `inference_of`.
        validation: The validation images.
        classes: C.
    """
    probabilities = predict(infer, validation)
    if not np.isfinite(probabilities).all():
        return None
    report = classification_report(probabilities, validation.true_indices, [str(index) for index in range(classes)])
    return {
        "val_loss": cross_entropy(probabilities, validation.true_indices),
        "val_accuracy": report.accuracy,
        "val_macro_f1": report.macro_f1,
    }


def cross_entropy(probabilities: FloatArray, true_indices: IntArray) -> float:
    """Mean negative log likelihood in nats; a probability counts as 1e-7 at least, as in Keras."""
    chosen = probabilities[np.arange(len(true_indices)), true_indices]
    return float(-np.log(np.maximum(chosen.astype(np.float64), 1e-7)).mean())


def predict(infer: Inference, data: Subset, report: Callable[[int], None] = lambda _: None) -> FloatArray:
    """Probabilities of images or features in inference mode, (N, C) float32.

    Args:
        infer: The network, see `inference_of`.
        data: Its inputs.
        report: Called with the number of images done.
    """
    outputs = []
    count = _PREDICT_IMAGES if data.inputs.ndim > 2 else _PREDICT_FEATURES
    for start in range(0, len(data.positions), count):
        outputs.append(infer(data.read(slice(start, start + count))))
        report(min(start + count, len(data.positions)))
    return np.concatenate(outputs)


def _variables(model: KerasModel, optimizer: KerasOptimizer) -> list[KerasVariable]:
    """Every variable that an epoch changes, in an order that depends on the architecture and the optimizer alone."""
    # Dropout draws from generators whose states Keras does not count among the weights.
    generators = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    return [*model.weights, *generators, *optimizer.variables]


def _restore(variables: Sequence[KerasVariable], values: Sequence[AnyArray]) -> None:
    # Another version may build another network, or give a fit other options than the one that began it.
    if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
        raise RunFolderError(
            "cannot resume this training",
            got="the state of another network or optimizer",
            expected="that of the same version of edgeclf",
            hint="train again",
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def make_optimizer(options: FitOptions, steps: int) -> KerasOptimizer:
    """The Keras optimizer of a fit with its schedule.

    Args:
        options: Optimizer, learning rate, schedule, warm-up, weight decay and averaging.
        steps: Batches in an epoch.
    """
    import keras

    rate: Any = options.learning_rate
    if options.schedule == "cosine":
        warmup = round(options.warmup_epochs * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            options.learning_rate * _FIRST_SHARE if warmup else options.learning_rate,
            decay_steps=max(1, options.epochs * steps - warmup),
            alpha=_LAST_SHARE,
            warmup_target=options.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    makers: dict[str, Any] = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "nadam": keras.optimizers.Nadam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }
    extra: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if options.optimizer == "sgd" else {}
    if options.average_epochs:
        # Never more than has passed on the whole, and at least the step itself.
        extra |= {"use_ema": True, "ema_momentum": 1 - 1 / max(1.0, options.average_epochs * steps)}
    # Keras's AdamW insists on a number; for the others None leaves the step out.
    none = 0.0 if options.optimizer == "adamw" else None
    optimizer = makers[options.optimizer](rate, weight_decay=options.weight_decay or none, **extra)
    if options.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "log_scale"])
    return optimizer
