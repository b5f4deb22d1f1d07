"""What a training may be told, and what it comes to for a given architecture."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgeclf.runtime.errors import RunFolderError, UsageError
from edgeclf.runtime.spec import FIT_MODES, FitMode, Preprocess
from edgeclf.training.networks.registry import DEFAULT_ARCHITECTURE, Architecture, get_architecture
from edgeclf.training.networks.weights import PRETRAINED, RANDOM, LayerWeights
from edgeclf.training.recipes import FINE_TUNING, QUANTIZATION_AWARE, FitOptions, Recipe, check_augmentation


@dataclass(frozen=True)
class TrainOptions:
    """What a training may be told; None takes what suits the architecture or the data.

    Attributes:
        architecture: Name of the network.
        weights: `imagenet`, `none` (random weights: the whole network is trained) or a file of weights; None takes
            `imagenet` where the architecture has them.
        from_run: A run folder whose network is trained on, for other or more classes.
        image_size: Input height and width in pixels.
        fit: How images are fitted into that square: `stretch`, `crop` or `letterbox`.
        epochs: Most epochs; of the head where the backbone is frozen.
        batch_size: Images in one step.
        optimizer: Name of the optimizer.
        learning_rate: Its learning rate.
        schedule: `constant` or `cosine`.
        warmup_epochs: Epochs over which the learning rate rises.
        weight_decay: Decoupled weight decay.
        label_smoothing: Share of each target spread over all classes.
        augment: `none`, `light` or `strong`.
        mixup: Alpha of mixup.
        dropout_scale: What the rates of the network's dropout layers are multiplied by.
        batch_norm: Whether batch normalisation is there while it is trained, and folded into its layers at the end.
        progressive: Whether training begins with smaller images.
        average_epochs: Time constant of the moving average of the weights, in epochs.
        patience: Epochs without a better monitored figure before training stops.
        monitor: The validation figure that chooses the epoch.
        balance: `none`, `weights` or `sampling`.
        fine_tune: Whether the backbone is trained as well, after the head.
        fine_tune_blocks: How many of its last blocks; None for all of them.
        fine_tune_epochs: Most epochs of that.
        fine_tune_learning_rate: Its highest learning rate.
        qat: Whether the earlier run's network is trained in the arithmetic of its later int8 file.
        false_rejection_rate: Share of the validation images that may be called unknown by the rejection threshold;
            None for no threshold.
        seed: Of split, weights, order, augmentation and dropout.
        val_fraction: Share of the images that validate.
        test_fraction: Share of the images that test.
    """

    architecture: str = DEFAULT_ARCHITECTURE
    weights: str | None = None
    from_run: str | None = None
    image_size: int | None = None
    fit: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    augment: str | None = None
    mixup: float | None = None
    dropout_scale: float | None = None
    batch_norm: bool | None = None
    progressive: bool | None = None
    average_epochs: float | None = None
    patience: int | None = None
    monitor: str = "val_loss"
    balance: str = "none"
    fine_tune: bool = False
    fine_tune_blocks: int | None = None
    fine_tune_epochs: int | None = None
    fine_tune_learning_rate: float | None = None
    qat: bool = False
    false_rejection_rate: float | None = None
    seed: int = 0
    val_fraction: float | None = None
    test_fraction: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, which `options_from_json` reads."""
        return asdict(self)


def options_from_json(document: object, source: Path) -> TrainOptions:
    """Reads what `TrainOptions.to_json` gave.

    Raises:
        RunFolderError: It is something else.
    """
    known = {item.name for item in fields(TrainOptions)}
    if not isinstance(document, dict) or not set(document) <= known:
        raise RunFolderError(
            f"cannot read {source}",
            got="options of another version of edgeclf" if isinstance(document, dict) else "no options",
            expected="what this edgeclf train wrote",
            do="train again",
        )
    return TrainOptions(**document)


@dataclass(frozen=True)
class Settings:
    """A training's options worked out.

    Attributes:
        architecture: The network.
        weights: `imagenet`, `none` or a file.
        preprocess: How images become inputs.
        freezes: Whether the backbone is kept as it is and a head trained on its features.
        fit: How the head, or the whole network, is fitted.
        fine_tune: How the backbone is fitted afterwards; None where it is not.
        fine_tune_blocks: How many of its last blocks; None for all.
        recipe: What suits where nothing is said: what `fit` was made from.
        qat: Whether the fit is one in simulated 8-bit arithmetic.
    """

    architecture: Architecture
    weights: str | Path
    preprocess: Preprocess
    freezes: bool
    fit: FitOptions
    fine_tune: FitOptions | None
    fine_tune_blocks: int | None
    recipe: Recipe
    qat: bool = False

    def build_backbone(self) -> Any:  # noqa: ANN401 - keras carries no types
        """The backbone in Keras with the weights that were asked for.

        Raises:
            EdgeclfError: The weights cannot be used.
        """
        if self.architecture.build_backbone is None:
            raise ValueError(f"architecture {self.architecture.name} has no backbone")
        return self.architecture.build_backbone(self.preprocess.size_hw, self.weights)

    def read_weights(self) -> LayerWeights | None:
        """The weights of the backbone, read without TensorFlow; None where that is not possible.

        Raises:
            EdgeclfError: They cannot be used.
        """
        return None if self.architecture.read_weights is None else self.architecture.read_weights(self.weights)


