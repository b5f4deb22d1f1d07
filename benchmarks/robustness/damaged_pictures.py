"""Classifies damaged pictures: predictions, refusals by their sentence, tracebacks, dead processes, peak memory.

    python benchmarks/robustness/damaged_pictures.py [--count 100000] [--seed 0] [--chunk 4000] [--keep FOLDER] [--quick] [--json]

Crops of scikit-image's photographs in all formats and variants that are read, each damaged at random: bits and bytes changed,
blocks zeroed, removed or doubled, numbers made extreme, cut, preceded by garbage. `edgeclf infer FOLDER --json` classifies them
in chunks by a small network. One in ten is unharmed, or has garbage behind its end, or the suffix of another format: it must be
given what the whole picture is given. One in twenty goes through `Classifier.predict(bytes)` as well and must fare alike.

Exit code 1 where a file has no record or two, a process died or wrote a traceback, an unharmed picture was refused or given
something else, a refusal is not one sentence about its file, or a prediction is no probability. `--keep` copies the chunks with such a fault.
"""

import json
import math
import os
import re
import resource
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, edgeclf_command, run_to_end, working_folder
from benchmarks.robustness.pictures import HARMLESS, MUST_BE_READ, Damaged, Picture, draw_damage, draw_pictures
from benchmarks.synthetic import write_model

if TYPE_CHECKING:
    import subprocess

_ALSO_IN_PROCESS = 20
_SIZE_PX = 32
# Of a record, rounded to six digits; other batches add in another order.
_SAME = 2e-6
_SENTENCE = re.compile(r"[^\n]+\.")


def sentence_kind(sentence: str, source: str) -> str:
    """A refusal without the file's name, numbers, and the names of chunks, which are damaged as well."""
    text = re.sub(r"in its .* chunk", "in a chunk", sentence.replace(source, "FILE"))
    return re.sub(r"\d[\d,.]*", "#", text.split(", expected")[0].split("; ")[0])


def confidences(model: Path, pictures: list[Picture]) -> list[float]:
    """What the undamaged pictures are given: the probability of the first class."""
    from edgeclf.runtime import Classifier

    with Classifier(model) as clf:
        return [float(clf.predict(picture.data).probabilities[0]) for picture in pictures]


