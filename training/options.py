"""The options of a training: one table from which the command's options, the options of each fit and the doctor's remedies derive.

The fields of `TrainOptions` are the rows. Nothing here imports more than the standard library and the values of the runtime, so that
`edgeclf train --help` needs neither NumPy nor TensorFlow.
"""

import functools
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from edgeclf.runtime.cpus import MOST_IMAGES_IN_A_BATCH
from edgeclf.runtime.errors import RunFolderError, UsageError
from edgeclf.runtime.spec import MOST_PIXELS_OF_A_SIDE
from edgeclf.runtime.spec.json_documents import record_from_json

# The fits of a training, as the history names them: the head of a frozen backbone, the backbone and its head after that,
# a network trained as a whole, and a trained network in the arithmetic of its int8 file.
Stage = Literal["head", "fine-tune", "fit", "qat"]
HEAD: Stage = "head"
FINE_TUNE: Stage = "fine-tune"
WHOLE: Stage = "fit"
QAT: Stage = "qat"
_FIRST: tuple[Stage, ...] = (HEAD, WHOLE, QAT)
_EVERY: tuple[Stage, ...] = (HEAD, FINE_TUNE, WHOLE, QAT)
# A head is fitted to features, which are computed once: only these see images.
_ON_IMAGES: tuple[Stage, ...] = (FINE_TUNE, WHOLE, QAT)

DEFAULT_ARCHITECTURE = "efficientnet-lite0"
OPTIMIZERS = ("adam", "adamw", "nadam", "rmsprop", "sgd")
SCHEDULES = ("constant", "cosine")
BALANCES = ("none", "weights", "sampling")
AUGMENTATIONS = ("none", "light", "strong")
# The figures that can choose the best epoch, and which value of each is best.
MONITORS = {"val_loss": "lowest", "val_accuracy": "highest", "val_macro_f1": "highest"}


@dataclass(frozen=True)
class TrainingOption:
    """An option of a training, a row of the table.

    Attributes:
        name: Field of `TrainOptions`.
        flag: On the command line.
        type: What the command parses: a type, `T | None` where a value may be missing.
        default: None takes what suits the architecture or the data.
        help: One line.
        stages: The fits that the option goes to; none for an option of the network, of the data or of the whole training.
        sets: Field of `FitOptions` that it sets in these.
        minimum: Smallest value that the command parses; None for any.
        bounds: Lowest value that a fit takes, and the one that all are below.
        choices: The values of a name.
    """

    name: str
    flag: str
    type: Any
    default: Any
    help: str
    stages: tuple[Stage, ...]
    sets: str
    minimum: float | None
    bounds: tuple[float, float] | None
    choices: tuple[str, ...]

    @property
    def negative_flag(self) -> str | None:
        """The flag that switches a feature of a recipe off; None for options that are no such switch."""
        return self.flag.replace("--", "--no-", 1) if self.type == bool | None else None

    def check(self, value: Any) -> None:  # noqa: ANN401 - a value of any option
        """Checks a value of an option of a fit.

        Raises:
            UsageError: It is out of range, or a name that does not exist.
        """
        if self.choices and value not in self.choices:
            noun = "augmentation" if self.name == "augment" else self.name
            raise UsageError(f"unknown {noun} {value!r}", expected=" or ".join(self.choices), hint="choose one of them")
        if self.bounds is None:
            return
        lowest, below = self.bounds
        if not lowest <= value < below:
            raise UsageError(
                f"bad {self.sets.replace('_', ' ')}",
                got=f"{value:g}" if isinstance(value, float) else str(value),
                expected=f"at least {lowest:g}" + ("" if below == math.inf else f" and below {below:.10g}"),
            )


