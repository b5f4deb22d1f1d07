"""Candidate int8 recipes: which ones each effort tries, the most promising first."""

from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

from edgeclf.export.int8.recipe import QuantizationRecipe

Effort: TypeAlias = Literal["quick", "normal", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)


def candidate_recipes(
    effort: Effort, base: QuantizationRecipe, *, trained: bool = False
) -> list[tuple[str, QuantizationRecipe]]:
    """Lists the recipes of an effort by name, the most promising first.

    Args:
        effort: `quick` has two recipes, of which `search` skips the second where the first does not fail; `normal` has
            three and `max` eight. `search` skips those that equalize channels where no channel would change.
        base: The fields that all recipes share: target, layers in float, float prefix.
        trained: Whether the network has activation ranges from quantization-aware training; a recipe that uses them then
            comes before the others.
    """
    variants: list[tuple[str, dict[str, Any]]] = []
    if trained:
        # Quantization-aware training has put the weights on their grid, and fitted the biases with it.
        variants = [("as trained", {"trained_ranges": True, "gptq": False, "correct_bias": False})]
    variants += [("GPTQ", {}), ("GPTQ, equalized", {"equalize": True})]
    if effort != "quick":
        variants += [("GPTQ, min-max ranges", {"ranges": "extremes"})]
    if effort == "max":
        variants += [
            ("GPTQ, min-max ranges, equalized", {"ranges": "extremes", "equalize": True}),
            ("GPTQ, biases as trained", {"correct_bias": False}),
            ("nearest rounding", {"gptq": False}),
            ("nearest rounding, equalized", {"gptq": False, "equalize": True}),
            ("nearest rounding, min-max ranges", {"gptq": False, "ranges": "extremes"}),
        ]
    return [(name, replace(base, **changes)) for name, changes in variants]
