"""How a network is fitted: the options of one fit, and the values that suit each architecture."""

import math
from dataclasses import dataclass, replace

from edgeclf.runtime.errors import UsageError

OPTIMIZERS = ("adam", "adamw", "nadam", "rmsprop", "sgd")
SCHEDULES = ("constant", "cosine")
BALANCES = ("none", "weights", "sampling")
AUGMENTATIONS = ("none", "light", "strong")
MONITORS = {"val_loss": "lowest", "val_accuracy": "highest", "val_macro_f1": "highest"}


def check_augmentation(name: str) -> None:
    """Checks the name of an augmentation.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in AUGMENTATIONS:
        raise UsageError(f"unknown augmentation {name!r}", expected=" or ".join(AUGMENTATIONS), do="choose one of them")


@dataclass(frozen=True)
class Recipe:
    """The options of a fit that suit an architecture, each overridable on the command line.

    Attributes:
        epochs: Most epochs.
        batch_size: Images in one step.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: Its learning rate; with a schedule, the highest.
        schedule: `constant`, or `cosine`: falling to nearly nothing over the epochs after the warm-up
            (Loshchilov & Hutter 2017, "SGDR", without restarts).
        warmup_epochs: Epochs over which the learning rate rises to its value; needs the cosine schedule.
        weight_decay: What each step takes off the weights, decoupled from the gradient and scaled by the learning rate
            (Loshchilov & Hutter 2019, "AdamW"); biases and batch normalisation are left alone.
        label_smoothing: Share of each target that is spread over all classes.
        augment: Name of the augmentation.
        mixup: Alpha of the Beta distribution by which pairs of images and their targets are blended; 0 for none.
        dropout_scale: What the rates of the network's dropout layers are multiplied by, 0 to 1.
        batch_norm: Whether batch normalisation is put between its layers while it is trained and folded into them at the
            end, see `networks.batch_norm`; only for networks that have none of their own.
        progressive: Whether training begins with smaller images, see `training_side_px`; only for networks that take
            any size.
        average_epochs: Time constant, in epochs, of the moving average of the weights that is validated and kept; 0 for the
            weights themselves (Polyak & Juditsky 1992; Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima").
            Statistics of batch normalisation are not averaged.
        patience: Epochs without a better monitored figure before training stops.
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


# Until which share of the epochs images have which share of their side.
_GROWTH = ((0.4, 0.53), (0.75, 0.8))


def training_side_px(epoch: int, epochs: int, side_px: int) -> int:
    """The side of training images in an epoch of progressive training (Tan & Le 2021, "EfficientNetV2", section 4.2).

    Small images cost a fraction, and what is learnt on them serves the larger ones: on 2,560 photographs of 120 px the
    same number of epochs took two thirds of the time and ended no worse.

    Args:
        epoch: From 0.
        epochs: Of the whole fit.
        side_px: Of the network's input.

    Returns:
        A multiple of 8, at least 32, or `side_px`.
    """
    for until, share in _GROWTH:
        if epoch < until * epochs:
            return min(side_px, max(32, round(side_px * share / 8) * 8))
    return side_px


@dataclass(frozen=True)
class FitOptions(Recipe):
    """Everything that a fit may be told.

    Attributes:
        monitor: The figure on the validation images by which the best epoch is chosen, one of `MONITORS`.
        balance: `none`, `weights` (rare classes count more in the loss) or `sampling` (every class is drawn equally
            often).
        seed: Of the order of the images and of augmentation; weights and dropout are seeded by the caller.
    """

    monitor: str = "val_loss"
    balance: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"bad {name.replace('_', ' ')}", got=str(getattr(self, name)), expected="at least 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UsageError("bad learning rate", got=f"{self.learning_rate:g}", expected="a positive number")
        for name, end in (
            ("weight_decay", math.inf),
            ("mixup", math.inf),
            ("label_smoothing", 1.0),
            ("warmup_epochs", float(self.epochs)),
            ("average_epochs", math.inf),
        ):
            value = getattr(self, name)
            if not 0 <= value < end:
                expected = "at least 0" if end == math.inf else f"at least 0 and below {end:g}"
                raise UsageError(f"bad {name.replace('_', ' ')}", got=f"{value:g}", expected=expected)
        if self.warmup_epochs and self.schedule == "constant":
            raise UsageError(
                "a warm-up without a schedule",
                got=f"{self.warmup_epochs:g} warm-up epochs and a constant learning rate",
                expected="the cosine schedule",
                do="pass --schedule cosine",
            )
        if not 0 <= self.dropout_scale <= 1:
            raise UsageError("bad dropout scale", got=f"{self.dropout_scale:g}", expected="0 to 1")
        check_augmentation(self.augment)
        for what, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("balance", self.balance, BALANCES),
            ("monitor", self.monitor, tuple(MONITORS)),
        ):
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}", expected=" or ".join(known), do="choose one of them")


# How a pretrained backbone is trained on, after its head: few gentle steps away from weights that are already good.
FINE_TUNING = Recipe(
    epochs=3,
    batch_size=32,
    optimizer="adamw",
    learning_rate=1e-4,
    patience=3,
    schedule="cosine",
    warmup_epochs=0.5,
    weight_decay=0.02,
    label_smoothing=0.0,
    augment="light",
)
# A trained network, in the arithmetic of its int8 file: as gentle, and a little longer, as every step is a rounded one.
QUANTIZATION_AWARE = replace(FINE_TUNING, epochs=5, patience=5)
# The head of a frozen backbone.
HEAD = Recipe(epochs=50, batch_size=64, optimizer="adam", learning_rate=1e-3, patience=10)
# A network with batch normalisation, trained from random weights.
FROM_SCRATCH = Recipe(
    epochs=120,
    batch_size=32,
    optimizer="adamw",
    learning_rate=2e-3,
    patience=40,
    schedule="cosine",
    warmup_epochs=3,
    weight_decay=0.05,
    label_smoothing=0.1,
    augment="strong",
)
SMALL_CNN = replace(FROM_SCRATCH, progressive=True)
# With its own dropout, 0.2 after each stage and 0.5 after both dense layers, it does not get to know even its training
# images: it guesses for some ten epochs and ends at 0.81. Without it, and without batch normalisation, it ends at 0.82.
SEED_CNN = replace(FROM_SCRATCH, dropout_scale=0.0, batch_norm=True)
