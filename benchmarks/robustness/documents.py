"""Reads JSON documents changed at random, as edgeclf reads them from files: tracebacks and values of wrong types; both must be 0.

    python benchmarks/robustness/documents.py [--count 20000] [--seed 0] [--only WORDS] [--processes 40] [--keep FOLDER] [--quick]
        [--json]

Half of the documents are specs of model files; the others the files of run folders, finished, unfinished and diverged, and their
checkpoints; what lies beside models of others - config.json of timm and of Hugging Face, preprocessor_config.json, labels - or in
their properties; what `datasets` writes; the record of a backbone; the config of a Keras file. Each is valid but for up to three
changes: a value of another type, infinite, deep, huge or hard to show, a key gone or new; one in five is damaged as text.

Each is read in one process, and used by what uses it: it must be refused with one sentence, or every value that comes of it must
be of the type that its class names. Some files are then given to commands, each in a process of its own.

Exit code 1 where one ends otherwise, takes longer than 20 s of the processor, or lets memory grow by more than 500 MB.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, edgeclf_command, run_to_end, working_folder
from benchmarks.robustness.hostile_files.document_kinds import make_documents
from benchmarks.robustness.hostile_files.documents import Document, quietly, wrong_types

_LONGEST_S = 20
_MOST_GROWTH_MB = 500
_SENTENCE = re.compile(r"[^\n]+\.")
# What commands read that is given as a file, and the command.
_COMMANDS = {
    "spec of a model file": ("info", "model.onnx"),
    "run.json of a run": ("doctor", "."),
    "spec.json of a run": ("doctor", "."),
    "metrics.json of a run": ("doctor", "."),
    "history.csv of a run": ("doctor", "."),
    "run.json of an unfinished run": ("train", "--resume", "."),
    "facts of a checkpoint": ("train", "--resume", "."),
    "config.json of timm": ("info", "model.onnx"),
    "preprocessor_config.json": ("info", "model.onnx"),
}


class _TooLongError(BaseException):
    """The time of a document is over; no `except Exception` may take it for a failure of its own."""


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise _TooLongError

    # Of the processor, whatever else is running.
    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, _LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judge(document: Document, folder: Path, text: str) -> tuple[str, str | None]:
    """What became of a document, `read` or `refused`, and what is wrong with it; None where nothing is."""
    from edgeclf.runtime.errors import EdgeclfError

    try:
        with _deadline():
            values = quietly(document.read, folder, text)
    except EdgeclfError as error:
        return "refused", None if _SENTENCE.fullmatch(str(error)) else f"no sentence: {str(error)!r}"
    except _TooLongError:
        return "refused", f"takes more than {_LONGEST_S} s"
    except Exception as error:  # noqa: BLE001 - anything else is what is looked for
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = "" if at is None else f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
        return "refused", f"traceback {type(error).__name__} at {place}: {str(error)[:300]!r}"
    wrong = [text for value in values for text in wrong_types(value, type(value), type(value).__name__)]
    return "read", f"wrong type: {wrong[0]}" if wrong else None


@dataclass
class Tally:
    """Counts of a run.

    Attributes:
        keep: Folder for documents with a fault; None for none.
        counts: Documents by kind and what became of them.
        faults: By kind and fault.
        first: The first of each.
        commands: Files given to commands.
        slowest_s: The longest time of the processor that one document took.
    """

    keep: Path | None
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    commands: int = 0
    slowest_s: float = 0.0

    def tell(self, document: Document, number: int, fault: str, text: str) -> None:
        """Counts a fault."""
        kind = f"{document.name}: {fault.split(': ', maxsplit=1)[0]}"
        self.faults[kind] += 1
        self.first.setdefault(kind, f"document {number}: {fault}")
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / f"{number:06d} {document.name}.txt").write_bytes(text.encode(errors="surrogatepass"))

    def check_valid(self, documents: Sequence[Document], place: Path) -> None:
        """Reads what is not changed; it must be read."""
        for number, document in enumerate(documents):
            place.mkdir()
            became = judge(document, place, document.text)
            if became != ("read", None):
                self.tell(document, number, f"a valid one is {became[0]}: {became[1]}", document.text)
            shutil.rmtree(place)

    def add(self, document: Document, number: int, text: str, place: Path, *, with_command: bool) -> None:
        """Reads a document that was drawn."""
        place.mkdir()
        began = time.process_time()
        what, fault = judge(document, place, text)
        self.slowest_s = max(self.slowest_s, time.process_time() - began)
        self.counts[document.name, what] += 1
        if fault is not None:
            self.tell(document, number, fault, text)
        if with_command:
            self.commands += 1
            if (fault := _run_command(document, place)) is not None:
                self.tell(document, number, fault, text)
        shutil.rmtree(place)

    def count(self, *words: str) -> int:
        """Faults whose names hold one of these words."""
        return sum(number for kind, number in self.faults.items() if any(f": {word}" in kind for word in words))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _run_command(document: Document, folder: Path) -> str | None:
    """What is wrong with how a command ends that is given a file that was drawn; None where nothing is."""
    environment = {**os.environ, "EDGECLF_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    command = _COMMANDS[document.name]
    done = run_to_end(edgeclf_command(*command), env=environment, cwd=folder)
    if done.returncode in {0, 2, 3, 4, 5} and "Traceback" not in done.stderr:
        return None
    return f"command {command[0]} ends with {done.returncode}: {done.stderr[-500:]}"


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"count": 300, "processes": 1})
    arguments.add_argument("--count", type=int, default=20_000, help="documents (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="the same seed draws the same documents (default: 0)")
    arguments.add_argument("--only", help="kinds whose name holds these words")
    arguments.add_argument("--processes", type=int, default=40, help="files given to commands (default: %(default)s)")
    arguments.add_argument("--keep", type=Path, help="folder for documents with a fault")
    given = arguments.parse()
    documents = [document for document in make_documents() if (given.only or "") in document.name]
    if given.count < 1 or not documents:
        arguments.error("expected one document or more, of kinds that there are")
    tally, started = Tally(given.keep), time.perf_counter()
    with working_folder() as folder:
        place = folder / "place"
        tally.check_valid(documents, place)
        began_mb = _peak_mb()
        due = given.count / max(1, given.processes)
        for number in range(given.count):
            rng = np.random.default_rng((given.seed, number))
            document = documents[0 if number % 2 else number // 2 % len(documents)]
            is_due = document.name in _COMMANDS and number >= tally.commands * due and tally.commands < given.processes
            tally.add(document, number, document.draw(rng), place, with_command=is_due)
    grown_mb = _peak_mb() - began_mb
    if grown_mb > _MOST_GROWTH_MB and not given.quick:
        tally.faults["memory"] += 1
        tally.first["memory"] = f"{grown_mb:,.0f} MB more than before the first"
    report = Report(given)
    report.columns({"document": "<36", "read": ">8", "refused": ">9"})
    for document in documents:
        report.row(document.name, *(tally.counts[document.name, what] for what in ("read", "refused")))
    for kind, count in tally.faults.items():
        report.line(f"FAULT {kind}: {count}, first {tally.first[kind]}")
    figures = {
        "documents": given.count,
        **{what: sum(n for (_, its), n in tally.counts.items() if its == what) for what in ("read", "refused")},
        "commands": tally.commands,
        "tracebacks": tally.count("traceback", "command"),
        "wrong_types": tally.count("wrong type"),
        "slowest_s": tally.slowest_s,
        "memory_growth_mb": grown_mb,
        "seconds": time.perf_counter() - started,
    }
    for name, value in figures.items():
        report.line(f"{name}: {value:,.2f}" if isinstance(value, float) else f"{name}: {value:,}")
    faults = {kind: {"count": count, "first": tally.first[kind]} for kind, count in tally.faults.items()}
    report.close({**figures, "faults": faults})
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
