"""What the search tries where no recipe passes, in order: more layers in fixed point, layers in float, other targets.

Each step is calibrated anew. Layers that go back into float after a calibration gain next to nothing: the biases and GPTQ
codes of the layers behind them were fitted to the 8-bit errors of the layers before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.targets import Target

# The most layers that go into fixed point besides the first ones: each costs latency.
_MOST_IN_FIXED_POINT = 8
# The search gives up where more than this share of the layers would stay in float.
_MAX_FLOAT_SHARE = 0.34


@dataclass(frozen=True)
class Allowed:
    """What the user lets the search do where no recipe passes.

    Attributes:
        float_layers: Whether layers may stay in float although that costs portability, or for a target that has none.
        float_prefix: Whether the first layers may.
        targets: CPUs besides those of the base recipe that the file may be made for, in the order in which they are tried.
    """

    float_layers: bool = True
    float_prefix: bool = True
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class SensitiveLayers:
    """The layers of a network that no recipe quantized well enough.

    Attributes:
        ranked: Names of the layers in 8 bits, the most sensitive first, see `rank_layers`.
        convolutions: Those that have a fixed-point form.
        prefixes: Float prefixes to try, each longer than the one before.
    """

    ranked: tuple[str, ...]
    convolutions: frozenset[str]
    prefixes: tuple[tuple[str, ...], ...]


def escalate(
    recipe: QuantizationRecipe, layers: SensitiveLayers, allowed: Allowed
) -> Iterator[tuple[str, QuantizationRecipe]]:
    """The steps after the best recipe has failed, by name, in the order in which they are tried.

    Args:
        recipe: The best recipe.
        layers: Its layers.
        allowed: What the user allows.
    """
    in_fixed_point: set[str] = set()
    if recipe.target == "any":
        convolutions = [name for name in layers.ranked if name in layers.convolutions]
        for count in _doubling(min(_MOST_IN_FIXED_POINT, len(convolutions))):
            exact = tuple(convolutions[:count])
            in_fixed_point.update(exact)
            yield f"{count} more in fixed point", replace(recipe, exact=(*recipe.exact, *exact))
    if allowed.float_layers:
        for prefix in layers.prefixes if allowed.float_prefix else ():
            if len(prefix) > len(recipe.float_prefix):
                yield f"first {len(prefix)} in float", replace(recipe, float_prefix=prefix)
        for count in _doubling(max(1, int(_MAX_FLOAT_SHARE * len(layers.ranked)))):
            in_float = layers.ranked[:count]
            # In fixed point they were as close to float as makes no difference.
            if not in_fixed_point.issuperset(in_float):
                kept = tuple(dict.fromkeys([*recipe.keep_float, *in_float]))
                yield f"{count} in float", replace(recipe, keep_float=kept)
    for target in allowed.targets:
        if target != recipe.target:
            yield f"for {target}", replace(recipe, target=target)


def _doubling(most: int) -> Sequence[int]:
    """1, 2, 4, ... up to a number."""
    return [2**power for power in range(most.bit_length())]
