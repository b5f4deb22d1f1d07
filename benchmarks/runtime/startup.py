"""Measures what starting edgeclf costs, as ratios to the imports it cannot do without.

    python benchmarks/runtime/startup.py [--rounds 10] [--json]

Every command of a pair runs in a new process, the commands by turns, and the medians are compared: a busy machine
slows all of them alike. Exit code 1 when a ratio is above its limit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A command, what it is compared with, and the ratio it must not exceed."""

    name: str
    command: tuple[str, ...]
    base_name: str
    base_command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Figures:
    """Medians of one case in milliseconds, and their ratio."""

    name: str
    base_name: str
    median_ms: float
    base_median_ms: float
    ratio: float
    limit: float


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


_ROOF, _GROUND = "import typer, rich", "import numpy, cv2, onnxruntime"
_SCRIPT = str(Path(sys.executable).with_name("edgeclf"))
CASES = (
    Case("edgeclf --help", (_SCRIPT, "--help"), _ROOF, _python(_ROOF), 1.5),
    Case("import edgeclf.runtime", _python("import edgeclf.runtime"), _GROUND, _python(_GROUND), 1.15),
    Case(
        "from edgeclf.runtime import Classifier",
        _python("from edgeclf.runtime import Classifier"),
        _GROUND,
        _python(_GROUND),
        1.15,
    ),
)


def measure(cases: Sequence[Case], rounds: int) -> list[Figures]:
    """Runs every case and its base once a round, after one round that only fills the caches."""
    commands = {
        name: line for case in cases for name, line in ((case.name, case.command), (case.base_name, case.base_command))
    }
    # An installed package comes with its bytecode; in a checkout the first round writes it, unless this is set.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times_ms: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name in commands if number % 2 else reversed(list(commands)):
            start = time.perf_counter()
            subprocess.run(commands[name], check=True, stdout=subprocess.DEVNULL, env=environment)
            if number:
                times_ms[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times_ms.items()}
    return [
        Figures(
            case.name,
            case.base_name,
            medians[case.name],
            medians[case.base_name],
            medians[case.name] / medians[case.base_name],
            case.limit,
        )
        for case in cases
    ]


def main() -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=10, help="processes of each kind (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    figures = measure(CASES, options.rounds)
    if options.json:
        print(json.dumps([asdict(item) for item in figures], indent=2))
    else:
        print(f"{'':40}{'ms':>8}{'base ms':>9}{'ratio':>7}{'limit':>7}   base")
        for item in figures:
            print(
                f"{item.name:40}{item.median_ms:8.0f}{item.base_median_ms:9.0f}{item.ratio:7.2f}{item.limit:7.2f}"
                f"   {item.base_name}"
            )
    return int(any(item.ratio > item.limit for item in figures))


if __name__ == "__main__":
    raise SystemExit(main())
