"""Measures what adding a class to a run costs: accuracy of the old classes, and time against training anew.

    python benchmarks/training/one_more_class.py DATA IMAGE... [--name new] [--seeds 0 1 2] [--options '...'] [--json]

DATA has train/ and test/ folders; the images, one in five for testing, become one more class. Each seed trains the old
classes, then all of them with --from that run, then all of them anew (in a cold cache).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import accuracy_of, edgeclf, labelled_files, median, recall, write_csv


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("images", type=Path, nargs="+", help="files of the new class")
    parser.add_argument("--name", default="new", help="what it is called (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--options", default="", help="options of edgeclf train for the first and the anew training")
    given = parser.parse_args()
    options = given.options.split()
    old = [(path, label, part) for part in ("train", "test") for path, label in labelled_files(given.data, part)]
    new = [
        (path.resolve(), given.name, "test" if number % 5 == 4 else "train") for number, path in enumerate(given.images)
    ]
    labels = {label for _, label, _ in old}
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
            folder = Path(name)
            cache = folder / "cache"
            before = write_csv(folder / "before.csv", old)
            after = write_csv(folder / "after.csv", [*old, *new])
            first = edgeclf("train", before, "--run", folder / "a", "--seed", seed, *options, cache=cache)
            further = edgeclf(
                "train", after, "--run", folder / "b", "--seed", seed, "--from", folder / "a", cache=cache
            )
            anew = edgeclf("train", after, "--run", folder / "c", "--seed", seed, *options, cache=folder / "cold")
        rows.append(
            {
                "seed": seed,
                "old_before": accuracy_of(first.document["test"], labels),
                "old_after": accuracy_of(further.document["test"], labels),
                "old_anew": accuracy_of(anew.document["test"], labels),
                "new_recall_from": recall(further.document["test"], given.name),
                "new_recall_anew": recall(anew.document["test"], given.name),
                "seconds_from": further.seconds,
                "seconds_anew": anew.seconds,
            }
        )
        rows[-1]["old_lost"] = rows[-1]["old_before"] - rows[-1]["old_after"]
        if not given.json:
            print({key: round(value, 4) for key, value in rows[-1].items()}, flush=True)
    medians = {key: median([row[key] for row in rows]) for key in rows[0] if key != "seed"}
    if given.json:
        print(json.dumps({"runs": rows, "medians": medians}, indent=2))
    else:
        print("medians: " + " ".join(f"{key} {value:.4f}" for key, value in medians.items()))


if __name__ == "__main__":
    main()