def _option(
    text: str,
    *stages: Stage,
    default: Any = None,  # noqa: ANN401 - of any option
    flag: str | None = None,
    kind: Any = None,  # noqa: ANN401 - a type or a union of types
    sets: str | None = None,
    minimum: float | None = None,
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401 - a dataclass field stands for its value
    row = {
        "flag": flag,
        "type": kind,
        "help": text,
        "stages": stages,
        "sets": sets,
        "minimum": minimum,
        "bounds": bounds,
        "choices": choices,
    }
    return field(default=default, metadata=row)


@dataclass(frozen=True)
class TrainOptions:
    """The options of a training as a user gives them; None takes what suits the architecture or the data.

    Each field is an option of `edgeclf train` and is explained by the text it is declared with, which is also the
    command's. An option goes to every fit named beside it and is refused where a training has none of these.
    """

    architecture: str | None = _option(
        f"The network ({DEFAULT_ARCHITECTURE}), keras:NAME for any of keras.applications, or module:function of your own; see --list.",
        flag="--arch",
    )
    weights: str | None = _option(
        "imagenet, none (random: the whole network is trained), a file of weights, or a saved Keras model."
    )
    backbone: str | None = _option(
        "An ONNX file, whoever made it, whose features a head is trained on; see docs/backbones.md.", kind=Path | None
    )
    backbone_output: str | None = _option(
        "With --backbone: name of the value with the features; else what its last pooling gives."
    )
    preprocess: str | None = _option(
        "With --backbone: preprocessing by name, such as imagenet; the options below win over it."
    )
    mean: str | None = _option("With --backbone, float input: R,G,B subtracted from the pixels, or one number.")
    std: str | None = _option("With --backbone, float input: R,G,B the difference is divided by, or one number.")
    channels: str | None = _option("With --backbone: rgb or bgr.")
    from_run: str | None = _option(
        "Go on from this run's network, for other or more classes.", flag="--from", kind=Path | None
    )
    image_size: int | None = _option(
        "Input height and width in pixels.", minimum=1, bounds=(1, MOST_PIXELS_OF_A_SIDE + 1)
    )
    fit: str | None = _option("How images become square: crop, stretch or letterbox; see --list.")
    interpolation: str | None = _option("How images are resized: area, or bilinear or bicubic as Pillow does it.")
    epochs: int | None = _option("Most epochs.", *_FIRST, minimum=1)
    batch_size: int | None = _option("Images in one step.", *_EVERY, minimum=1, bounds=(1, MOST_IMAGES_IN_A_BATCH + 1))
    optimizer: str | None = _option("adam, adamw, nadam, rmsprop or sgd.", *_EVERY, choices=OPTIMIZERS)
    learning_rate: float | None = _option("Of the optimizer; --find-lr suggests one.", *_FIRST)
    schedule: str | None = _option("Of the learning rate: constant or cosine.", *_EVERY, choices=SCHEDULES)
    warmup_epochs: float | None = _option("Epochs over which the learning rate rises.", *_EVERY, minimum=0)
    weight_decay: float | None = _option("Decoupled weight decay.", *_EVERY, minimum=0)
    label_smoothing: float | None = _option("Share of each target spread over all classes.", *_EVERY, bounds=(0, 1))
    augment: str | None = _option("none, light or strong; see --show-augmentation.", *_ON_IMAGES, choices=AUGMENTATIONS)
    mixup: float | None = _option("Blend pairs of images by Beta(ALPHA, ALPHA) shares.", *_ON_IMAGES, minimum=0)
    dropout_scale: float | None = _option(
        "Of the network's own dropout rates: 1 for all of it, 0 for none.", HEAD, FINE_TUNE, WHOLE
    )
    batch_norm: bool | None = _option(
        "Train with batch normalisation that is folded into the weights at the end; for networks without.", WHOLE
    )
    progressive: bool | None = _option("Begin with smaller images: quicker.", WHOLE)
    average_epochs: float | None = _option(
        "Keep a moving average of the weights over about so many epochs; 0 for the weights themselves.",
        *_EVERY,
        minimum=0.0,
    )
    patience: int | None = _option("Epochs without a better --monitor before it stops.", *_EVERY, minimum=1)
    monitor: str = _option(
        "What chooses the epoch: val_loss, val_accuracy or val_macro_f1.",
        *_EVERY,
        choices=tuple(MONITORS),
        default="val_loss",
    )
    balance: str = _option(
        "For uneven classes: none, weights (of the loss) or sampling.", *_EVERY, choices=BALANCES, default="none"
    )
    fine_tune: bool = _option("Train the pretrained backbone as well, after the head.", default=False)
    fine_tune_blocks: int | None = _option("Only this many of its last blocks.", minimum=1)
    fine_tune_epochs: int | None = _option("Most epochs of it.", FINE_TUNE, sets="epochs", minimum=1)
    fine_tune_learning_rate: float | None = _option("Its learning rate.", FINE_TUNE, sets="learning_rate")
    qat: bool = _option("With --from: train its network in the arithmetic of its int8 file.", default=False)
    false_rejection_rate: float | None = _option(
        "Call images unknown below a confidence that at most this share of images like those of validation misses, 95 % sure."
    )
    # NumPy's and TensorFlow's generators take no more than 32 bits.
    seed: int = _option(
        "Of split, weights, order, augmentation and dropout.", *_EVERY, minimum=0, bounds=(0, 2**32), default=0
    )
    path_column: str | None = _option(
        "Name of the column with the paths of a CSV (path if left out), or with the images of Parquet files."
    )
    label_column: str | None = _option(
        "With a CSV or Parquet files: name of the column with the classes; label if left out."
    )
    image_folder: str | None = _option(
        "With a CSV: folder of the images, where its paths begin there.", kind=Path | None
    )
    image_suffix: str | None = _option("With a CSV of bare ids: suffix of the files, such as .jpg.")
    group_by: str | None = _option(
        "Keep together, in one split, what has the same value in this column of a CSV or Parquet file, or in the first group of this regular "
        "expression on paths, such as '(animal\\d+)'."
    )
    val_fraction: float | None = _option("Share that validates (0.15; 0.2 of train/).")
    test_fraction: float | None = _option("Share that tests (0.15); 0 for none.")

    @property
    def network(self) -> str:
        """The architecture, the default one where none is given."""
        return self.architecture or DEFAULT_ARCHITECTURE

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, which `options_from_json` reads."""
        return asdict(self)


@functools.cache
def training_options() -> tuple[TrainingOption, ...]:
    """The table: a row for each field of `TrainOptions`, in order."""
    types = get_type_hints(TrainOptions)
    table = []
    for item in fields(TrainOptions):
        row = dict(item.metadata)
        minimum, bounds = row.pop("minimum"), row.pop("bounds")
        if bounds is None and minimum is not None:
            bounds = (minimum, math.inf)
        table.append(
            TrainingOption(
                name=item.name,
                default=item.default,
                flag=row.pop("flag") or f"--{item.name.replace('_', '-')}",
                type=row.pop("type") or types[item.name],
                sets=row.pop("sets") or item.name,
                minimum=minimum,
                bounds=bounds,
                **row,
            )
        )
    return tuple(table)


def training_option(name: str) -> TrainingOption:
    """The row of a field of `TrainOptions`."""
    return next(row for row in training_options() if row.name == name)


def options_from_json(document: object, source: Path) -> TrainOptions:
    """Reads what `TrainOptions.to_json` gave.

    Raises:
        RunFolderError: It is something else.
    """
    names = {item.name for item in fields(TrainOptions)}

    def refused(got: str) -> RunFolderError:
        return RunFolderError(
            f"cannot read {source}", got=got, expected="what this edgeclf train wrote", hint="train again"
        )

    if not isinstance(document, dict) or not set(document) <= names:
        raise refused("options of another version of edgeclf" if isinstance(document, dict) else "no options")
    try:
        options = record_from_json(TrainOptions, document, "options")
    except ValueError as error:
        raise refused(str(error)) from error
    # Earlier versions recorded the default network beside a backbone from an ONNX file.
    return options if options.backbone is None else replace(options, architecture=None)


@dataclass(frozen=True)
class Recipe:
    """The options of a fit that suit an architecture; the table says what each is, and which fits take it from the user.

    Attributes:
        epochs: Most epochs.
        batch_size: Images in one step.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: Its learning rate; with a schedule, the highest.
        patience: Epochs without a better monitored figure before the fit stops.
        schedule: `constant`, or `cosine`: decay to nearly zero over the epochs after the warm-up (Loshchilov & Hutter
            2017, "SGDR", without restarts).
        warmup_epochs: Epochs over which the learning rate rises to its value; needs the cosine schedule.
        weight_decay: Decoupled from the gradient and scaled by the learning rate (Loshchilov & Hutter 2019, "AdamW");
            biases and batch normalisation have none.
        label_smoothing: Share of each target that is spread over all classes.
        augment: One of `AUGMENTATIONS`.
        mixup: Alpha of the Beta distribution by which pairs of images and their targets are blended; 0 for none.
        dropout_scale: Factor of the rates of the network's dropout layers, 0 to 1.
        batch_norm: Batch normalisation between the network's layers, folded into them at the end, see
            `networks.batch_norm`; only for networks that have none of their own.
        progressive: Smaller images at first, see `data.loader.training_side_px`; only for networks that take any size.
        average_epochs: Time constant, in epochs, of the moving average of the weights that is validated and kept; 0 for
            the weights themselves (Polyak & Juditsky 1992; Izmailov et al. 2018, "Averaging Weights Leads to Wider
            Optima"). Statistics of batch normalisation are not averaged.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    patience: int
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augment: str = "none"
    mixup: float = 0.0
    dropout_scale: float = 1.0
    batch_norm: bool = False
    progressive: bool = False
    average_epochs: float = 0.0


@dataclass(frozen=True)
class FitOptions(Recipe):
    """All options of one fit, checked.

    Attributes:
        monitor: Validation figure that chooses the best epoch, one of `MONITORS`.
        balance: `none`, `weights` (rare classes count more in the loss) or `sampling` (every class is drawn equally
            often).
        seed: Of the order of the images and of augmentation; weights and dropout are seeded by the caller.
    """

    monitor: str = "val_loss"
    balance: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for row in training_options():
            if row.stages and row.sets == row.name:
                row.check(getattr(self, row.name))
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UsageError("bad learning rate", got=f"{self.learning_rate:g}", expected="a positive number")
        if self.warmup_epochs >= self.epochs:
            raise UsageError(
                "bad warmup epochs", got=f"{self.warmup_epochs:g}", expected=f"at least 0 and below {self.epochs:g}"
            )
        if self.warmup_epochs and self.schedule == "constant":
            raise UsageError(
                "a warm-up without a schedule",
                got=f"{self.warmup_epochs:g} warm-up epochs and a constant learning rate",
                expected="the cosine schedule",
                hint="pass --schedule cosine",
            )
        if not 0 <= self.dropout_scale <= 1:
            raise UsageError("bad dropout scale", got=f"{self.dropout_scale:g}", expected="0 to 1")
