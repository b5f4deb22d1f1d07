"""Emulation figures as a table."""

from typing import TYPE_CHECKING

from edgeclf.toolkit.console import print_table
from edgeclf.toolkit.reports.parity import PARITY_COLUMNS, parity_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeclf.export.emulation.comparison import EmulationFacts


def print_emulation(title: str, facts: "Sequence[EmulationFacts]", outcomes: "Sequence[str]") -> None:
    """Prints the comparisons of emulated cores with this machine, a row for each core with its verdict."""
    # The number of images, the first cell, is the same for all: the title has room for it.
    rows = [
        [
            item.core.name,
            "yes" if item.core.has_dot_products else "no",
            "all" if item.identical else "not all",
            *parity_cells(item.parity, outcome)[1:],
        ]
        for item, outcome in zip(facts, outcomes, strict=True)
    ]
    print_table(
        f"{title}, {facts[0].parity.images} images", ["", "dot products", "same bits", *PARITY_COLUMNS[1:]], rows
    )
