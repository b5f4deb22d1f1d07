"""Measures the recall of a rare class with and without `--balance`: medians over seeds.

    python benchmarks/training/imbalance.py DATA [--rare LABEL] [--ratio 10] [--seeds 0 1 2] [--quick]
                                             [--json] [-- options of edgeclf train]

DATA has train/ and test/ folders. Of the rare class one training image in --ratio is kept; test images all stay.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import (
    Arguments,
    Report,
    labelled_files,
    medians_of,
    recall,
    run_edgeclf,
    working_folder,
    write_csv,
)
from benchmarks.synthetic import write_labelled_folder

_QUICK_OPTIONS = ["--arch", "small-cnn", "--image-size", "32", "--epochs", "1"]
_BALANCES = ("none", "weights", "sampling")
_FIGURES = ("rare_recall", "accuracy", "macro_f1")


def thin_out(train: list[tuple[Path, str]], rare: str, ratio: int, rng: np.random.Generator) -> list[tuple[Path, str]]:
    """Keeps one image in `ratio` of the rare class, and all others."""
    of_rare = [path for path, label in train if label == rare]
    kept = {of_rare[position] for position in rng.permutation(len(of_rare))[: len(of_rare) // ratio].tolist()}
    return [(path, label) for path, label in train if label != rare or path in kept]


def main() -> None:
    """Prints a table, or JSON."""
    quick = {"seeds": [0], "ratio": 3, "train_options": _QUICK_OPTIONS}
    arguments = Arguments(__doc__, quick=quick, seeds=(0, 1, 2), train_options=())
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_argument("--rare", help="its name (default: the last one)")
    arguments.add_argument("--ratio", type=int, default=10)
    given = arguments.parse()
    report = Report(given)
    report.columns({"seed": "<8", "--balance": "<10", **dict.fromkeys(_FIGURES, ">13.4f")})
    rows: list[dict[str, Any]] = []
    with working_folder() as folder:
        source = given.data or write_labelled_folder(folder / "data")
        train, test = labelled_files(source, "train"), labelled_files(source, "test")
        rare = given.rare or max(label for _, label in train)
        if rare not in {label for _, label in train}:
            arguments.error(f"no class {rare}")
        for seed in given.seeds:
            kept = thin_out(train, rare, given.ratio, np.random.default_rng(seed))
            splits = (("train", kept), ("test", test))
            data = write_csv(
                folder / f"{seed}.csv", [(path, label, split) for split, files in splits for path, label in files]
            )
            for balance in _BALANCES:
                run = ("--run", folder / f"run-{seed}-{balance}", "--seed", seed, "--balance", balance)
                done = run_edgeclf("train", data, *run, *given.train_options, cache=folder / "cache").document["test"]
                figures = {"accuracy": done["accuracy"], "macro_f1": done["macro_f1"]}
                rows.append({"seed": seed, "balance": balance, "rare_recall": recall(done, rare), **figures})
                report.row(str(seed), balance, *(rows[-1][key] for key in _FIGURES))
    medians = {
        balance: medians_of([row for row in rows if row["balance"] == balance], without=("seed", "balance"))
        for balance in _BALANCES
    }
    for balance, figures in medians.items():
        report.row("median", balance, *(figures[key] for key in _FIGURES))
    report.line(f"{rare} is {given.ratio} times rarer than in DATA")
    report.close({"rare": rare, "ratio": given.ratio, "runs": rows, "medians": medians})


if __name__ == "__main__":
    main()