def work_out(options: TrainOptions) -> Settings:
    """Fills in what was not said, and refuses what does not go together.

    Raises:
        UsageError: An option is out of range, names something that does not exist, or contradicts another.
    """
    architecture = get_architecture(options.architecture)
    check_augmentation(options.augment or "none")
    weights = _weights(architecture, options)
    freezes = architecture.pretrained and weights != RANDOM and not options.qat
    _check_stages(options, freezes=freezes)
    if options.progressive and (freezes or options.qat or not architecture.any_size):
        raise UsageError(
            f"--progressive does not go with {architecture.name}",
            got="a frozen backbone" if freezes else "--qat" if options.qat else "a network for one size of images",
            expected="a network without dense layers on its pixels, trained as a whole",
            do="leave --progressive out",
        )
    if options.dropout_scale is not None and (options.qat or not architecture.has_dropout):
        raise UsageError(
            f"--dropout-scale does not go with {'--qat' if options.qat else architecture.name}",
            got="a trained network" if options.qat else "a network without dropout",
            expected="a network with dropout that is trained anew",
            do="leave --dropout-scale out",
        )
    goes_on = options.from_run is not None
    if options.batch_norm and (goes_on or not architecture.takes_batch_norm):
        raise UsageError(
            f"--batch-norm does not go with {'--from' if goes_on else architecture.name}",
            got="weights that were trained without" if goes_on else "a network that has its own",
            expected="a network without, trained from random weights",
            do="leave --batch-norm out",
        )
    # What is said of images holds for the fit that sees images.
    recipe = QUANTIZATION_AWARE if options.qat else architecture.recipe_for(weights)
    if goes_on:
        # What it knows would be lost in the first epochs of batch normalisation.
        recipe = replace(recipe, batch_norm=False)
    fit = _fit_options(recipe, replace(options, augment=None, mixup=None) if freezes else options)
    fine_tune = None
    if options.fine_tune:
        # The head's own options stop at the head; what is said of the data and of the goal holds for both.
        changed = TrainOptions(
            epochs=options.fine_tune_epochs,
            learning_rate=options.fine_tune_learning_rate,
            label_smoothing=options.label_smoothing,
            augment=options.augment,
            mixup=options.mixup,
            dropout_scale=options.dropout_scale,
            monitor=options.monitor,
            balance=options.balance,
            seed=options.seed,
        )
        fine_tune = _fit_options(FINE_TUNING, changed)
    return Settings(
        architecture,
        weights,
        _preprocess(architecture, options),
        freezes,
        fit,
        fine_tune,
        options.fine_tune_blocks,
        recipe,
        options.qat,
    )


def _weights(architecture: Architecture, options: TrainOptions) -> str | Path:
    given = options.weights
    if not architecture.pretrained:
        if given not in {None, RANDOM}:
            raise UsageError(
                f"{architecture.name} has no pretrained weights",
                got=f"--weights {given}",
                expected="none: it is trained from scratch",
                do="leave --weights out, or continue from a run with --from",
            )
        return RANDOM
    if given is None or given == PRETRAINED:
        return PRETRAINED
    return RANDOM if given == RANDOM else Path(given)


def _check_stages(options: TrainOptions, *, freezes: bool) -> None:
    if options.qat and options.from_run is None:
        raise UsageError(
            "--qat goes on from a trained network", got="no --from", expected="--from RUN", do="train one first"
        )
    if options.qat and options.fine_tune:
        raise UsageError(
            "--fine-tune does not go with --qat",
            got="both",
            expected="one of them: --qat trains the whole network",
            do="fine-tune first, and go on from that run with --qat",
        )
    if options.fine_tune and not freezes:
        raise UsageError(
            "nothing to fine-tune",
            got=f"--fine-tune with {options.architecture} trained from scratch",
            expected="a pretrained backbone",
            do="leave --fine-tune out: the whole network is trained",
        )
    for name in ("fine_tune_blocks", "fine_tune_epochs", "fine_tune_learning_rate"):
        if getattr(options, name) is not None and not options.fine_tune:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} without --fine-tune", expected="both", do="add --fine-tune")
    asked = f"--augment {options.augment}" if options.augment not in {None, "none"} else ""
    asked = asked or (f"--mixup {options.mixup:g}" if options.mixup else "")
    if freezes and not options.fine_tune and asked:
        raise UsageError(
            "nothing to augment",
            got=f"{asked} with a frozen backbone, which sees each image once",
            expected="a network that is trained on images",
            do="add --fine-tune, or leave it out",
        )
    rate = options.false_rejection_rate
    if rate is not None and not 0.0 <= rate < 1.0:
        raise UsageError("bad false-rejection rate", got=f"{rate:g}", expected="at least 0 and below 1")


def _fit_options(recipe: Recipe, options: TrainOptions) -> FitOptions:
    chosen = {
        item.name: getattr(options, item.name) for item in fields(Recipe) if getattr(options, item.name) is not None
    }
    values = {**asdict(recipe), **chosen}
    if options.schedule == "constant" and options.warmup_epochs is None:
        values["warmup_epochs"] = 0.0
    elif options.warmup_epochs is None:
        # A recipe's warm-up is meant for its own number of epochs.
        values["warmup_epochs"] = recipe.warmup_epochs * min(1.0, values["epochs"] / recipe.epochs)
    return FitOptions(**values, monitor=options.monitor, balance=options.balance, seed=options.seed)


def _preprocess(architecture: Architecture, options: TrainOptions) -> Preprocess:
    size = architecture.default_size if options.image_size is None else options.image_size
    if size < architecture.min_size:
        raise UsageError(
            f"image size too small for {architecture.name}",
            got=f"{size} px",
            expected=f"at least {architecture.min_size} px",
            do="pass a larger --image-size",
        )
    modes: dict[str, FitMode] = {mode: mode for mode in FIT_MODES}
    fit_mode = architecture.default_fit if options.fit is None else options.fit
    if fit_mode not in modes:
        raise UsageError(f"unknown fit mode {fit_mode!r}", expected=" or ".join(FIT_MODES), do="choose one of them")
    return Preprocess((size, size), modes[fit_mode])
