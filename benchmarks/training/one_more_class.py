"""Measures the cost of adding a class to a run: accuracy of the old classes, and time against training anew.

    python benchmarks/training/one_more_class.py DATA IMAGE... [--name new] [--seeds 0 1 2] [--options '...']
                                                [--quick] [--json]

DATA has train/ and test/ folders; the images, one in five for testing, become one more class. Each seed trains the old
classes, then all of them with --from that run, then all of them anew (in a cold cache).
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import (
    Arguments,
    Report,
    accuracy_of,
    labelled_files,
    medians_of,
    recall,
    run_edgeclf,
    working_folder,
    write_csv,
)
from benchmarks.synthetic import TEXTURES, write_labelled_folder

_COLUMNS = {
    "old_before": ">11.4f",
    "old_after": ">10.4f",
    "old_anew": ">10.4f",
    "old_lost": ">10.4f",
    "new_recall_from": ">16.4f",
    "new_recall_anew": ">16.4f",
    "seconds_from": ">13.1f",
    "seconds_anew": ">13.1f",
}


def measure(before: Path, after: Path, name: str, seed: int, options: list[str]) -> dict[str, Any]:
    """Trains the old classes, then all of them from that run, then all of them anew.

    Args:
        before: CSV of the old classes.
        after: CSV of all.
        name: The new class.
        seed: Of all three trainings.
        options: Of the first and of the last.
    """
    with working_folder() as folder:
        cache, common = folder / "cache", ("--seed", seed)
        first = run_edgeclf("train", before, "--run", folder / "a", *common, *options, cache=cache)
        further = run_edgeclf("train", after, "--run", folder / "b", *common, "--from", folder / "a", cache=cache)
        anew = run_edgeclf("train", after, "--run", folder / "c", *common, *options, cache=folder / "cold")
    old = {entry["label"] for entry in first.document["test"]["per_class"]}
    figures = {
        "seed": seed,
        "old_before": accuracy_of(first.document["test"], old),
        "old_after": accuracy_of(further.document["test"], old),
        "old_anew": accuracy_of(anew.document["test"], old),
        "new_recall_from": recall(further.document["test"], name),
        "new_recall_anew": recall(anew.document["test"], name),
        "seconds_from": further.seconds,
        "seconds_anew": anew.seconds,
    }
    return {**figures, "old_lost": figures["old_before"] - figures["old_after"]}


def main() -> None:
    """Prints a table, or JSON."""
    quick = {"seeds": [0], "options": "--arch small-cnn --image-size 32 --epochs 1"}
    arguments = Arguments(__doc__, quick=quick, seeds=(0, 1, 2))
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_input("images", "files of the new class", metavar="IMAGE", several=True)
    arguments.add_argument("--name", default="new", help="what it is called (default: %(default)s)")
    arguments.add_argument("--options", default="", help="options of edgeclf train for the first and the anew training")
    given = arguments.parse()
    report = Report(given)
    report.columns({"seed": "<8", **_COLUMNS})
    rows = []
    with working_folder() as folder:
        source, images = given.data, given.images
        if source is None:
            source = write_labelled_folder(folder / "data")
            more = write_labelled_folder(folder / "more", classes=3) / "train" / TEXTURES[2]
            images = sorted(more.iterdir())
        old = [(path, label, split) for split in ("train", "test") for path, label in labelled_files(source, split)]
        new = [
            (path.resolve(), given.name, "test" if number % 5 == 4 else "train") for number, path in enumerate(images)
        ]
        before, after = write_csv(folder / "before.csv", old), write_csv(folder / "after.csv", [*old, *new])
        for seed in given.seeds:
            rows.append(measure(before, after, given.name, seed, given.options.split()))
            report.row(str(seed), *(rows[-1][key] for key in _COLUMNS))
    medians = medians_of(rows, without=["seed"])
    report.row("median", *(medians[key] for key in _COLUMNS))
    report.close({"runs": rows, "medians": medians})


if __name__ == "__main__":
    main()
