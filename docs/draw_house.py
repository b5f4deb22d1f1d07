"""Draws docs/house.svg: floors, wings and the imports between wings, read from the code.

    python docs/draw_house.py            # writes the picture again
    python docs/draw_house.py --check    # exit code 1 where the picture shows another house than the code

Needs what `make test` installs.
"""

import argparse
import ast
import re
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "house.svg"
FLOORS = ("toolkit", "training", "export", "runtime")
COLOURS = {"toolkit": "#f3d9c4", "training": "#f2e6b1", "export": "#cfe5c8", "runtime": "#c8dcee"}
Edges = frozenset[tuple[str, str]]
# Inches: a box, the room between two, a floor's margin.
BOX, GAP, MARGIN = (2.15, 0.8), (0.35, 0.36), 0.3
BOXES_IN_ROW = 5


def wing_of(module: str) -> str:
    """The room that the picture shows for a module: its wing, or the module itself where it lies on the floor's ground."""
    parts = module.split(".")
    return ".".join(parts[1:3]) if len(parts) > 2 else parts[1]


def wings_and_imports() -> tuple[list[str], Edges]:
    """The wings and single modules of all floors, and which of them import which."""
    graph = grimp.build_graph(*(f"edgeclf.{floor}" for floor in FLOORS), include_external_packages=False)
    shown = sorted({wing_of(module) for module in graph.modules if module.count(".") > 1})
    shown = [wing for wing in shown if not wing.endswith(("__main__",))]
    edges = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            edge = wing_of(module), wing_of(imported)
            if edge[0] != edge[1] and set(edge) <= set(shown):
                edges.add(edge)
    return shown, frozenset(edges)


def levels(wings: list[str], edges: Edges) -> dict[str, int]:
    """How far each wing lies above its floor's ground: one more than the highest wing of that floor it imports."""
    below = defaultdict(set)
    for upper, lower in edges:
        if upper.split(".")[0] == lower.split(".")[0]:
            below[upper].add(lower)
    found: dict[str, int] = {}

    def level(wing: str, above: tuple[str, ...] = ()) -> int:
        if wing in above:
            # An import contract forbids it; the picture shows it with an arrow that points up.
            return 0
        if wing not in found:
            found[wing] = 1 + max((level(lower, (*above, wing)) for lower in below[wing]), default=-1)
        return found[wing]

    return {wing: level(wing) for wing in wings}


def not_implied(edges: Edges) -> Edges:
    """The imports inside floors, less those between wings that a longer chain of imports connects as well."""
    inside = {edge for edge in edges if edge[0].split(".")[0] == edge[1].split(".")[0]}
    below = defaultdict(set)
    for upper, lower in inside:
        below[upper].add(lower)

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        return goal in below[start] or any(
            reaches(lower, goal, seen | {start}) for lower in below[start] if lower not in seen
        )

    return frozenset(
        (upper, lower)
        for upper, lower in inside
        if not any(reaches(other, lower, {upper}) for other in below[upper] if other != lower)
    )


def first_line(wing: str) -> str:
    """The first line of a wing's or module's docstring."""
    path = ROOT / wing.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


def entries(wing: str) -> str:
    """The number of modules in a wing, as the picture says it."""
    path = ROOT / wing.replace(".", "/")
    if not path.is_dir():
        return ""
    return f" ({sum(1 for file in path.rglob('*.py') if file.name != '__init__.py')})"


def rows_of(floor: str, level_of: dict[str, int]) -> list[list[str]]:
    """The rows of boxes of a floor, highest first; a level with many boxes takes several rows."""
    by_level = defaultdict(list)
    for wing, level in level_of.items():
        if wing.split(".")[0] == floor:
            by_level[level].append(wing)
    rows = []
    for level in sorted(by_level, reverse=True):
        wings = by_level[level]
        rows += [wings[i : i + BOXES_IN_ROW] for i in range(0, len(wings), BOXES_IN_ROW)]
    return rows


