"""Options resolved: the fits that a training consists of, the options of each, and the network that they begin with."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.spec import FIT_MODES, INTERPOLATION_NAMES, FitMode, Preprocess
from edgeclf.training.networks.registry import Architecture, get_architecture
from edgeclf.training.networks.weights import PRETRAINED, RANDOM, LayerWeights
from edgeclf.training.options import (
    FINE_TUNE,
    HEAD,
    QAT,
    WHOLE,
    FitOptions,
    Recipe,
    Stage,
    TrainOptions,
    training_option,
    training_options,
)
from edgeclf.training.recipes import FINE_TUNING, QUANTIZATION_AWARE


@dataclass(frozen=True)
class ResolvedOptions:
    """A training's options with every default filled in for its network.

    Attributes:
        architecture: The network.
        weights: `imagenet`, `none` or a file.
        preprocess: How images become inputs.
        first_stage: `head` of a frozen backbone, `fit` of the whole network, or `qat`.
        first: Options of the first fit.
        fine_tune: Options of fine-tuning after the head; None without.
        fine_tune_blocks: Number of last blocks that are fine-tuned; None for all.
        recipe: The defaults of the first fit.
    """

    architecture: Architecture
    weights: str | Path
    preprocess: Preprocess
    first_stage: Stage
    first: FitOptions
    fine_tune: FitOptions | None
    fine_tune_blocks: int | None
    recipe: Recipe

    @property
    def freezes_backbone(self) -> bool:
        """Whether the first fit is that of a head on features of a frozen backbone."""
        return self.first_stage == HEAD

    @property
    def is_quantization_aware(self) -> bool:
        """Whether the fit simulates 8-bit arithmetic."""
        return self.first_stage == QAT

    def build_backbone(self) -> KerasModel:
        """Builds the backbone in Keras with its weights.

        Raises:
            EdgeclfError: The weights cannot be used.
        """
        if self.architecture.build_backbone is None:
            raise ValueError(f"architecture {self.architecture.name} has no backbone")
        return self.architecture.build_backbone(self.preprocess.size_hw, self.weights)

    def read_weights(self) -> LayerWeights | None:
        """Reads the weights of the backbone without TensorFlow; None where that is not possible.

        Raises:
            EdgeclfError: They cannot be used.
        """
        return None if self.architecture.read_weights is None else self.architecture.read_weights(self.weights)


def resolve_options(options: TrainOptions) -> ResolvedOptions:
    """Fills in the defaults, and refuses options that contradict each other or that no fit of the training takes.

    Raises:
        UsageError: An option is out of range, names something that does not exist, or contradicts another.
    """
    architecture = get_architecture(options.architecture)
    training_option("augment").check(options.augment or "none")
    weights = _weights(architecture, options)
    freezes = architecture.pretrained and weights != RANDOM and not options.qat
    _check_stages(options, freezes=freezes)
    _check_network_options(options, architecture, freezes=freezes)
    recipe = QUANTIZATION_AWARE if options.qat else architecture.recipe_for(weights)
    if options.from_run is not None:
        # What the network knows would be lost in the first epochs of batch normalisation.
        recipe = replace(recipe, batch_norm=False)
    first_stage = HEAD if freezes else QAT if options.qat else WHOLE
    return ResolvedOptions(
        architecture=architecture,
        weights=weights,
        preprocess=_preprocess(architecture, options),
        first_stage=first_stage,
        first=_fit_options(recipe, options, first_stage),
        fine_tune=_fit_options(FINE_TUNING, options, FINE_TUNE) if options.fine_tune else None,
        fine_tune_blocks=options.fine_tune_blocks,
        recipe=recipe,
    )


def _weights(architecture: Architecture, options: TrainOptions) -> str | Path:
    given = options.weights
    if not architecture.pretrained:
        if given not in {None, RANDOM}:
            raise UsageError(
                f"{architecture.name} has no pretrained weights",
                got=f"--weights {given}",
                expected="none: it is trained from scratch",
                hint="leave --weights out, or continue from a run with --from",
            )
        return RANDOM
    if given is None or given == PRETRAINED:
        return PRETRAINED
    return RANDOM if given == RANDOM else Path(given)


def _check_stages(options: TrainOptions, *, freezes: bool) -> None:
    if options.qat and options.from_run is None:
        raise UsageError(
            "--qat goes on from a trained network", got="no --from", expected="--from RUN", hint="train one first"
        )
    if options.qat and options.fine_tune:
        raise UsageError(
            "--fine-tune does not go with --qat",
            got="both",
            expected="one of them: --qat trains the whole network",
            hint="fine-tune first, and go on from that run with --qat",
        )
    if options.fine_tune and not freezes:
        raise UsageError(
            "nothing to fine-tune",
            got=f"--fine-tune with {options.architecture} trained from scratch",
            expected="a pretrained backbone",
            hint="leave --fine-tune out: the whole network is trained",
        )
    for name in ("fine_tune_blocks", "fine_tune_epochs", "fine_tune_learning_rate"):
        if getattr(options, name) is not None and not options.fine_tune:
            flag = training_option(name).flag
            raise UsageError(f"{flag} without --fine-tune", expected="both", hint="add --fine-tune")
    asked = f"--augment {options.augment}" if options.augment not in {None, "none"} else ""
    asked = asked or (f"--mixup {options.mixup:g}" if options.mixup else "")
    if freezes and not options.fine_tune and asked:
        raise UsageError(
            "nothing to augment",
            got=f"{asked} with a frozen backbone, which sees each image once",
            expected="a network that is trained on images",
            hint="add --fine-tune, or leave it out",
        )
    rate = options.false_rejection_rate
    if rate is not None and not 0.0 <= rate < 1.0:
        raise UsageError("bad false-rejection rate", got=f"{rate:g}", expected="at least 0 and below 1")


def _check_network_options(options: TrainOptions, architecture: Architecture, *, freezes: bool) -> None:
    """Refuses options of a whole network where the network, or the training, is of another kind."""
    if options.progressive and (freezes or options.qat or not architecture.any_size):
        raise UsageError(
            f"--progressive does not go with {architecture.name}",
            got="a frozen backbone" if freezes else "--qat" if options.qat else "a network for one size of images",
            expected="a network without dense layers on its pixels, trained as a whole",
            hint="leave --progressive out",
        )
    if options.dropout_scale is not None and (options.qat or not architecture.has_dropout):
        raise UsageError(
            f"--dropout-scale does not go with {'--qat' if options.qat else architecture.name}",
            got="a trained network" if options.qat else "a network without dropout",
            expected="a network with dropout that is trained anew",
            hint="leave --dropout-scale out",
        )
    goes_on = options.from_run is not None
    if options.batch_norm and (goes_on or not architecture.takes_batch_norm):
        raise UsageError(
            f"--batch-norm does not go with {'--from' if goes_on else architecture.name}",
            got="weights that were trained without" if goes_on else "a network that has its own",
            expected="a network without, trained from random weights",
            hint="leave --batch-norm out",
        )


def _fit_options(recipe: Recipe, options: TrainOptions, stage: Stage) -> FitOptions:
    """The options of one fit: its recipe, changed by every option that the table gives to its stage."""
    given: dict[str, Any] = {}
    for row in training_options():
        value = getattr(options, row.name)
        if stage in row.stages and value is not None:
            given[row.sets] = value
    values = {**asdict(recipe), **given}
    if "warmup_epochs" not in given:
        # A recipe's warm-up is meant for its own schedule and number of epochs.
        shortened = min(1.0, values["epochs"] / recipe.epochs)
        values["warmup_epochs"] = 0.0 if values["schedule"] == "constant" else recipe.warmup_epochs * shortened
    elif stage == FINE_TUNE and values["warmup_epochs"] >= values["epochs"]:
        raise UsageError(
            "the warm-up is longer than fine-tuning",
            got=f"--warmup-epochs {values['warmup_epochs']:g}",
            expected=f"below its {values['epochs']} epochs",
            hint="pass more --fine-tune-epochs, or fewer --warmup-epochs",
        )
    return FitOptions(**values)


def _preprocess(architecture: Architecture, options: TrainOptions) -> Preprocess:
    size = architecture.default_size if options.image_size is None else options.image_size
    if size < architecture.min_size:
        raise UsageError(
            f"image size too small for {architecture.name}",
            got=f"{size} px",
            expected=f"at least {architecture.min_size} px",
            hint="pass a larger --image-size",
        )
    modes: dict[str, FitMode] = {mode: mode for mode in FIT_MODES}
    fit_mode = architecture.default_fit if options.fit is None else options.fit
    if fit_mode not in modes:
        raise UsageError(f"unknown fit mode {fit_mode!r}", expected=" or ".join(FIT_MODES), hint="choose one of them")
    interpolation = "area" if options.interpolation is None else options.interpolation
    if interpolation not in INTERPOLATION_NAMES:
        raise UsageError(
            f"unknown interpolation {interpolation!r}",
            expected=" or ".join(INTERPOLATION_NAMES),
            hint="choose one of them",
        )
    return Preprocess((size, size), modes[fit_mode], interpolation=INTERPOLATION_NAMES[interpolation])
