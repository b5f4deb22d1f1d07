"""Measures the start-up of edgeclf as ratios to the imports that it cannot do without.

    python benchmarks/runtime/startup.py [--rounds 10] [--quick] [--json]

Every command of a pair runs in a new process, the commands by turns, and the medians are compared: a busy machine
slows all of them alike. Exit code 1 when a ratio is above its limit.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, median, round_ratio, run_process, time_in_turns


@dataclass(frozen=True)
class Case:
    """A command, its baseline, and the ratio it must not exceed."""

    name: str
    command: tuple[str, ...]
    base_name: str
    base_command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Figures:
    """Medians of one case in milliseconds, their ratio, and the quartiles of the single rounds' ratios."""

    name: str
    base_name: str
    median_ms: float
    base_median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    limit: float


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


_ROOF, _GROUND = "import typer, rich", "import numpy, cv2, onnxruntime"
_SCRIPT = str(Path(sys.executable).with_name("edgeclf"))
CASES = (
    Case("edgeclf --help", (_SCRIPT, "--help"), _ROOF, _python(_ROOF), 1.25),
    Case("import edgeclf.runtime", _python("import edgeclf.runtime"), _GROUND, _python(_GROUND), 1.1),
    Case(
        "from edgeclf.runtime import Classifier",
        _python("from edgeclf.runtime import Classifier"),
        _GROUND,
        _python(_GROUND),
        1.1,
    ),
)


def measure(cases: Sequence[Case], rounds: int) -> list[Figures]:
    """Runs every case and its baseline once a round, after one round that only fills the caches."""
    commands = {
        name: line for case in cases for name, line in ((case.name, case.command), (case.base_name, case.base_command))
    }
    # An installed package comes with its bytecode; in a checkout the first round writes it, unless this is set.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    sides = {name: partial(run_process, command, environment) for name, command in commands.items()}
    times_ms = time_in_turns(sides, rounds, warm_up=1)
    figures = []
    for case in cases:
        median_ms, base_ms = median(times_ms[case.name]), median(times_ms[case.base_name])
        spread = round_ratio(times_ms[case.name], times_ms[case.base_name])
        ratio = median_ms / base_ms
        figures.append(
            Figures(case.name, case.base_name, median_ms, base_ms, ratio, spread.low, spread.high, case.limit)
        )
    return figures


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"rounds": 1})
    arguments.add_argument("--rounds", type=int, default=10, help="processes of each kind (default: %(default)s)")
    given = arguments.parse()
    if given.rounds < 1:
        arguments.error("--rounds must be at least 1")
    figures = measure(CASES, given.rounds)
    report = Report(given)
    report.columns(
        {
            "": "<40",
            "ms": ">8.0f",
            "base ms": ">9.0f",
            "ratio": ">7.2f",
            "spread": ">13",
            "limit": ">7.2f",
            "  base": "<34",
        }
    )
    for item in figures:
        spread = f"{item.ratio_low:.2f}-{item.ratio_high:.2f}"
        cells = item.median_ms, item.base_median_ms, item.ratio, spread, item.limit, f"  {item.base_name}"
        report.row(item.name, *cells)
    report.close([asdict(item) for item in figures])
    return int(not given.quick and any(item.ratio > item.limit for item in figures))


if __name__ == "__main__":
    raise SystemExit(main())