def draw(wings: list[str], edges: Edges) -> None:
    """Writes the picture."""
    mpl.rcParams["svg.hashsalt"] = "house"
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["font.family"] = "sans-serif"
    level_of = levels(wings, edges)
    width = BOXES_IN_ROW * (BOX[0] + GAP[0]) + 2 * MARGIN
    places: dict[str, tuple[float, float]] = {}
    bands = []
    top = 0.0
    for floor in FLOORS:
        rows = rows_of(floor, level_of)
        height = len(rows) * (BOX[1] + GAP[1]) + 2 * MARGIN
        for number, row in enumerate(rows):
            left = (width - len(row) * (BOX[0] + GAP[0]) + GAP[0]) / 2
            for column, wing in enumerate(row):
                places[wing] = (left + column * (BOX[0] + GAP[0]), top - MARGIN - 0.2 - number * (BOX[1] + GAP[1]))
        bands.append((floor, top, height))
        top -= height + 0.25
    figure, axes = plt.subplots(figsize=(width, -top))
    for floor, upper, height in bands:
        band = FancyBboxPatch(
            (0, upper - height), width, height, boxstyle="round,pad=0", color=COLOURS[floor], alpha=0.5
        )
        axes.add_patch(band)
        axes.text(0.2, upper - 0.12, floor + "/", fontsize=15, weight="bold", va="top")
    for upper_wing, lower_wing in sorted(not_implied(edges)):
        (x0, y0), (x1, y1) = places[upper_wing], places[lower_wing]
        arrow = FancyArrowPatch(
            (x0 + BOX[0] / 2, y0 - BOX[1]),
            (x1 + BOX[0] / 2, y1),
            arrowstyle="-|>",
            mutation_scale=8,
            connectionstyle="arc3,rad=0.06",
            color="#34495e",
            linewidth=0.9,
            zorder=2,
        )
        axes.add_patch(arrow)
    for wing, (x, y) in places.items():
        axes.add_patch(
            FancyBboxPatch(
                (x, y - BOX[1]), *BOX, boxstyle="round,pad=0.02", facecolor="white", edgecolor="#555", zorder=3
            )
        )
        name = wing.split(".")[1] + ("/" if (ROOT / wing.replace(".", "/")).is_dir() else ".py")
        axes.text(x + 0.06, y - 0.05, name + entries(wing), fontsize=9, weight="bold", va="top", zorder=4)
        text = "\n".join(textwrap.wrap(first_line(wing), 34)[:5])
        axes.text(x + 0.06, y - 0.25, text, fontsize=6.2, va="top", zorder=4)
    axes.set(xlim=(0, width), ylim=(top - 0.05, 0.1), aspect="equal")
    axes.axis("off")
    note = "An arrow is an import between wings of a floor (where a chain of arrows says the same, it is left out); floors import those below."
    axes.text(0.2, top + 0.2, note, fontsize=7, va="top")
    figure.savefig(PICTURE, bbox_inches="tight", metadata={"Date": None, "Description": description(wings, edges)})


def description(wings: list[str], edges: Edges) -> str:
    """What the picture shows, as text that `--check` compares."""
    return "; ".join([*wings, *(f"{upper} -> {lower}" for upper, lower in sorted(edges))])


def main() -> int:
    """Draws, or checks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare the picture with the code")
    arguments = parser.parse_args()
    wings, edges = wings_and_imports()
    if not arguments.check:
        draw(wings, edges)
        return 0
    shown = re.search(r"<dc:description>(.*?)</dc:description>", PICTURE.read_text(encoding="utf-8"), re.DOTALL)
    expected = description(wings, edges).replace(">", "&gt;")
    if shown is not None and shown.group(1) == expected:
        return 0
    sys.stderr.write(f"{PICTURE.relative_to(ROOT)} shows another house than the code: run python docs/draw_house.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
