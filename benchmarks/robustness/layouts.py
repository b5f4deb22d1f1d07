"""Reads folder layouts drawn at random with the data set that they mean: found, refused with one sentence, wrong, tracebacks.

    python benchmarks/robustness/layouts.py [--count 2000] [--seed 0] [--keep FOLDER] [--quick] [--json]

Class folders, and parts under the names that people give them (`TRAINING_SET`, `seg_train/seg_train`, `dev`, `test images`), with
images nested at will, names in both of Unicode's spellings, links to folders here and elsewhere, loops of links, what systems and
archives leave behind, run folders, pipes, loose images and files that are not read. Seven in ten must be read: path, label and
split of every image must be those that were drawn, and the files that are not read must be counted. The rest must be
refused: images beside annotations, numbered parts, two of one part, parts beside other folders, no image, empty classes, names that
differ in case alone, parts of other classes, control characters in names, two names for one folder.

Exit code 1 where a layout is read as another data set, refused though it must be read, read though it must be refused, or refused with
anything but one sentence. `--keep` moves these there.
"""

import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, working_folder
from benchmarks.robustness.drawn_layouts import READ, Layout, draw_layout
from benchmarks.robustness.outcomes import Outcomes

if TYPE_CHECKING:
    from edgeclf.training.data.dataset import Dataset

_SENTENCE = re.compile(r"[^\n]+\.")


def read(layout: Layout) -> tuple["Dataset | None", str | None, str | None]:
    """What a layout is read as; else the sentence; else what is no sentence."""
    from edgeclf.runtime.errors import EdgeclfError
    from edgeclf.training.data.discovery import discover_dataset

    try:
        return discover_dataset(layout.root), None, None
    except EdgeclfError as error:
        return None, str(error), None
    except Exception as error:  # noqa: BLE001 - anything else is what is looked for
        return None, None, repr(error)


def judge(layout: Layout, dataset: "Dataset | None", sentence: str | None, escaped: str | None) -> str | None:
    """What is wrong with what a layout is read as; None where nothing is."""
    if escaped is not None:
        return f"traceback: {escaped}"
    if sentence is not None and not _SENTENCE.fullmatch(sentence):
        return f"no sentence: {sentence!r}"
    if dataset is None or layout.meant is None:
        is_meant = (dataset is None) == (layout.meant is None)
        return None if is_meant else f"refused: {sentence}" if dataset is None else "read"
    got = [(sample.path, sample.label, sample.split or "") for sample in dataset.samples]
    counted = sum(dataset.not_read.values())
    if sorted(got) != sorted(layout.meant):
        odd = sorted({*got} ^ layout.meant)
        return f"another data set: {odd[:3]} in one of them only, {len(got)} images"
    return None if counted == layout.not_read else f"not read is miscounted: {counted}, not {layout.not_read}"


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"count": 120})
    arguments.add_argument("--count", type=int, default=2_000, help="layouts (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="the same seed draws the same layouts (default: 0)")
    arguments.add_argument("--keep", type=Path, help="folder for layouts with a fault")
    given = arguments.parse()
    rng = np.random.default_rng(given.seed)
    outcomes, images = Outcomes("layouts", READ), 0
    started = time.process_time()
    with working_folder() as folder:
        for number in range(given.count):
            place = folder / f"{number:05d}"
            place.mkdir()
            layout = draw_layout(place / "data", rng)
            dataset, sentence, escaped = read(layout)
            fault = judge(layout, dataset, sentence, escaped)
            outcomes.add(
                layout.kind,
                fault,
                None if sentence is None else sentence.replace(str(layout.root), "FOLDER"),
                f"layout {number} with {', '.join(layout.touches) or 'nothing else'}",
            )
            if fault is None:
                images += len(layout.meant or ())
            elif given.keep is not None:
                given.keep.mkdir(parents=True, exist_ok=True)
                shutil.move(place, given.keep / place.name)
            shutil.rmtree(place, ignore_errors=True)
    report = Report(given)
    outcomes.print(report)
    found, refused, wrong = outcomes.of_read(outcomes.right), outcomes.sentences.total(), outcomes.faulty.total()
    report.line(
        f"{given.count:,} layouts: {found:,} read and right ({images:,} images), {refused:,} refused, "
        f"{wrong:,} faults, {outcomes.tracebacks} tracebacks"
    )
    report.close(
        {
            "layouts": given.count,
            "read_and_right": found,
            "images": images,
            "refused": refused,
            "wrong": wrong,
            "cpu_seconds": time.process_time() - started,
            **outcomes.to_json(),
        }
    )
    return int(bool(outcomes.faulty))


if __name__ == "__main__":
    raise SystemExit(main())
