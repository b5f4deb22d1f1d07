"""Files and folders as people leave them, which the doctor must find."""

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import image_files
from benchmarks.doctor.faults.base import Fault, Truth


def _rename(folder: Path, generator: np.random.Generator, *, share: float, suffix: str) -> Truth:
    """Gives a share of one class's training images a name that says nothing of an image."""
    classes = sorted({path.name for path in (folder / "train").iterdir() if path.is_dir()})
    files = image_files(folder / "train" / str(generator.choice(classes)))
    chosen = generator.permutation(len(files))[: max(1, round(share * len(files)))].tolist()
    for position in chosen:
        files[position].rename(files[position].with_name(files[position].name + suffix))
    return Truth(("not-read",), {"count": len(chosen)})


def _name_after_sites(folder: Path, _: np.random.Generator) -> Truth:
    """Gives the folders around the classes names that are no splits: they are then taken for the classes."""
    (folder / "train").rename(folder / "site a")
    (folder / "test").rename(folder / "site b")
    return Truth(("layout",), {"classes": ["site a", "site b"]})


FAULTS: tuple[Fault, ...] = (
    Fault("names that are no images' (30 % of a class)", 8, partial(_rename, share=0.3, suffix=".1")),
    Fault("folders of sites around the classes", 8, _name_after_sites),
)
