"""Shared by all benchmarks: command line, processes, timing in turns, sampled images, tables and JSON.

Imports only the standard library and NumPy: some benchmarks measure what a process has imported.
"""

import argparse
import contextlib
import csv
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import UInt8Array
    from edgeclf.runtime.spec import Preprocess

T = TypeVar("T")
# Above the longest of all, so that one that hangs ends some day.
LONGEST_RUN_S = 6 * 3600
_QUICK_NOTE = "--quick: tiny inputs, few repetitions, limits of time and memory not judged; do not quote these figures"


class Arguments(argparse.ArgumentParser):
    """Command line of a benchmark: `--quick`, `--json`, and what the benchmark adds.

    Args:
        docstring: The script's; its first line is the description.
        quick: Values that options have under `--quick` where they are not given.
        seeds: Default of `--seeds`; None for a benchmark without that option.
        train_options: Options of `edgeclf train` where none follow `--`; None for a benchmark that takes none.
    """

    def __init__(
        self,
        docstring: str | None,
        *,
        quick: Mapping[str, object],
        seeds: Sequence[int] | None = None,
        train_options: Sequence[str] | None = None,
    ) -> None:
        super().__init__(description=(docstring or "").split("\n", 1)[0], allow_abbrev=False)
        self._quick = quick
        self._is_quick = "--quick" in sys.argv[1:]
        self._takes_train_options = train_options is not None
        self.set_defaults(train_options=train_options)
        self.add_argument("--quick", action="store_true", help="seconds instead of minutes, on inputs made for it")
        self.add_argument("--json", action="store_true", help="print one JSON document")
        if seeds is not None:
            self.add_argument("--seeds", type=int, nargs="+", default=seeds, help="one run each (default: %(default)s)")

    def add_input(self, name: str, help_text: str, *, metavar: str | None = None, several: bool = False) -> None:
        """Adds a file or folder that must be given, except under `--quick`, where None or an empty list stands for it."""
        one, more = ("?", "*") if self._is_quick else (None, "+")
        self.add_argument(
            name, type=Path, nargs=more if several else one, metavar=metavar or name.upper(), help=help_text
        )

    def parse(self) -> argparse.Namespace:
        """Parses the process's arguments; what follows `--` becomes `train_options`.

        argparse alone takes what follows `--` for too many arguments where an option that takes several stands before it.
        """
        given = sys.argv[1:]
        at = given.index("--") if "--" in given and self._takes_train_options else len(given)
        if self._is_quick:
            self.set_defaults(**self._quick)
        parsed = self.parse_args(given[:at])
        if given[at + 1 :]:
            parsed.train_options = given[at + 1 :]
        return parsed


class Report:
    """Standard output of a benchmark: a table that grows row by row or, with `--json`, one document at the end."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._is_json = bool(given.json)
        self._is_quick = bool(given.quick)
        self._formats: list[str] = []

    def columns(self, formats: Mapping[str, str]) -> None:
        """Begins a table: the format of each column by its heading, such as `<20` or `>8.3f`."""
        self._formats = list(formats.values())
        self.line("".join(format(heading, _text_format(spec)) for heading, spec in formats.items()))

    def row(self, *values: object) -> None:
        """Adds a row; `-` stands for None."""
        cells = zip(values, self._formats, strict=True)
        self.line("".join(format("-", _text_format(f)) if value is None else format(value, f) for value, f in cells))

    def line(self, text: str) -> None:
        """Prints a line of its own, except with `--json`."""
        if not self._is_json:
            print(text.rstrip(), flush=True)

    def close(self, document: object) -> None:
        """Prints the document where JSON is wanted; under `--quick`, says on stderr what the figures are worth."""
        if self._is_json:
            print(json.dumps(document, indent=2))
        if self._is_quick:
            print(_QUICK_NOTE, file=sys.stderr)


def _text_format(spec: str) -> str:
    (text_format,) = re.findall(r"^[<>]\d+", spec)
    return str(text_format)


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
        yield Path(name)


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    Attributes:
        stdout: Its standard output.
        seconds: Wall-clock time from its start to its end.
    """

    stdout: str
    seconds: float

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON
        """Standard output as JSON."""
        return json.loads(self.stdout)


