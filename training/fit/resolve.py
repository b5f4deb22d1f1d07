"""Options resolved: the fits that a training consists of, the options of each, and the network that they begin with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.spec import FIT_MODES, INTERPOLATION_NAMES, FitMode, Preprocess
from edgeclf.runtime.spec.json_documents import record_from_json
from edgeclf.training.networks.onnx_backbone import PREFIX as ONNX_PREFIX
from edgeclf.training.networks.onnx_backbone import OnnxBackbone, read_onnx_backbone
from edgeclf.training.networks.registry import Architecture, get_architecture, onnx_architecture
from edgeclf.training.networks.weights.layer_weights import PRETRAINED, RANDOM, LayerWeights
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
from edgeclf.training.recipes import FINE_TUNING, QUANTIZATION_AWARE, going_on


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
        backbone: The backbone that is read from an ONNX file; None for any other.
    """

    architecture: Architecture
    weights: str | Path
    preprocess: Preprocess
    first_stage: Stage
    first: FitOptions
    fine_tune: FitOptions | None
    fine_tune_blocks: int | None
    recipe: Recipe
    backbone: OnnxBackbone | None = None

    @property
    def freezes_backbone(self) -> bool:
        """Whether the first fit is that of a head on features of a frozen backbone."""
        return self.first_stage == HEAD

    @property
    def is_quantization_aware(self) -> bool:
        """Whether the fit simulates 8-bit arithmetic."""
        return self.first_stage == QAT

    def record(self) -> dict[str, Any]:
        """What of it a resumed training has to have again, as plain JSON values: another version has other defaults."""
        return {
            "preprocess": asdict(self.preprocess),
            "first": asdict(self.first),
            "fine_tune": None if self.fine_tune is None else asdict(self.fine_tune),
        }

    def with_record(self, record: Mapping[str, Any]) -> "ResolvedOptions":
        """A copy with what `record` gave when the training began.

        Raises:
            ValueError: It is damaged, or of a version whose fits have options that this one does not know.
        """
        try:
            preprocess, first, fine_tune = (record[name] for name in ("preprocess", "first", "fine_tune"))
        except KeyError as error:
            raise ValueError(f"no {error.args[0]!r}") from error
        return replace(
            self,
            preprocess=record_from_json(Preprocess, preprocess, "preprocess"),
            first=record_from_json(FitOptions, first, "first"),
            fine_tune=None if fine_tune is None else record_from_json(FitOptions, fine_tune, "fine_tune"),
        )

    def check_available(self) -> None:
        """Checks, before images are read, that the network and its weights are there, and that one of the user can be built.

        Raises:
            EdgeclfError: They are not; see `Architecture.check_available`.
        """
        self.architecture.check_available(self.weights)
        if self.architecture.is_own or (not self.architecture.pretrained and self.weights != RANDOM):
            self.architecture.build_network(self.preprocess.size_hw, 2, self.weights)

    def build_backbone(self, weights: str | Path | None = None) -> KerasModel:
        """Builds the backbone in Keras.

        Args:
            weights: As `Architecture.build_network` takes them; None for those of the options.

        Raises:
            EdgeclfError: The weights cannot be used.
        """
        if self.architecture.build_backbone is None:
            raise ValueError(f"architecture {self.architecture.name} has no backbone")
        return self.architecture.build_backbone(self.preprocess.size_hw, self.weights if weights is None else weights)

    def read_weights(self) -> LayerWeights | None:
        """Reads the weights of the backbone without TensorFlow; None where that is not possible.

        Raises:
            EdgeclfError: They cannot be used.
        """
        return None if self.architecture.read_weights is None else self.architecture.read_weights(self.weights)


