"""Packed data sets as labelled image files: their images extracted into the cache, and their labels, splits and groups."""

from dataclasses import replace
from pathlib import Path

from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder
from edgeclf.runtime.errors import DatasetError, UsageError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.packed.extraction import extract_images, hold_images, images_folder, is_extracted
from edgeclf.training.data.packed.rows import find_columns, find_image_column, read_facts
from edgeclf.training.data.packed.shards import find_shards, is_packed_file, is_saved_dataset
from edgeclf.training.data.table_files import TableOptions


def is_packed(data: Path) -> bool:
    """Whether a path is a Parquet or Arrow file, or a folder that `save_to_disk` of `datasets` wrote."""
    return is_packed_file(data) or is_saved_dataset(data)


def read_packed(
    data: Path,
    options: TableOptions | None = None,
    group_by: str | None = None,
    *,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> tuple[Path, list[Sample]]:
    """Reads a packed data set; its images are extracted where they are not yet.

    Args:
        data: A path for which `is_packed` holds, or a folder of Parquet files.
        options: What the user says of a table, of which `path_column` is the column of images here; None for nothing.
        group_by: Name of the column with what each row belongs to; passed over where there is no such column.
        cache_folder: Where images are extracted to; None takes the default.
        progress: Receives the numbers of files read and of images extracted.

    Returns:
        The folder of the extracted images, and the samples, in the order of the rows.

    Raises:
        UsageError: `image_folder` or `image_suffix` is given, which are for tables of paths.
        DatasetError: A file cannot be read, columns cannot be told, or a row has no label.
        OutputError: The cache cannot be written.
        MissingPackageError: pyarrow is not installed.
        OSError: The folder cannot be listed.
    """
    options = options or TableOptions()
    for flag in ("--image-folder", "--image-suffix"):
        if flag in options.given:
            raise UsageError(f"{flag} is for a CSV", got=str(data), expected="a table of paths", hint="leave it out")
    shards = find_shards(data)
    image = find_image_column(shards, options.path_column)
    # Labels first: what can be refused is refused before images are written.
    facts = read_facts(shards, find_columns(shards, options.label_column, group_by))
    root, paths = extract_images(shards, image, cache_folder or chosen_cache_folder(), progress)
    if len(paths) != len(facts):
        raise DatasetError(
            f"{data} changed while it was read",
            got=f"{len(paths):,} images and {len(facts):,} labels",
            expected="one label for each image",
            hint="run the command again",
        )
    samples = [
        Sample(path, row.label, row.split, group=row.group or None) for path, row in zip(paths, facts, strict=True)
    ]
    return root, samples


def packed_root(
    data: Path, column: str | None, *, cache_folder: CacheFolder | None = None, progress: Progress = no_progress
) -> Path:
    """The folder of a packed data set's images, extracted where they are not yet.

    Args:
        data: As for `read_packed`.
        column: Name of the column of images; None finds it.
        cache_folder: As for `read_packed`.
        progress: As for `read_packed`.

    Raises:
        EdgeclfError: As for `read_packed`.
    """
    shards = find_shards(data)
    return extract_images(shards, find_image_column(shards, column), cache_folder or chosen_cache_folder(), progress)[0]


def restore_images(root: Path, source: Path | None, column: str | None = None) -> None:
    """Keeps the extracted images of a data set in the cache while this process runs, and extracts them again if they are gone.

    Where the packed files have changed or are not there, nothing is done.

    Args:
        root: Folder of the images as a run recorded it; nothing is done for any other folder.
        source: The packed data set as the run recorded it; None where it did not.
        column: The column of images that the training was given; None for none.

    Raises:
        OutputError: The cache cannot be written.
        MissingPackageError: Images are gone, and pyarrow is not installed.
    """
    if not is_extracted(root) or hold_images(root) or source is None or not source.exists():
        return
    try:
        shards = find_shards(source)
        if not shards:
            return
        image = find_image_column(shards, column)
        if images_folder(shards, image, CacheFolder(root.parent)) == root:
            extract_images(shards, image, replace(chosen_cache_folder(), path=root.parent), no_progress)
    except DatasetError:
        return