def run_to_end(command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":  # noqa: ANN401 - of `subprocess.run`
    """Runs a command to its end, whatever that is; its standard output and error as text.

    Raises:
        SystemExit: It did not end within `LONGEST_RUN_S`, and was killed.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_RUN_S, **options)
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"{shlex.join(command)} did not end within {LONGEST_RUN_S / 3600:g} hours") from error


def run_process(
    command: Sequence[object], environment: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> Finished:
    """Runs a command to its end.

    Args:
        command: Program and arguments.
        environment: Replaces this process's; None keeps it.
        folder: Working directory; None keeps this process's.

    Raises:
        SystemExit: It failed; the message holds its standard error.
    """
    line = [str(part) for part in command]
    started = time.perf_counter()
    done = run_to_end(line, env=environment, cwd=folder)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{shlex.join(line)} ended with {done.returncode}")
    return Finished(done.stdout, seconds)


def run_edgeclf(*arguments: object, cache: Path) -> Finished:
    """Runs an edgeclf command with `--json` and a cache folder; `document` is its answer."""
    return run_process([*edgeclf_command(*arguments), "--json"], cache_environment(cache))


def run_script(script: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Finished:
    """Runs one side of a benchmark, a Python script, in a process of its own."""
    return run_process([sys.executable, script, *arguments], environment)


@contextlib.contextmanager
def background_process(command: Sequence[object], **options: Any) -> Iterator["subprocess.Popen[str]"]:  # noqa: ANN401 - those of Popen
    """Starts a command and kills it where it still runs when the block ends."""
    process = subprocess.Popen([str(part) for part in command], text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def edgeclf_command(*arguments: object) -> list[str]:
    """The command line of edgeclf in this Python."""
    return [sys.executable, "-m", "edgeclf.toolkit", *map(str, arguments)]


def cache_environment(cache: Path) -> dict[str, str]:
    """This process's environment with another cache folder for edgeclf."""
    return {**os.environ, "EDGECLF_CACHE": str(cache)}


def stock_environment(onednn: str) -> dict[str, str]:
    """This process's environment for TensorFlow as it comes: oneDNN as it chooses on this CPU, or `off`.

    TensorFlow leaves oneDNN off on CPUs without AVX-512; `off` makes any other CPU do the same, for the stock side only.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    return {**environment, "TF_ENABLE_ONEDNN_OPTS": "0"} if onednn == "off" else environment


def run_in_turns(sides: Mapping[str, Callable[[], T]], rounds: int, *, warm_up: int = 0) -> dict[str, list[T]]:
    """Calls every side once a round, backwards and forwards by turns, so that a busy machine touches all alike.

    For whole processes, of which there are few rounds; what takes milliseconds is compared by
    `edgeclf.runtime.timing.comparison.measure_in_turns`, which needs eight rounds for its interval.

    Args:
        sides: What to call, by name.
        rounds: Rounds that count.
        warm_up: Rounds before, whose results are dropped.

    Returns:
        What the calls of each side returned, by name.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name in sides if number % 2 else reversed(list(sides)):
            result = sides[name]()
            if number >= warm_up:
                results[name].append(result)
    return results


def time_in_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of every call of every side, called as by `run_in_turns`."""
    return run_in_turns({name: timed(call) for name, call in sides.items()}, rounds, warm_up=warm_up)


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """A function that makes the call and returns the milliseconds it took."""

    def measure() -> float:
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3

    return measure


@dataclass(frozen=True)
class Ratio:
    """One side's figures as multiples of another's, round by round.

    Attributes:
        median: Median over the rounds.
        low: First quartile over the rounds.
        high: Third quartile.
    """

    median: float
    low: float
    high: float


def round_ratio(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Divides figures of the same rounds by each other."""
    low, middle, high = np.percentile(np.asarray(values) / np.asarray(base), (25, 50, 75))
    return Ratio(float(middle), float(low), float(high))


def median(values: Iterable[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def medians_of(rows: Sequence[Mapping[str, Any]], without: Iterable[str] = ()) -> dict[str, float]:
    """Median of every figure over the rows."""
    return {key: median(row[key] for row in rows) for key in rows[0] if key not in set(without)}


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, sorted.

    Raises:
        SystemExit: There is none.
    """
    from edgeclf.runtime.batch.listing import looks_like_image

    found = sorted(path for path in folder.rglob("*") if path.is_file() and looks_like_image(path))
    if not found:
        raise SystemExit(f"no images under {folder}")
    return found


def sample_images(folder: Path, count: int | None = None, *, seed: int = 0) -> list[Path]:
    """Images below a folder drawn at random: the same for the same files and seed.

    Args:
        folder: Where to look.
        count: How many at most; None for all, shuffled.
        seed: Of the order.
    """
    files = image_files(folder)
    return [files[position] for position in np.random.default_rng(seed).permutation(len(files))[:count]]


def load_pixels(paths: Iterable[Path], preprocess: "Preprocess") -> "UInt8Array":
    """(N, H, W, 3) uint8 RGB, the images as a model with this preprocessing gets them."""
    from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr

    return np.stack([preprocess_bgr(load_image(path), preprocess) for path in paths])


def labelled_files(data: Path, split: str) -> list[tuple[Path, str]]:
    """The files under `data/split/LABEL/`, sorted, with their labels.

    Raises:
        SystemExit: There is none.
    """
    folder = data / split
    return [(path.resolve(), path.relative_to(folder).parts[0]) for path in image_files(folder)]


def write_csv(path: Path, rows: Iterable[tuple[Path, str, str]]) -> Path:
    """Writes a data set of (file, label, split) as edgeclf reads it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        table.writerows(rows)
    return path


def recall(report: Mapping[str, Any], label: str) -> float:
    """Recall of one class in a report that edgeclf printed."""
    return float(next(entry["recall"] for entry in report["per_class"] if entry["label"] == label))


def accuracy_of(report: Mapping[str, Any], labels: Iterable[str]) -> float:
    """Share of the images of these classes that were given their own label."""
    entries = [entry for entry in report["per_class"] if entry["label"] in set(labels)]
    return float(sum(entry["recall"] * entry["support"] for entry in entries) / sum(e["support"] for e in entries))