class Judge:
    """Counts of all chunks."""

    def __init__(self, model: Path, pictures: list[Picture]) -> None:
        from edgeclf.runtime import Classifier

        self._clf = Classifier(model, threads=1)
        self._expected = confidences(model, pictures)
        self._pictures = pictures
        self.predicted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.sentences: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def fault(self, kind: str, example: str) -> None:
        """Counts a fault, and keeps its first example."""
        self.faults[kind] += 1
        self.examples.setdefault(kind, example[-2000:])

    def chunk(self, files: dict[str, Damaged], done: "subprocess.CompletedProcess[str]") -> None:
        """Judges what one process made of its files, given by their paths."""
        if done.returncode not in {0, 3}:
            self.fault("processes that died" if done.returncode < 0 else f"exit code {done.returncode}", done.stderr)
        if "Traceback" in done.stderr:
            self.fault("tracebacks", done.stderr)
        records = Counter[str]()
        for line in done.stdout.splitlines():
            record = json.loads(line)
            source = record["source"]
            records[source] += 1
            self._record(record, files[source])
        for source, file in files.items():
            if records[source] != 1:
                self.fault(f"{records[source]} records", f"{file.kind}: {source}")

    def _record(self, record: dict[str, Any], file: Damaged) -> None:
        source = record["source"]
        about = f"{self._pictures[file.origin].name}, {file.kind}: {source}"
        first: float | None = None
        if "error" in record:
            self.refused[file.kind] += 1
            self.sentences[sentence_kind(record["error"], source)] += 1
            if not _SENTENCE.fullmatch(record["error"]) or source not in record["error"]:
                self.fault("refusals that are not one sentence about their file", f"{about}: {record['error']!r}")
        else:
            self.predicted[file.kind] += 1
            confidence = record["confidence"]
            if not (math.isfinite(confidence) and 0 <= confidence <= 1):
                self.fault("predictions that are no probability", about)
            first = confidence if record["index"] == 0 else 1 - confidence
        if file.kind in HARMLESS and first is not None and abs(first - self._expected[file.origin]) > _SAME:
            self.fault("unharmed pictures given something else", f"{about}: {first}, not {self._expected[file.origin]}")
        if file.kind in MUST_BE_READ and first is None:
            self.fault("unharmed pictures refused", f"{about}: {record['error']}")
        if (self.predicted.total() + self.refused.total()) % _ALSO_IN_PROCESS == 0:
            self._in_process(file, first, about)

    def _in_process(self, file: Damaged, first: float | None, about: str) -> None:
        from edgeclf.runtime import ImageError

        try:
            own: float | None = float(self._clf.predict(file.data).probabilities[0])
        except ImageError:
            own = None
        except Exception as error:  # noqa: BLE001 - anything else is what is looked for
            self.fault("tracebacks", f"{about}: {error!r}")
            return
        if (own is None) != (first is None) or (own is not None and first is not None and abs(own - first) > _SAME):
            self.fault("bytes that fare otherwise than their file", f"{about}: {own}, file {first}")


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"count": 300, "chunk": 150})
    arguments.add_argument("--count", type=int, default=100_000, help="damaged pictures (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="the same seed draws the same bytes (default: 0)")
    arguments.add_argument("--chunk", type=int, default=4_000, help="files for one process (default: %(default)s)")
    arguments.add_argument("--keep", type=Path, help="folder for chunks with a fault")
    given = arguments.parse()
    if given.count < 1 or given.chunk < 1:
        arguments.error("--count and --chunk must be at least 1")
    # Of the pictures that this process decodes itself.
    os.environ["OPENCV_LOG_LEVEL"] = "OFF"
    rng = np.random.default_rng(given.seed)
    pictures = draw_pictures(rng, 8)
    with working_folder() as folder:
        model = write_model(folder / "model.onnx", 1, size_px=_SIZE_PX)
        judge = Judge(model, pictures)
        damaged = draw_damage(pictures, given.count, rng)
        for number, start in enumerate(range(0, given.count, given.chunk)):
            chunk = folder / f"{number:05d}"
            chunk.mkdir()
            files: dict[str, Damaged] = {}
            for position in range(min(given.chunk, given.count - start)):
                file = next(damaged)
                path = chunk / f"{position:06d}{file.suffix}"
                path.write_bytes(file.data)
                files[str(path)] = file
            before = judge.faults.total()
            command = edgeclf_command("infer", model, chunk, "--json")
            judge.chunk(files, run_to_end(command))
            if given.keep is not None and judge.faults.total() > before:
                shutil.copytree(chunk, given.keep / chunk.name, dirs_exist_ok=True)
            shutil.rmtree(chunk)
    # The children of this process are those alone; the unit is KiB on Linux.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "pictures": given.count,
        "seed": given.seed,
        "predictions": judge.predicted.total(),
        "refusals": judge.refused.total(),
        "tracebacks": judge.faults["tracebacks"],
        "processes_that_died": judge.faults["processes that died"],
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "refusals_by_sentence": dict(judge.sentences.most_common()),
        "predictions_by_damage": dict(judge.predicted.most_common()),
        "refusals_by_damage": dict(judge.refused.most_common()),
        "faults": {kind: {"count": count, "first": judge.examples.get(kind)} for kind, count in judge.faults.items()},
    }
    report = Report(given)
    for name in ("predictions", "refusals", "tracebacks", "processes_that_died", "peak_mb", "cpu_seconds"):
        report.line(f"{name}: {figures[name]:,.0f}")
    report.columns({"predicted": ">10", "refused": ">10", "  damage": "<40"})
    for kind in sorted({*judge.predicted, *judge.refused}):
        if " + " not in kind:
            report.row(judge.predicted[kind], judge.refused[kind], f"  {kind}")
    for sentence, count in judge.sentences.most_common():
        report.line(f"{count:>8}  {sentence}")
    for kind, count in judge.faults.items():
        report.line(f"FAULT {kind}: {count}, first {judge.examples.get(kind)}")
    report.close(figures)
    return int(bool(+judge.faults))


if __name__ == "__main__":
    raise SystemExit(main())
