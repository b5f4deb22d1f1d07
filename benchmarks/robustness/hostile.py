"""Gives malicious and broken files to the commands: code executed, files touched outside, tracebacks; all must be 0.

    python benchmarks/robustness/hostile.py [--files 200] [--seed 0] [--only WORDS] [--keep FOLDER] [--quick] [--json]

Keras models with Python in them, with vocabularies, weights and archives that lead elsewhere; ONNX files with weights outside their
folder, specs and metadata of wrong types, large and deep, graphs that make no sense, odd files beside them; PyTorch pickles; pictures
that are bombs; tables; run folders that bring the module of their network. Every kind is drawn equally often. `info`, `infer`, `evaluate`, `verify`, `export`, `doctor` and `train` are
given what they read, one after the other in one process, which is watched: code in a file would make a file outside, and whatever
lies outside must not be opened.

Exit code 1 where anything is executed, read or written outside, a command ends with a traceback, dies or hangs. `--keep` copies the
files of these.
"""

import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, working_folder
from benchmarks.robustness.hostile_files.bases import fill_outside, make_bases
from benchmarks.robustness.hostile_files.keras_files import KERAS
from benchmarks.robustness.hostile_files.onnx_files import ONNX
from benchmarks.robustness.hostile_files.other_files import OTHERS
from benchmarks.robustness.hostile_files.process import Done, Worker
from benchmarks.robustness.hostile_files.run_folders import RUNS
from benchmarks.robustness.hostile_files.sandbox import Bases, Drawing, Sandbox
from benchmarks.synthetic import write_labelled_folder

KINDS = {**KERAS, **ONNX, **OTHERS, **RUNS}
# What a command may end with; 1 is a traceback.
_GOOD_CODES = frozenset((0, 2, 3, 4, 5))


def commands_of(path: Path, box: Sandbox, rng: np.random.Generator) -> list[list[str]]:
    """The commands that read such a file; of those that take seconds, one."""
    file, data, image = str(path), str(box.data), str(box.data / "test" / "brick" / "000.jpg")
    model, run = str(box.inside.parent / "good.onnx"), str(box.out / "run")
    brief = ["--run", run, "--overwrite", "--epochs", "1", "--arch", "seed-cnn", "--image-size", "89"]
    short = ["--run", run, "--overwrite", "--epochs", "1", "--image-size", "32"]
    labels = ["--labels", str(box.inside.parent / "labels.txt")]
    export = ["export", file, "--data", data, "--out", str(box.out / "made.onnx")]
    if (path / "run.json").is_file():
        evaluations = [["evaluate", file, data], ["export", file, "--out", str(box.out / "made.onnx")]]
        return [["train", "--resume", file], *evaluations, ["doctor", file, "--fast"]]
    match path.suffix:
        case ".keras" | ".h5":
            quick = [["info", file, "--json"], ["infer", file, image], ["evaluate", file, data, *labels]]
            slow = [
                [*export, *labels, "--preprocess", "keras-tf"],
                ["verify", file, data, "--against", file],
                ["train", data, *brief, "--weights", file],
            ]
        case ".onnx":
            quick = [
                ["info", file],
                ["info", file, "--json"],
                ["infer", file, image],
                ["verify", file],
                ["evaluate", file, data],
            ]
            slow = [
                [*export, "--precision", str(rng.choice(("fp32", "fp16")))],
                ["doctor", file, "--data", data],
                ["bench", file, "--duration", "0", "--min-queries", "10"],
                ["train", data, *short, "--backbone", file],
            ]
        case ".pth":
            quick = [["info", file], ["infer", file, image], ["export", file, "--out", str(box.out / "made.onnx")]]
            slow = [["train", data, *short, "--arch", "efficientnet-lite0", "--weights", file]]
        case ".csv":
            quick = [["evaluate", model, file, "--ignore-unreadable"]]
            slow = [["doctor", file], ["train", file, *brief]]
        case _:
            quick = [["infer", model, file], ["infer", model, file, "--json", "--top-k", "2"]]
            slow = [["doctor", file]]
    return [*quick, slow[int(rng.integers(len(slow)))]]


