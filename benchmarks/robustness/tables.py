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
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, working_folder
from benchmarks.robustness.drawn_tables import FILES, READ, Row, Table, draw_table
from benchmarks.robustness.outcomes import Outcomes

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
    from edgeclf.training.data.table_files import TableOptions

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
    outcomes, rows, right_rows = Outcomes("tables", READ), 0, 0
    started = time.process_time()
    with working_folder() as folder:
        write_images(folder)
        while rows < given.rows:
            table = draw_table(rng)
            number, path = outcomes.drawn.total(), folder / "table.csv"
            data = table.encoded()
            path.write_bytes(data)
            got, sentence, escaped = read(path, table)
            fault = judge(table, got, sentence, escaped)
            words = None if sentence is None else re.sub(r"\d+", "#", sentence.replace(str(path), "FILE"))
            outcomes.add(table.kind, fault, words, f"table {number} {table.style} {table.options}")
            rows += len(table.rows)
            if fault is None:
                right_rows += len(got or ())
            elif given.keep is not None:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{number:06d} {table.kind.replace('/', '')}.csv").write_bytes(data)
    report = Report(given)
    outcomes.print(report)
    count, must_be_read, refused = outcomes.drawn.total(), outcomes.of_read(outcomes.drawn), outcomes.sentences.total()
    report.line(
        f"{rows:,} rows in {count:,} tables, {must_be_read:,} of them to be read; {right_rows:,} rows read and right, "
        f"{refused:,} tables refused, {outcomes.faulty.total():,} faults, {outcomes.tracebacks} tracebacks"
    )
    report.close(
        {
            "rows": rows,
            "tables": count,
            "tables_to_be_read": must_be_read,
            "rows_read_and_right": right_rows,
            "tables_refused": refused,
            "cpu_seconds": time.process_time() - started,
            **outcomes.to_json(),
        }
    )
    return int(bool(outcomes.faulty))


if __name__ == "__main__":
    raise SystemExit(main())
