"""Class imbalance that the doctor must find."""

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import image_files
from benchmarks.doctor.faults.base import Fault, Truth


def _thin_out(folder: Path, generator: np.random.Generator, *, ratio: float) -> Truth:
    """Removes images of one class, in every split, until another has `ratio` times as many."""
    classes = sorted({path.name for path in (folder / "train").iterdir() if path.is_dir()})
    rare = str(generator.choice(classes))
    for split in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = {label: image_files(split / label) for label in classes}
        most = max(len(paths) for label, paths in files.items() if label != rare)
        kept = max(1, int(most / ratio))
        for position in generator.permutation(len(files[rare]))[kept:].tolist():
            files[rare][position].unlink()
    return Truth(("imbalance",), {"rarest": rare})


FAULTS: tuple[Fault, ...] = tuple(
    Fault(f"imbalance {ratio:g}:1", 6, partial(_thin_out, ratio=ratio)) for ratio in (5.0, 10.0, 30.0)
)