def faults_of(done: Done, box: Sandbox) -> list[str]:
    """What a command did that none may do."""
    executed = box.canary.name in done.touched or box.canary.exists()
    return [
        fault
        for fault, is_so in {
            "executed": executed,
            f"touched outside: {', '.join(done.touched)}": bool(done.touched) and not executed,
            f"made outside: {', '.join(done.made)}": bool(done.made),
            f"traceback: {done.stderr}": done.code == 1 or "Traceback" in done.stderr,
            f"died: {done.stderr}": done.code is None,
            f"exit code {done.code}: {done.stderr}": done.code not in {*_GOOD_CODES, 1, None},
        }.items()
        if is_so
    ]


@dataclass
class Tally:
    """Counts of a run, by kind of file.

    Attributes:
        drawn: Files.
        read: Commands that took their file.
        refused: Commands that did not.
        faults: By kind and fault.
        examples: The first of each.
    """

    drawn: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, done: Done, faults: list[str], example: str) -> bool:
        """Counts a command; whether it has a fault."""
        (self.read if done.code in {0, 4} else self.refused)[name] += 1
        for fault in faults:
            kind = f"{name}: {fault.split(':')[0]}"
            self.faults[kind] += 1
            self.examples.setdefault(kind, f"{example}: {fault}")
        return bool(faults)

    def figures(self) -> dict[str, float]:
        """The sums that must be 0, and of what."""

        def count(*faults: str) -> int:
            return sum(number for kind, number in self.faults.items() if kind.rsplit(": ", 1)[1] in faults)

        return {
            "files": self.drawn.total(),
            "commands": self.read.total() + self.refused.total(),
            "executed": count("executed"),
            "touched_outside": count("touched outside", "made outside"),
            "tracebacks": count("traceback"),
            "died_or_hung": count("died"),
        }


def prepare(folder: Path) -> tuple[Sandbox, Bases]:
    """Makes the folders, what lies outside, good files and photographs."""
    root = folder / "box"
    box = Sandbox(folder / "outside", root / "files", root / "data", root / "out")
    for path in (box.outside, box.inside, box.out):
        path.mkdir(parents=True)
    bases = make_bases()
    fill_outside(box, bases)
    write_labelled_folder(box.data, train=8, test=2, classes=3)
    (root / "good.onnx").write_bytes(bases.own)
    (root / "labels.txt").write_text("brick\ngrass\ngravel\n", encoding="utf-8")
    return box, bases


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"files": len(KINDS)})
    arguments.add_argument("--files", type=int, default=200, help="files (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="the same seed draws the same files (default: 0)")
    arguments.add_argument("--only", help="kinds whose name holds these words")
    arguments.add_argument("--keep", type=Path, help="folder for files with a fault")
    given = arguments.parse()
    kinds = {name: kind for name, kind in KINDS.items() if (given.only or "") in name}
    if given.files < 1 or not kinds:
        arguments.error(f"expected one file or more, of the kinds {', '.join(KINDS)}")
    tally = Tally()
    started = time.perf_counter()
    with working_folder() as folder:
        box, bases = prepare(folder)
        worker = Worker(box.inside.parent, box.outside)
        for number in range(given.files):
            rng = np.random.default_rng((given.seed, number))
            name = list(kinds)[number % len(kinds)]
            own = box.inside / f"{number:04d}"
            own.mkdir()
            path = kinds[name](Drawing(own, bases, box, rng))
            tally.drawn[name] += 1
            for command in commands_of(path, box, rng)[: 2 if given.quick else None]:
                done = worker.run(command)
                if tally.add(name, done, faults_of(done, box), f"file {number}, {' '.join(command)}") and given.keep:
                    shutil.copytree(own, given.keep / own.name, symlinks=True, dirs_exist_ok=True)
                _remove(box.canary)
            shutil.rmtree(own)
        worker.close()
    report = Report(given)
    figures = {**tally.figures(), "peak_mb": worker.peak_mb, "seconds": time.perf_counter() - started}
    report.columns({"kind": "<40", "files": ">6", "commands that read it": ">23", "refused it": ">12"})
    for name, number in tally.drawn.items():
        report.row(name, number, tally.read[name], tally.refused[name])
    for kind, number in tally.faults.items():
        report.line(f"FAULT {kind}: {number}, first {tally.examples[kind]}")
    for name, value in figures.items():
        report.line(f"{name}: {value:,.0f}")
    faults = {kind: {"count": number, "first": tally.examples[kind]} for kind, number in tally.faults.items()}
    report.close({**figures, "faults": faults})
    return int(bool(faults))


def _remove(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
