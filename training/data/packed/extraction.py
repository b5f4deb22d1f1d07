"""Extraction of a packed data set's images into files of the cache, once for each content, where all else reads them.

`images-KEY` holds the files, `images-KEY.json` lists them in the order of the rows and says that they are whole, and
`images-KEY.lock` is locked: exclusively while images are extracted, shared as long as a process that uses them runs. The key is a
digest of the packed files, so that images which the cache has removed come back to the same place, and of two commands
at once the second waits. An extraction that was cut off has no list, and is begun again.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgeclf.export.cache_folder import LOCK_EXCLUSIVE, LOCK_SHARED, CacheFolder, open_locked
from edgeclf.runtime.batch.file_digests import digest_files
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.files import output_error
from edgeclf.runtime.images.header import read_image_header
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec.json_documents import read_json
from edgeclf.training.data.packed.rows import count_rows, read_images
from edgeclf.training.data.packed.shards import Shard

_FORMAT = "edgeclf-images-1"
_FOLDER = re.compile(r"images-[0-9a-f]{32}")
_SUFFIXES = {
    "jpeg": ".jpg", "png": ".png", "webp": ".webp", "gif": ".gif", "bmp": ".bmp", "tiff": ".tif", "pnm": ".pnm", "heif": ".heic",
}  # fmt: skip
# Of the name that a row gives its image, what a file's name may have.
_ODD = re.compile(r"[^\w.-]+")
_MOST_CHARACTERS = 40
# Locks of images that this process uses, by folder; the system lets go of them when it ends.
_held: dict[Path, int] = {}


def is_extracted(root: Path) -> bool:
    """Whether a path is, or was, a folder of extracted images."""
    return _FOLDER.fullmatch(root.name) is not None


def extract_images(
    shards: Sequence[Shard], column: str, folder: CacheFolder, progress: Progress
) -> tuple[Path, list[str]]:
    """Extracts the images of a packed data set, or finds them extracted; they stay while this process runs.

    Args:
        shards: The packed files.
        column: Name of the column of images.
        folder: The cache.
        progress: Receives the numbers of files read and of images extracted.

    Returns:
        The folder with the images, and the path of each row's image in it; a row without an image has an empty file.

    Raises:
        DatasetError: A file cannot be read, or names images that are not there.
        OutputError: The cache cannot be written, for example because the disk is full.
    """
    root = images_folder(shards, column, folder, progress)
    try:
        while True:
            _hold(root)
            if (paths := _listed(root)) is not None:
                return root, paths
            _let_go(root)
            _extract_locked(root, shards, column, folder, progress)
    except OSError as error:
        raise output_error(root, error) from error


def hold_images(root: Path) -> bool:
    """Keeps extracted images from being removed while this process runs; False where they are gone.

    Args:
        root: A path for which `is_extracted` holds.
    """
    if _listed(root) is None:
        return False
    try:
        _hold(root)
    except OSError:
        # A cache that cannot be written is not removed from either.
        return root.is_dir()
    return _listed(root) is not None


def images_folder(shards: Sequence[Shard], column: str, folder: CacheFolder, progress: Progress = no_progress) -> Path:
    """Where the images of packed files are, or would be, extracted to: named by the content of the files.

    Args:
        shards: The packed files.
        column: Name of the column of images.
        folder: The cache.
        progress: Receives the number of files read.

    Raises:
        DatasetError: A file cannot be read.
        OutputError: The cache cannot be written.
    """
    folder.make()
    files = digest_files([shard.path for shard in shards], folder.digests_path, usable_cpus(), progress)
    digest = hashlib.blake2b(f"{_FORMAT}\n{column}\n".encode(), digest_size=16)
    for shard, file in zip(shards, files, strict=True):
        if file.digest is None:
            raise DatasetError(
                f"cannot read {shard.path}",
                got="no such file, or one that may not be read",
                expected="a file of the data set",
                hint="check the path and its permissions",
            )
        digest.update(f"{shard.name}\n{file.digest}\n".encode("utf-8", "surrogateescape"))
    return folder.path.resolve() / f"images-{digest.hexdigest()}"


def _list_path(root: Path) -> Path:
    return root.with_name(f"{root.name}.json")


def _listed(root: Path) -> list[str] | None:
    """Paths of images that are whole; None where they are not."""
    try:
        if not root.is_dir():
            return None
        paths: list[str] | None = read_json(_list_path(root), {"images": [Path]}).get("images")
    except (OSError, ValueError):
        return None
    return paths


def _hold(root: Path) -> None:
    """Keeps a folder of images from being removed as long as this process runs."""
    if root not in _held:
        _held[root] = _locked(root, LOCK_SHARED)
    # The time of the last use is what removal goes by.
    os.utime(_held[root])


def _let_go(root: Path) -> None:
    os.close(_held.pop(root))


def _locked(root: Path, kind: int) -> int:
    """The lock file of a folder of images, opened and locked, as it now lies there."""
    return open_locked(root.with_name(f"{root.name}.lock"), kind)


def _extract_locked(root: Path, shards: Sequence[Shard], column: str, folder: CacheFolder, progress: Progress) -> None:
    descriptor = _locked(root, LOCK_EXCLUSIVE)
    try:
        # Another process may have extracted them while this one waited.
        if _listed(root) is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(root)
        folder.make_room(sum(shard.path.stat().st_size for shard in shards))
        try:
            paths = _extract_all(root, shards, column, progress)
        except BaseException:
            # A full disk is not left full of what is of no use.
            shutil.rmtree(root, ignore_errors=True)
            raise
        unfinished = root / "list.part"
        unfinished.write_text(json.dumps({"images": paths}), encoding="utf-8")
        unfinished.replace(_list_path(root))
    finally:
        os.close(descriptor)


def _extract_all(root: Path, shards: Sequence[Shard], column: str, progress: Progress) -> list[str]:
    total = sum(count_rows(shard) for shard in shards)
    paths: list[str] = []
    for shard in shards:
        (root / shard.name).mkdir(parents=True, exist_ok=True)
        for number, (data, name) in enumerate(read_images(shard, column)):
            path = f"{shard.name}/{_file_name(number, data, name)}"
            (root / path).write_bytes(data)
            paths.append(path)
            progress(f"extract: {shard.path.name}", len(paths), total)
    return paths


def _file_name(number: int, data: bytes, name: str | None) -> str:
    """The number of the row, with what the row calls its image, by which a person knows it."""
    header = read_image_header(data)
    stem = _ODD.sub("_", re.split(r"[\\/]", name or "")[-1].rpartition(".")[0])[:_MOST_CHARACTERS]
    return f"{number:06d}{'-' if stem else ''}{stem}{_SUFFIXES.get(header.format, '.jpg') if header else '.jpg'}"
