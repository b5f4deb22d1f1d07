"""What the training benchmarks share: edgeclf in processes of their own, each with the cache it is given."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What a command printed as JSON, and how long the whole process took."""

    document: dict[str, Any]
    seconds: float


def edgeclf(*arguments: object, cache: Path, check: bool = True) -> Measured:
    """Runs an edgeclf command with `--json` and the cache folder given; ends the benchmark where it fails."""
    command = [sys.executable, "-m", "edgeclf.toolkit", *map(str, arguments), "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "EDGECLF_CACHE": str(cache)}
    )
    seconds = time.perf_counter() - started
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return Measured(json.loads(done.stdout), seconds)


def stock_environment(onednn: str) -> dict[str, str]:
    """This process's environment for TensorFlow as it comes: oneDNN as it chooses on this CPU, or `off`.

    TensorFlow leaves oneDNN off on CPUs without AVX-512; `off` makes any other CPU do the same, for the stock side only.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    return {**environment, "TF_ENABLE_ONEDNN_OPTS": "0"} if onednn == "off" else environment


def parse_with_train_options(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """The benchmark's own arguments, and the options of `edgeclf train` that follow `--`.

    argparse alone takes what follows `--` for too many arguments where an option that takes several stands before it.
    """
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    return parser.parse_args(given[:at]), given[at + 1 :]


def recall(report: dict[str, Any], label: str) -> float:
    """Recall of one class in a report that edgeclf printed."""
    return float(next(entry["recall"] for entry in report["per_class"] if entry["label"] == label))


def accuracy_of(report: dict[str, Any], labels: Iterable[str]) -> float:
    """Share of the images of these classes that were given their own label."""
    entries = [entry for entry in report["per_class"] if entry["label"] in set(labels)]
    return float(sum(entry["recall"] * entry["support"] for entry in entries) / sum(e["support"] for e in entries))


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def labelled_files(data: Path, part: str) -> list[tuple[Path, str]]:
    """The files under `data/part/LABEL/`, sorted, with their labels."""
    found = [
        (path.resolve(), folder.name)
        for folder in sorted((data / part).iterdir())
        if folder.is_dir()
        for path in sorted(folder.iterdir())
    ]
    if not found:
        raise SystemExit(f"no images under {data / part}")
    return found


def write_csv(path: Path, rows: Iterable[tuple[Path, str, str]]) -> Path:
    """Writes a data set of (file, label, part) as edgeclf reads it."""
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        table.writerows(rows)
    return path
