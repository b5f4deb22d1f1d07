"""Options of an export, checked before any work begins."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.search.escalation import Allowed
from edgeclf.export.search.recipes import EFFORTS, Effort
from edgeclf.export.targets import Target, resolve_target, target_of
from edgeclf.export.verify.verdict import DEFAULT_RULE, Limits
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.errors import UsageError

Precision: TypeAlias = Literal["fp32", "int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# Images that the quick effort compares on, of each split, and calibrates on.
_QUICK_HELD_OUT, _QUICK_CALIBRATION = 400, 128


@dataclass(frozen=True)
class ExportOptions:
    """How a classifier is exported.

    Attributes:
        precision: `fp32`, `int8`, or `fp16` for GPUs.
        limits: What an int8 or fp16 file must keep: `ParityLimits` are compared with the figures as they are, `GateRule` asks
            what the figures prove. An fp32 file must keep `FP32_LIMITS`.
        effort: int8: how many recipes are tried, see `candidate_recipes`; `quick` also compares and calibrates on fewer
            images.
        target: int8: the CPUs that the file is for, one of `TARGETS`, or `this` for the kind of this machine's CPU. Several,
            with commas between: those behind the first are tried where nothing else passes, in their order.
        calibration_images: int8: training images that activation ranges are fitted to.
        keep_float: int8, fp16: names of layers that stay in float32.
        float_prefix: int8: whether the first layers stay in float as far as that is no slower, for a target of this machine's
            kind: what is faster on another cannot be timed here. For other targets they do where nothing else passes. Without,
            and for the target `any`, no layer ever does, so that the file is portable or there is none.
        first_in_float: int8: how many of the first layers stay in float, instead of as many as `float_prefix` finds: closer to
            float, slower, and not portable. None for `float_prefix`.
        budget_s: int8: seconds after which no further recipe is tried.
        or_fp32: int8: whether the fp32 file is written where no recipe passes.
        replaced_limits: With `replaces` of `export_classifier`: what the file must keep of the network whose place it takes.
            `ParityLimits` are compared with the figures as they are; of `GateRule` the accuracy drop alone is judged, because
            another network may give other labels.

    Raises:
        UsageError: There is no such precision, effort or target.
    """

    precision: Precision = "fp32"
    limits: Limits = DEFAULT_RULE
    effort: Effort = "normal"
    target: str = "any"
    calibration_images: int = 256
    keep_float: tuple[str, ...] = ()
    float_prefix: bool = True
    first_in_float: int | None = None
    budget_s: float = math.inf
    or_fp32: bool = False
    replaced_limits: Limits = DEFAULT_RULE

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision {self.precision!r}", expected=", ".join(PRECISIONS), hint="choose one of them"
            )
        if self.effort not in EFFORTS:
            raise UsageError(
                f"unknown effort {self.effort!r}", expected=" or ".join(EFFORTS), hint="choose one of them"
            )
        if self.first_in_float is not None and self.first_in_float < 1:
            raise UsageError("bad number of first layers in float", got=str(self.first_in_float), expected="at least 1")
        if not self.targets:
            raise UsageError("no target", got=repr(self.target), expected="at least one", hint="name one, such as any")

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, the one that is tried first in front."""
        names = [name.strip() for name in self.target.split(",") if name.strip()]
        return tuple(dict.fromkeys(resolve_target(name, cpu_info()) for name in names))

    @property
    def allowed(self) -> Allowed:
        """What may be tried where no recipe passes."""
        return Allowed(
            float_layers=self.float_prefix or self.targets[0] != "any",
            float_prefix=self.float_prefix,
            targets=self.targets[1:],
        )

    @property
    def recipe(self) -> QuantizationRecipe:
        """The fields that all int8 recipes of this export share: target, and layers in float."""
        return QuantizationRecipe(target=self.targets[0], keep_float=self.keep_float)

    @property
    def names_float_layers(self) -> bool:
        """Whether layers stay in float because the user says so."""
        return bool(self.keep_float) or self.first_in_float is not None

    @property
    def times_float_prefix(self) -> bool:
        """Whether a float prefix is looked for: where it is wanted, and the target is of this machine's kind."""
        return self.float_prefix and self.recipe.target == target_of(cpu_info())

    @property
    def is_quick(self) -> bool:
        """Whether an int8 file is made with the quick effort."""
        return self.precision == "int8" and self.effort == "quick"

    @property
    def max_held_out_images(self) -> int | None:
        """Images of each held-out split that files are compared on at most; None for all."""
        return _QUICK_HELD_OUT if self.is_quick else None

    @property
    def max_calibration_images(self) -> int:
        """Training images that an int8 file is calibrated on at most."""
        return min(self.calibration_images, _QUICK_CALIBRATION) if self.is_quick else self.calibration_images
