"""Wrong labels that the doctor must find: training images moved to another class."""

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import image_files
from benchmarks.doctor.faults.base import Fault, Truth


def _flip(folder: Path, generator: np.random.Generator, *, share: float) -> Truth:
    """Moves a share of the training images into another class's folder."""
    trained = image_files(folder / "train")
    classes = sorted({path.parent.name for path in trained})
    moved: set[str] = set()
    for number, position in enumerate(sorted(generator.permutation(len(trained))[: round(share * len(trained))])):
        source = trained[position]
        other = str(generator.choice([name for name in classes if name != source.parent.name]))
        target = folder / "train" / other / f"moved-{number:04d}{source.suffix}"
        source.rename(target)
        moved.add(target.relative_to(folder).as_posix())
    return Truth(("label-noise",), {"kind": "suspects"}, items=frozenset(moved))


FAULTS: tuple[Fault, ...] = tuple(
    Fault(f"labels: {share:.0%} wrong", 2, partial(_flip, share=share)) for share in (0.02, 0.05, 0.1)
)
