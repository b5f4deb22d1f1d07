"""Reads tables drawn at random with what they mean: rows read and right, tables refused with one sentence, tracebacks.

    python benchmarks/robustness/tables.py [--rows 100000] [--seed 0] [--keep FOLDER] [--quick] [--json]

CSV files as spreadsheets, pandas and competitions write them: four separators, three kinds of quoting, line ends of three systems,
byte-order marks, `sep=;`, columns in any order among others, paths with blanks, commas, quotes and backslashes, ids without
suffix, labels such as `nan`, `True`, `007` and `=SUM(A1)`, splits in many words, empty and short rows. Two in three are of kinds
that must be read: the samples must be those that were drawn, each with path, label, split and group. The rest must be
refused: fields beyond the header, missing values, images twice, unknown splits, other encodings, NUL bytes, noise.

Exit code 1 where a table is read otherwise than it was meant, refused though it must be read, read though it must be refused, or
refused with anything but one sentence. `--keep` copies these.
"""

import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, working_folder
from benchmarks.robustness.drawn_tables import FILES, READ, Row, Table, draw_table

_SENTENCE = re.compile(r"[^\n]+\.")


def write_images(folder: Path) -> None:
    """Empty files under all names that tables have: nothing is decoded here."""
    for name in (*FILES, *(f"ids/{stem}{n:03d}.jpg" for n in range(40) for stem in ("", "img."))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def read(path: Path, table: Table) -> tuple[list[Row] | None, str | None, str | None]:
    """What the table is read as; else the sentence; else what is no sentence."""
    from edgeclf.runtime.errors import EdgeclfError
    from edgeclf.training.data.discovery import discover_dataset
    from edgeclf.training.data.table import TableOptions

    try:
        dataset = discover_dataset(path, table=TableOptions(**table.options), group_by=table.group_by)
    except EdgeclfError as error:
        return None, str(error), None
    except Exception as error:  # noqa: BLE001 - anything else is what is looked for
        return None, None, repr(error)
    rows: list[Row] = [
        (sample.path, sample.label, sample.split or "", sample.group or "") for sample in dataset.samples
    ]
    return rows, None, None


def judge(table: Table, got: list[Row] | None, sentence: str | None, escaped: str | None) -> str | None:
    """What is wrong with what a table was read as; None where nothing is."""
    if escaped is not None:
        return f"traceback: {escaped}"
    if sentence is not None:
        if not _SENTENCE.fullmatch(sentence):
            return f"no sentence: {sentence!r}"
        return None if table.meant is None else f"refused: {sentence}"
    if table.meant is None:
        return "read"
    meant = sorted(table.meant)
    if got != meant:
        differing = next((pair for pair in zip(got or [], meant, strict=False) if pair[0] != pair[1]), "their number")
        return f"read wrong: {differing}"
    return None


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"rows": 3_000})
    arguments.add_argument("--rows", type=int, default=100_000, help="rows of all tables (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="the same seed draws the same tables (default: 0)")
    arguments.add_argument("--keep", type=Path, help="folder for tables with a fault")
    given = arguments.parse()
    rng = np.random.default_rng(given.seed)
    tables, right, faulty, rows, right_rows = Counter[str](), Counter[str](), Counter[str](), 0, 0
    examples: dict[str, str] = {}
    sentences: Counter[str] = Counter()
    started = time.process_time()
    with working_folder() as folder:
        write_images(folder)
        while rows < given.rows:
            table = draw_table(rng)
            number, path = tables.total(), folder / "table.csv"
            data = table.encoded()
            path.write_bytes(data)
            got, sentence, escaped = read(path, table)
            fault = judge(table, got, sentence, escaped)
            tables[table.kind] += 1
            rows += len(table.rows)
            if fault is None:
                right[table.kind] += 1
                right_rows += len(got or ())
                if sentence is not None:
                    sentences[re.sub(r"\d+", "#", sentence.replace(str(path), "FILE").split(": got")[0])] += 1
                continue
            kind = f"{table.kind}: {fault.split(':')[0]}"
            faulty[kind] += 1
            examples.setdefault(kind, f"table {number} {table.style} {table.options}: {fault[:400]}")
            if given.keep is not None:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{number:06d} {table.kind.replace('/', '')}.csv").write_bytes(data)
    report = Report(given)
    report.columns({"kind": "<40", "must be": ">8", "tables": ">8", "right": ">8"})
    for kind, count in tables.items():
        report.row(kind, "read" if kind in READ else "refused", count, right[kind])
    for sentence_kind, count in sentences.most_common():
        report.line(f"{count:>8}  {sentence_kind}")
    for kind, count in faulty.items():
        report.line(f"FAULT {kind}: {count}, first {examples[kind]}")
    tracebacks = sum(count for kind, count in faulty.items() if kind.endswith("traceback"))
    must_be_read = sum(count for kind, count in tables.items() if kind in READ)
    report.line(
        f"{rows:,} rows in {tables.total():,} tables, {must_be_read:,} of them to be read; {right_rows:,} rows read and right, "
        f"{sentences.total():,} tables refused, {faulty.total():,} faults, {tracebacks} tracebacks"
    )
    report.close(
        {
            "rows": rows,
            "tables": tables.total(),
            "tables_to_be_read": must_be_read,
            "rows_read_and_right": right_rows,
            "tables_refused": sentences.total(),
            "tracebacks": tracebacks,
            "cpu_seconds": time.process_time() - started,
            "by_kind": {kind: {"tables": count, "right": right[kind]} for kind, count in tables.items()},
            "sentences": dict(sentences.most_common()),
            "faults": {kind: {"count": count, "first": examples[kind]} for kind, count in faulty.items()},
        }
    )
    return int(bool(faulty))


if __name__ == "__main__":
    raise SystemExit(main())
