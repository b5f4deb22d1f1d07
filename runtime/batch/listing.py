"""Files below folders: images by their names, files of other kinds, and what systems and programs leave behind."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgeclf.runtime.errors import install_hint
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.images.formats.heif import HEIF_SUFFIXES
from edgeclf.runtime.images.preprocess import IMAGE_SUFFIXES

# Folders that archives, file servers and systems make, in lower case; those that begin with a dot are hidden anyway.
_LEFT_BEHIND_FOLDERS = frozenset(
    (
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
    )
)
_LEFT_BEHIND_FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"))
# What every run folder has from its first epoch on; the images in it are drawings.
_OF_A_RUN = frozenset(("run.json", "split.csv"))
# What is longer is the end of a name that has a full stop in it.
_LONGEST_SUFFIX = 9
_OF_IMAGE = re.compile(r"(\.[a-z]+)[^a-z].{0,12}")
# Kinds that are named in a sentence; the rest is one number.
_MOST_KINDS = 6


def looks_like_image(path: Path) -> bool:
    """Whether the name ends as an image file's does."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_left_behind(name: str) -> bool:
    """Whether a name is hidden, or one that an archive, a file server or a system gives its own files and folders."""
    lower = name.lower()
    return name.startswith(".") or lower in _LEFT_BEHIND_FOLDERS or lower in _LEFT_BEHIND_FILES


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is one that `edgeclf train` wrote."""
    return all(kind_of(folder / name) == "file" for name in _OF_A_RUN)


def walk(folder: Path) -> list[Path]:
    """The files below a folder, sorted; see `walk_all`."""
    return walk_all([folder])[folder]


def walk_all(folders: Sequence[Path], within: Path | None = None) -> dict[Path, list[Path]]:
    """The files below each of several folders, sorted.

    Hidden entries, what systems leave behind (`is_left_behind`) and run folders below are passed over. Folders named
    like an image are given instead of entered, and so are folders that may not be listed, those of `folders` included.
    A link to a folder is followed unless that folder is among those entered already, be it through another link: each is
    entered once, real ones before linked ones, so that loops end and no file is found twice. Pipes, sockets and devices
    are passed over: reading one that nobody asked for by name may never end.

    Args:
        folders: The folders, none inside another.
        within: A folder that links do not lead back to; None for none.
    """
    walker = _Walker()
    if within is not None:
        walker.enter(within)
    for folder in sorted(folders, key=_is_reached_by_link):
        # Two names for one folder have its files once.
        if walker.enter(folder):
            walker.list_folder(folder, folder, is_linked=_is_reached_by_link(folder))
    while walker.links:
        top, link = walker.links.pop(0)
        if walker.enter(link):
            walker.list_folder(top, link, is_linked=True)
    return {folder: sorted(walker.found.get(folder, ())) for folder in folders}


class _Walker:
    """The folders that have been entered, what was found below each of the first ones, and the links that are left."""

    def __init__(self) -> None:
        self.found: dict[Path, list[Path]] = {}
        self.links: list[tuple[Path, Path]] = []
        self._entered: set[tuple[int, int]] = set()

    def enter(self, folder: Path) -> bool:
        """Whether a folder has not been entered before; it has from now on."""
        try:
            status = folder.stat()
        except (OSError, ValueError):
            # What may not be looked at is told by listing it.
            return True
        if not status.st_ino:
            # A file system without numbers, where a loop of links could not be told.
            return not _is_link(folder)
        place = status.st_dev, status.st_ino
        is_new = place not in self._entered
        self._entered.add(place)
        return is_new

    def list_folder(self, top: Path, folder: Path, *, is_linked: bool = False) -> None:
        """Lists a folder and the real folders below it, those of a linked one unless they have been entered."""
        found = self.found.setdefault(top, [])
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            found.append(folder)
            return
        if folder != top and {entry.name for entry in entries} >= _OF_A_RUN:
            return
        for entry in entries:
            if is_left_behind(entry.name):
                continue
            kind = kind_of(entry)
            if kind == "folder" and not looks_like_image(entry):
                if _is_link(entry):
                    self.links.append((top, entry))
                elif self.enter(entry) or not is_linked:
                    self.list_folder(top, entry, is_linked=is_linked)
            elif kind != "other":
                found.append(entry)


def _is_reached_by_link(path: Path) -> bool:
    return os.path.realpath(path) != os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps `..`


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114 - Path.is_symlink raises for some impossible names


def name_kind(path: Path) -> str:
    """The kind of a file by its name: its suffix in lower case, `.jpg.1` where that follows an image's, or `no suffix`.

    What programs put behind the suffix of an image counts as one, as in `.jpg~` and `.jpg_original`.
    """
    odd = _OF_IMAGE.fullmatch(path.suffix.lower())
    if odd is not None and odd[1] in IMAGE_SUFFIXES:
        return path.suffix.lower()
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix[1:].isalnum() and len(suffix) <= _LONGEST_SUFFIX]
    for position, suffix in enumerate(suffixes[:-1]):
        if suffix in IMAGE_SUFFIXES:
            return "".join(suffixes[position:])
    return suffixes[-1] if suffixes else "no suffix"


def count_kinds(paths: Iterable[Path], read: frozenset[str] = IMAGE_SUFFIXES) -> dict[str, int]:
    """The number of files of each kind that is not read, the most frequent first.

    Args:
        paths: Files as `walk` gives them.
        read: Suffixes that are read.
    """
    others = (path for path in paths if path.suffix.lower() not in read and kind_of(path) != "folder")
    return dict(Counter(map(name_kind, others)).most_common())


def unread_sentence(counts: Mapping[str, int], where: str) -> str | None:
    """One sentence that counts files that are not read, by kind; None where there are none.

    Args:
        counts: As `count_kinds` gives them.
        where: What they lie in, for the sentence.
    """
    total = sum(counts.values())
    if not total:
        return None
    named = list(counts.items())[:_MOST_KINDS]
    texts = [f"{count:,} {kind}" for kind, count in named]
    if rest := total - sum(count for _, count in named):
        texts.append(f"{rest:,} others")
    sentence = f"{total:,} file{'s' if total > 1 else ''} in {where} {'are' if total > 1 else 'is'} not read: {', '.join(texts)}"
    # Of telephones: they are read where the packages are installed, and then not counted.
    return sentence + "; " + install_hint("heif") + " for HEIC and AVIF" if HEIF_SUFFIXES & counts.keys() else sentence
