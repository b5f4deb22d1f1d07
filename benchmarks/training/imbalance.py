"""Measures the recall of a rare class with and without `--balance`: medians over seeds.

    python benchmarks/training/imbalance.py DATA [--rare LABEL] [--ratio 10] [--seeds 0 1 2] [--json] [-- options of edgeclf train]

DATA has train/ and test/ folders. Of the rare class one training image in --ratio is kept; test images all stay.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import edgeclf, labelled_files, median, parse_with_train_options, recall, write_csv


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rare", help="its name (default: the last one)")
    parser.add_argument("--ratio", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given, options = parse_with_train_options(parser)
    train, test = labelled_files(given.data, "train"), labelled_files(given.data, "test")
    rare = given.rare or max(label for _, label in train)
    if rare not in {label for _, label in train}:
        parser.error(f"no class {rare}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
        folder = Path(name)
        for seed in given.seeds:
            of_rare = [path for path, label in train if label == rare]
            kept = set(np.random.default_rng(seed).permutation(len(of_rare))[: len(of_rare) // given.ratio].tolist())
            chosen = {of_rare[number] for number in kept}
            data = write_csv(
                folder / f"{seed}.csv",
                [
                    *((path, label, "train") for path, label in train if label != rare or path in chosen),
                    *((path, label, "test") for path, label in test),
                ],
            )
            for balance in ("none", "weights", "sampling"):
                done = edgeclf(
                    "train",
                    data,
                    "--run",
                    folder / f"run-{seed}-{balance}",
                    "--seed",
                    seed,
                    "--balance",
                    balance,
                    *options,
                    cache=folder / "cache",
                ).document
                rows.append(
                    {
                        "seed": seed,
                        "balance": balance,
                        "rare_recall": recall(done["test"], rare),
                        "accuracy": done["test"]["accuracy"],
                        "macro_f1": done["test"]["macro_f1"],
                    }
                )
                if not given.json:
                    print(rows[-1], flush=True)
    medians = {
        balance: {
            key: median([row[key] for row in rows if row["balance"] == balance])
            for key in ("rare_recall", "accuracy", "macro_f1")
        }
        for balance in ("none", "weights", "sampling")
    }
    if given.json:
        print(json.dumps({"rare": rare, "ratio": given.ratio, "runs": rows, "medians": medians}, indent=2))
        return
    print(f"medians, {rare} {given.ratio} times rarer:")
    for balance, figures in medians.items():
        print(f"  --balance {balance:9}" + " ".join(f"{key} {value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
