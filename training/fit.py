"""One training loop for heads and whole networks: early stopping, the best weights kept, stopped cleanly by Ctrl-C."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeclf.export._packages import import_tensorflow
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.preprocess import UInt8Array
from edgeclf.runtime.progress import Progress

OPTIMIZERS = ("adam", "adamw", "nadam", "rmsprop", "sgd")
Ending = Literal["finished", "early", "interrupted", "diverged"]


@dataclass(frozen=True)
class FitOptions:
    """How a network is fitted.

    Attributes:
        epochs: Most epochs.
        batch_size: Images in one step.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: Its learning rate.
        patience: Epochs without a lower validation loss before training stops.
        seed: Of the order of the images; weights and dropout are seeded by the caller.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    patience: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"bad {name.replace('_', ' ')}", got=str(getattr(self, name)), expected="at least 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UsageError("bad learning rate", got=f"{self.learning_rate:g}", expected="a positive number")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(
                f"unknown optimizer {self.optimizer!r}", expected=" or ".join(OPTIMIZERS), do="choose one of them"
            )


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes:
        history: One entry an epoch: `epoch` from 1, `loss`, `accuracy` (measured while training, dropout on),
            `val_loss`, `val_accuracy`, `seconds`.
        best_epoch: The epoch whose weights the model now has, from 1.
        ending: `finished` all epochs, stopped `early`, was `interrupted`, or `diverged`.
    """

    history: tuple[dict[str, float], ...]
    best_epoch: int
    ending: Ending


@dataclass
class _State:
    """What the callback keeps between epochs."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: "_Best | None" = None
    ending: Ending = "finished"


class _Best(NamedTuple):
    """The epoch with the lowest validation loss: one object, so that Ctrl-C cannot fall between its parts."""

    loss: float
    epoch: int
    weights: list[npt.NDArray[Any]]


def fit(
    model: Any,  # noqa: ANN401 - keras carries no types
    training: Any,  # noqa: ANN401 - a keras PyDataset
    validation: Any,  # noqa: ANN401
    options: FitOptions,
    progress: Progress,
) -> FitResult:
    """Fits a classifier and leaves it with the weights of its best epoch.

    Args:
        model: A Keras model that ends in probabilities; compiled here.
        training: What `image_batches` made of the training images.
        validation: The same of the validation images, unshuffled: the lowest loss on them decides.
        options: How.
        progress: Told the step, with loss, accuracy and images/s.

    Raises:
        InputError: The loss stopped being a number before the first epoch ended.
        KeyboardInterrupt: Ctrl-C before the first epoch ended; afterwards it ends the fit and the best is kept.
    """
    import_tensorflow()
    import keras

    # jit_compile is off because XLA makes these networks several times slower on CPUs.
    model.compile(
        optimizer=_optimizer(options), loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    state = _State()
    callback = _make_callback(keras.callbacks.Callback, state, options, len(training), progress)
    try:
        model.fit(
            training, validation_data=validation, epochs=options.epochs, shuffle=False, verbose=0, callbacks=[callback]
        )
    except KeyboardInterrupt:
        if state.best is None:
            raise
        state.ending = "interrupted"
    if state.best is None:
        raise InputError(
            "training diverged in its first epoch",
            got="a loss that is not a number",
            expected="a finite loss",
            do=f"use a --learning-rate below {options.learning_rate:g}",
        )
    model.set_weights(state.best.weights)
    return FitResult(tuple(state.history), state.best.epoch, state.ending)


def image_batches(
    images: UInt8Array | npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    true_indices: npt.NDArray[np.int64],
    batch_size: int,
    seed: int | None,
) -> Any:  # noqa: ANN401 - a keras PyDataset
    """Batches of rows of an array or memory map, as Keras reads them.

    Args:
        images: (M, ...) uint8 images or float32 features; may be larger than memory.
        rows: (N,) which of them to use.
        true_indices: (N,) class of each row.
        batch_size: Rows in one batch; the last one is smaller.
        seed: Of the order, new in every epoch; None keeps the order of `rows`.
    """
    import_tensorflow()
    from keras.utils import PyDataset

    class Batches(PyDataset):  # type: ignore[misc] # keras carries no types
        def __init__(self) -> None:
            super().__init__(workers=1, max_queue_size=8)
            self.epoch = 0
            self.order = self._shuffled()

        def _shuffled(self) -> npt.NDArray[np.int64]:
            if seed is None:
                return np.arange(len(rows))
            return np.random.default_rng([seed, self.epoch]).permutation(len(rows))

        def __len__(self) -> int:
            return math.ceil(len(rows) / batch_size)

        def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
            chosen = self.order[index * batch_size : (index + 1) * batch_size]
            return np.stack([images[row] for row in rows[chosen]]), true_indices[chosen]

        def on_epoch_end(self) -> None:
            self.epoch += 1
            self.order = self._shuffled()

    return Batches()


def _optimizer(options: FitOptions) -> Any:  # noqa: ANN401
    import keras

    makers: dict[str, Any] = {
        "adam": lambda: keras.optimizers.Adam(options.learning_rate),
        "adamw": lambda: keras.optimizers.AdamW(options.learning_rate),
        "nadam": lambda: keras.optimizers.Nadam(options.learning_rate),
        "rmsprop": lambda: keras.optimizers.RMSprop(options.learning_rate),
        "sgd": lambda: keras.optimizers.SGD(options.learning_rate, momentum=0.9),
    }
    return makers[options.optimizer]()


def _make_callback(base: type[Any], state: _State, options: FitOptions, steps: int, progress: Progress) -> Any:  # noqa: ANN401
    total = steps * options.epochs

    class Keeper(base):  # type: ignore[misc] # the base class is Keras's, known only at run time
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
            self.epoch = epoch
            self.started = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            loss = float((logs or {})["loss"])
            if not math.isfinite(loss):
                state.ending = "diverged"
                self.model.stop_training = True
                return
            rate = (batch + 1) * options.batch_size / (time.perf_counter() - self.started)
            accuracy = float((logs or {})["accuracy"])
            best = f", best val loss {state.best.loss:.3f}" if state.best else ""
            progress(
                f"fit: epoch {self.epoch + 1}, loss {loss:.3f}, accuracy {accuracy:.3f}, {rate:.0f} images/s{best}",
                self.epoch * steps + batch + 1,
                total,
            )

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            values = {key: float(value) for key, value in (logs or {}).items()}
            if state.ending == "diverged" or not all(math.isfinite(value) for value in values.values()):
                state.ending = "diverged"
                self.model.stop_training = True
                return
            seconds = time.perf_counter() - self.started
            names = ("loss", "accuracy", "val_loss", "val_accuracy")
            state.history.append({"epoch": epoch + 1, **{name: values[name] for name in names}, "seconds": seconds})
            if state.best is None or values["val_loss"] < state.best.loss:
                state.best = _Best(values["val_loss"], epoch + 1, self.model.get_weights())
            elif epoch + 1 - state.best.epoch >= options.patience:
                state.ending = "early"
                self.model.stop_training = True

    return Keeper()
