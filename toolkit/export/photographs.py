"""Photographs of the user for the export of a model that others made: found, divided by content, preprocessed."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.source.division import MOST_CHOOSING, Division, SplitName, divide_by_content
from edgeclf.export.source.images import ExportImages
from edgeclf.runtime.batch.file_digests import digest_files
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import ModelSpec
from edgeclf.toolkit.datasets.evaluation_set import ImageFiles, find_image_files
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.seen_images import images_of_record, record_images
from edgeclf.training.run.export_inputs import export_images

if TYPE_CHECKING:
    from edgeclf.training.data.seen_images import SeenImages
    from edgeclf.training.data.table_files import TableOptions

# With fewer nothing can be said of the file.
_FEWEST = 10
# Files of each split that are read whole, at most: more are drawn from by their size and first bytes.
_MOST_READ = 2 * MOST_CHOOSING
_HEAD_BYTES = 4096
# Where a file that cannot be read stands until reading it says why.
_UNREADABLE: SplitName = "test"


@dataclass(frozen=True, eq=False)
class Photographs:
    """The photographs of the user, divided, and preprocessed as the model takes them.

    Attributes:
        images: The images.
        given: Number of image files that there are.
        copies: Of those that were looked at, the number left out because another has the same content.
        are_labelled: Whether their classes are known.
        with_calibration: Whether those that calibrate were read.
    """

    images: ExportImages
    given: int
    copies: int
    are_labelled: bool
    with_calibration: bool

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        return {
            "given": self.given,
            "copies": self.copies,
            "labelled": self.are_labelled,
            "calibration": self.images.training_count,
            "validation": len(self.images.validation),
            "test": len(self.images.test or ()),
        }

    def sentence(self) -> str:
        """What is done with them, in one sentence."""
        counts = self.to_json()
        uses = [
            f"{counts['calibration']} calibrate" if self.with_calibration else "",
            f"{counts['validation']} decide",
            f"{counts['test']} are only reported" if counts["test"] else "",
        ]
        copies = f", {self.copies} are copies of others" if self.copies else ""
        return f"of {self.given} images {', '.join(use for use in uses if use)}{copies}: divided by their content"


def load_photographs(
    data: Path,
    spec: ModelSpec,
    *,
    precision: str,
    calibration_images: int,
    table: "TableOptions | None" = None,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> Photographs:
    """Finds, divides and preprocesses the photographs of the user.

    Args:
        data: A folder of class folders, with or without `train/`, `val/` and `test/`; a CSV; or any folder of images,
            whose classes are then not known.
        spec: Labels and preprocessing of the model, and which images trained it where that is known.
        precision: The precision of the export: an int8 file is calibrated.
        calibration_images: Images to calibrate on, if there are enough.
        table: What the user says of a CSV; None for nothing.
        cache_folder: Where digests and preprocessed images are kept; None takes the default.
        progress: Called with the number of files read and decoded.

    Raises:
        DatasetError: The data set is unusable, has classes that the model does not know, or too few images.
        SourceError: There is no image.
        InputError: None of the files is a readable image.
        OutputError: The cache cannot be written.
    """
    found = find_image_files(data, spec.labels, need_labels=False, table=table)
    files = _sample(found)
    digests = _digests(files.paths, cache_folder, progress)
    seen = None if spec.seen_images is None else images_of_record(spec.seen_images)
    readable = [row for row, digest in enumerate(digests) if digest is not None]
    division = divide_by_content(
        [digests[row] or "" for row in readable],
        _known_splits(files, digests, readable, seen),
        calibration_images=calibration_images,
    )
    calibrates = precision == "int8"
    samples = _samples(files, digests, readable, division, spec.labels, calibrates=calibrates)
    judged = len(division.validation) + len(division.test)
    different = len(division.calibration) + judged
    # fp32 is exact or broken, which a single image shows.
    if not division.validation or (precision != "fp32" and different < _FEWEST):
        raise DatasetError(
            f"too few images in {data}",
            got=f"{different} different image{'' if different == 1 else 's'}",
            expected=f"at least {_FEWEST} for {precision}, hundreds for a verdict that means something",
            hint="add photographs of what the model will see",
        )
    images = export_images(
        samples,
        Path(),
        spec,
        are_labelled=found.true_indices is not None,
        cache_folder=cache_folder,
        progress=progress,
    )
    if not len(images.validation) or (calibrates and not images.training_count):
        raise DatasetError(
            f"too few images in {data} can be read",
            got=f"{len(images.unreadable)} unreadable files",
            expected="images that decide, and for int8 images to calibrate on",
            hint="add photographs of what the model will see",
        )
    if calibrates:
        images = replace(images, seen_images=record_images(samples, spec.seen_images))
    return Photographs(images, len(found.paths), division.copies, found.true_indices is not None, calibrates)


def _sample(found: ImageFiles) -> ImageFiles:
    """At most `_MOST_READ` files of each split, the same whatever they are called: drawn by their size and first bytes."""
    by_split: defaultdict[SplitName | None, list[int]] = defaultdict(list)
    for row, split in enumerate(found.splits):
        by_split[split].append(row)
    rows: list[int] = []
    for its in by_split.values():
        keys = {row: _head_key(found.paths[row]) for row in its} if len(its) > _MOST_READ else dict.fromkeys(its, "")
        rows.extend(sorted(its, key=lambda row: keys[row])[:_MOST_READ])
    rows.sort()
    true = found.true_indices
    return ImageFiles(
        tuple(found.paths[row] for row in rows),
        tuple(found.splits[row] for row in rows),
        None if true is None else tuple(true[row] for row in rows),
    )


def _head_key(path: Path) -> str:
    """A digest of a file's size and first bytes; one of nothing where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            digest.update(f"{path.stat().st_size}\0".encode())
            digest.update(file.read(_HEAD_BYTES))
    except OSError:
        pass
    return digest.hexdigest()


def _digests(paths: Sequence[Path], cache_folder: CacheFolder | None, progress: Progress) -> list[str | None]:
    from edgeclf.export.cache_folder import chosen_cache_folder

    folder = cache_folder or chosen_cache_folder()
    folder.make()
    return [file.digest for file in digest_files(paths, folder.digests_path, usable_cpus(), progress)]


def _known_splits(
    files: ImageFiles, digests: Sequence[str | None], rows: Sequence[int], seen: "SeenImages | None"
) -> list[SplitName | None]:
    """The split of each image: that of the model's training, where that is known, else the one that its folder names."""
    used = [None if seen is None else seen.split_of(digests[row], files.paths[row]) for row in rows]
    return [before or files.splits[row] for before, row in zip(used, rows, strict=True)]


def _samples(
    files: ImageFiles,
    digests: Sequence[str | None],
    readable: Sequence[int],
    division: Division,
    labels: Sequence[str],
    *,
    calibrates: bool,
) -> list[Sample]:
    """The images that are read, with the split of their use; those whose digest is missing too, so that they are reported."""
    uses: dict[int, SplitName] = {row: _UNREADABLE for row, digest in enumerate(digests) if digest is None}
    parts: tuple[tuple[SplitName, tuple[int, ...]], ...] = (
        ("train", division.calibration if calibrates else ()),
        ("val", division.validation),
        ("test", division.test),
    )
    uses |= {readable[position]: split for split, positions in parts for position in positions}
    true = files.true_indices
    return [
        Sample(
            str(files.paths[row].absolute()),
            "" if true is None else labels[true[row]],
            uses[row],
            digests[row],
        )
        for row in sorted(uses)
    ]
