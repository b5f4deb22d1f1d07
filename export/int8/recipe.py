"""Quantization recipes: how an int8 file is made, as plain values."""

from dataclasses import asdict, dataclass
from typing import Any

from edgeclf.export.int8.ranges import RANGE_METHODS, RangeMethod
from edgeclf.export.targets import Target, needs_pair_constraint
from edgeclf.runtime.errors import UsageError


@dataclass(frozen=True)
class QuantizationRecipe:
    """A quantization recipe.

    Attributes:
        target: The CPUs it is for. Where one of them adds neighbouring products in 16 bits, weights are kept from
            overflowing; for the others they have all 8 bits.
        ranges: Activation ranges from the calibration images: `error` for MSE ranges, `extremes` for min-max ranges.
        equalize: Whether cross-layer equalization precedes.
        trained_ranges: Whether activation ranges and weight scales are those of quantization-aware training.
        gptq: Whether weights are rounded by GPTQ, rather than to the nearest code.
        correct_bias: Whether biases are corrected for the mean error.
        keep_float: Names of layers that stay in float.
        fixed_point: Whether the first layers are computed in exact float32 sums, see `fixed_point`; not beside a float prefix.
        exact: Names of further convolutions that are computed so.
        float_prefix: Names of the first layers that stay in float because 8 bits make them no faster, see `float_prefix`.
    """

    target: Target = "any"
    ranges: RangeMethod = "error"
    equalize: bool = False
    trained_ranges: bool = False
    gptq: bool = True
    correct_bias: bool = True
    keep_float: tuple[str, ...] = ()
    fixed_point: bool = True
    exact: tuple[str, ...] = ()
    float_prefix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ranges not in RANGE_METHODS:
            raise UsageError(f"unknown range method {self.ranges!r}", expected=" or ".join(RANGE_METHODS))
        if self.trained_ranges and self.equalize:
            raise UsageError("trained ranges do not go with equalized channels", expected="one of them")

    def to_json(self) -> dict[str, Any]:
        """The recipe for a spec, GPTQ and the float prefix under the names that the format knows them by."""
        document = asdict(self)
        # The network says which layers are in fixed point.
        del document["fixed_point"], document["exact"]
        document["learn_rounding"], document["float_entrance"] = document.pop("gptq"), document.pop("float_prefix")
        return document

    @property
    def pair_constraint(self) -> bool:
        """Whether neighbouring weights must not overflow 16 bits."""
        return needs_pair_constraint(self.target)

    @property
    def has_fixed_point_prefix(self) -> bool:
        """Whether the first layers are looked at for a fixed-point prefix.

        Quantization-aware training simulates a network that is all in 8 bits.
        """
        return self.fixed_point and not self.float_prefix and not self.trained_ranges

    @property
    def in_float(self) -> tuple[str, ...]:
        """All layers that stay in float, each once."""
        return tuple(dict.fromkeys([*self.float_prefix, *self.keep_float]))
