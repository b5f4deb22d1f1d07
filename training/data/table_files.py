"""The files that the rows of a table name: relative to it, of another folder or system, ids without a suffix."""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from edgeclf.runtime.batch.listing import is_left_behind, looks_like_image
from edgeclf.runtime.errors import DatasetError, UsageError
from edgeclf.runtime.files import kind_of
from edgeclf.training.data.dataset import FACTS_NAME, SPLIT_NAME, Sample, read_run_facts

# Of what a row says, as much as an error shows.
MAX_WORDS = 80
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# How paths of a user's home begin.
_HOME = "~/"


@dataclass(frozen=True)
class TableOptions:
    """What a user says of a table.

    Attributes:
        path_column: Name of the column with the paths; None for `path`.
        label_column: Name of the column with the classes; None for `label`.
        image_folder: Folder that the paths are relative to, itself relative to the table's folder, or else to the current
            one; None for the table's folder.
        image_suffix: Suffix of the files where the table has bare ids, such as `.jpg`; None where it has whole names.
    """

    path_column: str | None = None
    label_column: str | None = None
    image_folder: str | None = None
    image_suffix: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """The options that are given, by flag."""
        flags = {
            "--path-column": self.path_column,
            "--label-column": self.label_column,
            "--image-folder": self.image_folder,
            "--image-suffix": self.image_suffix,
        }
        return {flag: value for flag, value in flags.items() if value is not None}


def table_root(path: Path) -> Path:
    """The folder that a table's paths are relative to: its own, or of a run's split that of the images it was made from.

    Raises:
        DatasetError: It is the split of a run whose images are not there.
    """
    if path.name != SPLIT_NAME or not (path.parent / FACTS_NAME).is_file():
        return path.parent
    try:
        root = Path(read_run_facts(path.parent)["data_root"])
    except (OSError, ValueError):
        return path.parent
    if kind_of(root) != "folder":
        raise DatasetError(
            f"cannot find the images of {path}",
            got=f"no folder {root}",
            expected="the folder that the run was trained on",
            hint=f"copy {path.name} into the folder where they are now, and name that copy",
        )
    return root


class TableFiles:
    """Paths of files as a table's rows name them.

    Args:
        table: The table.
        options: What the user says of it.

    Raises:
        UsageError: The folder of the images is not there.
        DatasetError: It is the split of a run whose images are not there.
    """

    def __init__(self, table: Path, options: TableOptions) -> None:
        self._table = table
        self._root = table_root(table)
        self._absolute_roots = (self._root.absolute(), self._root.resolve())
        self._folder = "" if options.image_folder is None else self._found_folder(options.image_folder)
        self._options = options
        suffix = options.image_suffix or ""
        self._suffix = suffix if not suffix or suffix.startswith(".") else f".{suffix}"

    def _found_folder(self, given: str) -> str:
        for folder in (self._root / given, Path(given).absolute()):
            if kind_of(folder) == "folder":
                is_below = folder.is_relative_to(self._root)
                return folder.relative_to(self._root).as_posix() if is_below else folder.absolute().as_posix()
        raise UsageError(
            "cannot find the folder of the images",
            got=f"--image-folder {given}",
            expected=f"a folder in {self._root} or in the current one",
            hint="check the path",
        )

    def path_of(self, name: str, line: int) -> str:
        """The path of a row's image, with forward slashes: one for each file, relative to the root where it lies below."""
        if _ADDRESS.match(name):
            raise DatasetError(
                f"{self._table} line {line} names an address, not a file",
                got=name[:MAX_WORDS],
                expected="paths relative to the CSV",
                hint="remove file:// from the paths"
                if name.lower().startswith("file:")
                else "download the images first",
            )
        if name.startswith(_HOME) or "\\" in name or _WINDOWS_ABSOLUTE.match(name):
            name = self._of_another_system(name, line)
        if self._suffix and not name.lower().endswith(self._suffix.lower()):
            name += self._suffix
        return self._one_name(Path(self._folder) / name)

    def _of_another_system(self, name: str, line: int) -> str:
        """A name with backslashes, a drive or a user's home as it is meant here, unless there is a file of that very name."""
        if kind_of(self._root / self._folder / name) is None:
            if _WINDOWS_ABSOLUTE.match(name) or name.startswith(_HOME):
                raise DatasetError(
                    f"{self._table} line {line} has a path of another computer",
                    got=name[:MAX_WORDS],
                    expected="paths relative to the CSV",
                    hint="remove the beginning that all paths share, and put the CSV there",
                )
            name = name.replace("\\", "/")
        return name

    def _one_name(self, path: Path) -> str:
        """One of the names that a file has: spelled as the file system has it, and short."""
        text = path.as_posix()
        if not text.isascii() and kind_of(self._root / text) is None:
            # Written by another system: macOS has accents as characters of their own.
            forms = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
            text = next((form for form in forms if kind_of(self._root / form) is not None), text)
        if ".." in path.parts:
            short = os.path.normpath(text)
            # Not where a link lies between.
            is_same = os.path.realpath(self._root / short) == os.path.realpath(self._root / text)
            text = Path(short).as_posix() if is_same else text
        named = Path(text)
        roots = [root for root in self._absolute_roots if named.is_absolute() and named.is_relative_to(root)]
        return named.relative_to(roots[0]).as_posix() if roots else text

    def check_first(self, sample: Sample) -> None:
        """Refuses names of files that are not there where it can be told which options would find them.

        Raises:
            DatasetError: They lie in a folder beside the table, or have a suffix.
        """
        given, named = self._options, Path(sample.path)
        if given.image_folder or given.image_suffix or named.is_absolute() or ".." in named.parts:
            return
        if kind_of(self._root / named) is not None:
            return
        place = next(
            (
                found
                for folder in (self._root, *_folders_beside(self._root))
                if (found := _image_named(folder / named)) is not None
            ),
            None,
        )
        if place is None:
            if not looks_like_image(named):
                raise DatasetError(
                    f"the images of {self._table} are not there",
                    got=f"{sample.path!r}, which is no file name",
                    expected="paths relative to the CSV",
                    hint="pass --image-folder and --image-suffix where it has ids",
                )
            return
        words = []
        inside = place.relative_to(self._root).parts
        if len(inside) > len(named.parts):
            words.append(f"--image-folder {inside[0]}")
        if place.name != named.name:
            words.append(f"--image-suffix {place.suffix}")
        raise DatasetError(
            f"the images of {self._table} lie elsewhere",
            got=f"no {sample.path}",
            expected=f"what is in {place}",
            hint=f"pass {' '.join(words)}",
        )


def _folders_beside(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not is_left_behind(path.name))
    except OSError:
        return []


def _image_named(path: Path) -> Path | None:
    """The file of a path, with or without a suffix of an image; None where there is none."""
    if kind_of(path) == "file":
        return path
    try:
        with_suffix = sorted(path.parent.glob(f"{_literal(path.name)}.*"))
    except (OSError, ValueError):
        return None
    return next((found for found in with_suffix if looks_like_image(found) and found.stem == path.name), None)


def _literal(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)