def resolve_options(options: TrainOptions, *, reads_backbone: bool = True) -> ResolvedOptions:
    """Fills in the defaults, and refuses options that contradict each other or that no fit of the training takes.

    Args:
        options: The options.
        reads_backbone: Whether the file of `--backbone` is read; without it the input size is not that of the file.

    Raises:
        UsageError: An option is out of range, names something that does not exist, or contradicts another.
        InputError: The file of `--backbone` cannot be used.
    """
    _check_backbone(options)
    backbone = _read_backbone(options) if reads_backbone else None
    architecture = _architecture(options, backbone)
    training_option("augment").check(options.augment or "none")
    weights = _weights(architecture, options) if backbone is None else backbone.content
    freezes = architecture.pretrained and weights != RANDOM and not options.qat
    _check_stages(options, freezes=freezes)
    _check_network_options(options, architecture, freezes=freezes)
    recipe = QUANTIZATION_AWARE if options.qat else architecture.recipe_for(weights)
    first_stage = HEAD if freezes else QAT if options.qat else WHOLE
    if first_stage == WHOLE and options.from_run is not None:
        recipe = going_on(recipe)
    return ResolvedOptions(
        architecture=architecture,
        weights=weights,
        preprocess=_preprocess(architecture, options) if backbone is None else backbone.preprocess,
        first_stage=first_stage,
        first=_fit_options(recipe, options, first_stage),
        fine_tune=_fit_options(FINE_TUNING, options, FINE_TUNE) if options.fine_tune else None,
        fine_tune_blocks=options.fine_tune_blocks,
        recipe=recipe,
        backbone=backbone,
    )


def _architecture(options: TrainOptions, backbone: OnnxBackbone | None) -> Architecture:
    if options.backbone is None:
        return get_architecture(options.network)
    return onnx_architecture(
        f"{ONNX_PREFIX}{Path(options.backbone).stem}" if backbone is None else backbone.name, backbone
    )


def _read_backbone(options: TrainOptions) -> OnnxBackbone | None:
    if options.backbone is None:
        return None
    size = options.image_size
    given = ForeignModel(
        scaling=None
        if options.mean is None or options.std is None
        else PixelScaling(_numbers("--mean", options.mean), _numbers("--std", options.std)),
        preset=options.preprocess,
        fit=options.fit,  # type: ignore[arg-type]  # checked there
        interpolation=options.interpolation,
        channels=options.channels,
        image_size=None if size is None else (size, size),
    )
    return read_onnx_backbone(Path(options.backbone), options.backbone_output, given)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"bad {option}", got=repr(text), expected="three numbers such as 127.5,127.5,127.5, or one"
        ) from None


def _check_backbone(options: TrainOptions) -> None:
    """Refuses options that make no sense with an ONNX backbone, and options of one where there is none."""
    alone = ("backbone_output", "preprocess", "mean", "std", "channels")
    if options.backbone is None:
        for name in alone:
            if getattr(options, name) is not None:
                flag = training_option(name).flag
                raise UsageError(f"{flag} without --backbone", expected="both", hint=f"leave {flag} out")
    else:
        if (options.mean is None) != (options.std is None):
            raise UsageError("incomplete pixel scaling", got="one of --mean and --std", expected="both or neither")
        for flag, given in (
            ("--arch", options.architecture is not None),
            ("--weights", options.weights is not None),
            ("--from", options.from_run is not None),
        ):
            if given:
                raise UsageError(
                    f"{flag} does not go with --backbone", got="both", expected="one of them", hint=f"leave {flag} out"
                )
    if options.backbone is None and not options.network.startswith(ONNX_PREFIX):
        return
    for flag, is_given in (("--fine-tune", options.fine_tune), ("--qat", options.qat)):
        if is_given:
            raise UsageError(
                f"{flag} does not go with a backbone from an ONNX file",
                got="both",
                expected="a head on its frozen features: TensorFlow cannot train the graph of such a file",
                hint=f"leave {flag} out, or train a network of edgeclf train --list",
            )


def _weights(architecture: Architecture, options: TrainOptions) -> str | Path:
    given = options.weights
    if architecture.name.startswith(ONNX_PREFIX):
        return architecture.name
    if not architecture.pretrained:
        if given == PRETRAINED:
            raise UsageError(
                f"{architecture.name} has no pretrained weights",
                got=f"--weights {given}",
                expected="none, or a saved Keras model with layers of the same names",
                hint="leave --weights out, or continue from a run with --from",
            )
        return RANDOM if given in {None, RANDOM} else Path(str(given))
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
            got=f"--fine-tune with {options.network} trained from scratch",
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
