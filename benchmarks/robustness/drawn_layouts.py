"""Folders of images as people have them, drawn at random with the data set that they mean: for `layouts.py`."""

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_FILLERS = (
    "set",
    "data",
    "dataset",
    "images",
    "img",
    "photos",
    "pictures",
    "seg",
    "folder",
    "split",
    "samples",
    "files",
)
_LABELS = (
    *(
        "cat",
        "dog",
        "Cardigan",
        "new folder",
        "0",
        "10",
        "n02085620",
        "unknown",
        "naïve",
        "Žába",
        "猫",
        "🐈",
        "a.b",
        "x_y",
    ),
    *(
        "no mask",
        "mask",
        "class (1)",
        "-dash",
        "100%",
        "C#",
        "label",
        "bus",
        "ümlaut",
        "it's",
        "é",
        "images of cats",
        "b&w",
    ),
)
_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".png", ".bmp", ".webp", ".tiff", ".gif", ".ppm", ".jfif")
_UNREAD = (
    "notes.txt",
    "a.json",
    "b.xml",
    "clip.mp4",
    "c.jpg.1",
    "no suffix",
    "d.jpg~",
    "photo.cr2",
    "e.psd",
    "labels.csv",
)
_LEFT_BEHIND = ("Thumbs.db", "desktop.ini", ".DS_Store", "._photo.jpg", ".hidden.png", "ehthumbs.db", ".directory")
_LEFT_BEHIND_FOLDERS = ("__MACOSX", "@eaDir", ".git", ".ipynb_checkpoints", "$RECYCLE.BIN", ".thumbnails", "lost+found")


@dataclass
class Layout:
    """A data set on disk with what it means.

    Attributes:
        kind: What is special about it.
        root: Its folder.
        meant: Path, label and split (empty for none) of each image; None where it must be refused.
        not_read: Number of files that must be counted as not read, loose images included.
        touches: What lies in it beside the images, for the record.
    """

    kind: str
    root: Path
    meant: set[tuple[str, str, str]] | None = field(default_factory=set)
    not_read: int = 0
    touches: list[str] = field(default_factory=list)


def _one(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _split_name(split: str, rng: np.random.Generator) -> str:
    words = [_one(_WORDS[split], rng)]
    if rng.random() < 0.5:
        words.insert(int(rng.integers(2)), _one(_FILLERS, rng))
    if rng.random() < 0.2:
        return "".join(word.title() for word in words)
    name = _one(("_", "-", " ", ""), rng).join(words)
    return _one((name, name, name.upper(), name.title()), rng)


def _labels(rng: np.random.Generator, count: int | None = None) -> list[str]:
    return [_LABELS[place] for place in rng.permutation(len(_LABELS))[: count or int(rng.integers(2, 6))]]


def _fill(layout: Layout, folder: Path, label: str, split: str, rng: np.random.Generator) -> None:
    """Images in a class folder, some of them in folders inside."""
    for number in range(int(rng.integers(1, 7))):
        inside = _one(("", "", "", "day 1", "a/b", "2024"), rng)
        path = _touch(folder / inside / f"{number}{_one(_SUFFIXES, rng)}")
        if layout.meant is not None:
            layout.meant.add((path.relative_to(layout.root).as_posix(), unicodedata.normalize("NFC", label), split))


def _spelled(label: str, rng: np.random.Generator) -> str:
    return unicodedata.normalize("NFD", label) if rng.random() < 0.3 else label


def _classes(layout: Layout, top: Path, labels: Sequence[str], split: str, rng: np.random.Generator) -> list[Path]:
    folders = []
    for label in labels:
        folder = top / _spelled(label, rng)
        _fill(layout, folder, label, split, rng)
        folders.append(folder)
    return folders


def _flat(layout: Layout, rng: np.random.Generator) -> list[Path]:
    labels = _labels(rng)
    if rng.random() < 0.1:
        # A vehicle.
        labels.append("train")
    return _classes(layout, layout.root, labels, "", rng)


def _parts(layout: Layout, rng: np.random.Generator) -> list[Path]:
    labels, folders = _labels(rng), []
    for split in (("train", "test"), ("train", "val"), ("train", "val", "test"), ("train",))[int(rng.integers(4))]:
        name = _split_name(split, rng)
        top = layout.root / name / name if rng.random() < 0.15 else layout.root / name
        folders += _classes(layout, top, labels, split, rng)
    return folders


def _two_spellings(layout: Layout, rng: np.random.Generator) -> list[Path]:
    folders = _classes(layout, layout.root, ["cat", "dog"], "", rng)
    for number, form in enumerate(("NFC", "NFD")):
        folder = layout.root / unicodedata.normalize(form, "naïve")  # type: ignore[arg-type] # one of the forms
        path = _touch(folder / f"{number}.jpg")
        assert layout.meant is not None
        layout.meant.add((path.relative_to(layout.root).as_posix(), "naïve", ""))
        folders.append(folder)
    return folders


def _linked_class(layout: Layout, rng: np.random.Generator) -> list[Path]:
    """Class folders that are links to folders elsewhere, as DVC, git-annex and scripts make them."""
    folders = _classes(layout, layout.root, ["cat", "dog"], "", rng)
    elsewhere = layout.root.parent / f"{layout.root.name} elsewhere"
    for number in range(2):
        _touch(elsewhere / f"{number}.jpg")
        assert layout.meant is not None
        layout.meant.add((f"linked/{number}.jpg", "linked", ""))
    (layout.root / "linked").symlink_to(elsewhere, target_is_directory=True)
    return folders


READ: Mapping[str, Callable[[Layout, np.random.Generator], list[Path]]] = {
    "class folders": _flat,
    "parts": _parts,
    "one class spelled in two ways": _two_spellings,
    "a class folder that is a link": _linked_class,
}


def _annotations(layout: Layout, rng: np.random.Generator) -> None:
    for name in (_one(("images", "Images", "JPEGImages", "img"), rng), _one(("labels", "annotations", "masks"), rng)):
        for number in range(3):
            _touch(layout.root / name / f"{number}{'.png' if rng.random() < 0.5 else '.jpg'}")


def _numbered_parts(layout: Layout, rng: np.random.Generator) -> None:
    labels = _labels(rng)
    for name in (("train", "test1"), ("train2017", "val2017"), ("train_1", "test_1"))[int(rng.integers(3))]:
        _classes(layout, layout.root / name, labels, "", rng)


def _two_of_a_part(layout: Layout, rng: np.random.Generator) -> None:
    labels = _labels(rng)
    for name in ("train", "Training Set", "test"):
        _classes(layout, layout.root / name, labels, "", rng)


def _parts_and_classes(layout: Layout, rng: np.random.Generator) -> None:
    labels = _labels(rng)
    for name in ("train", "test", "more"):
        _classes(layout, layout.root / name, labels, "", rng)


def _no_train_part(layout: Layout, rng: np.random.Generator) -> None:
    labels = _labels(rng)
    for split in ("val", "test"):
        _classes(layout, layout.root / _split_name(split, rng), labels, "", rng)


def _empty_class(layout: Layout, rng: np.random.Generator) -> None:
    _classes(layout, layout.root, _labels(rng), "", rng)
    (layout.root / "nothing here").mkdir()
    if rng.random() < 0.5:
        _touch(layout.root / "nothing here" / _one(_UNREAD, rng))


def _one_class(layout: Layout, rng: np.random.Generator) -> None:
    _classes(layout, layout.root, _labels(rng, 1), "", rng)


def _loose_alone(layout: Layout, _rng: np.random.Generator) -> None:
    for number in range(3):
        _touch(layout.root / f"{number}.jpg")


def _nothing(layout: Layout, rng: np.random.Generator) -> None:
    layout.root.mkdir(exist_ok=True)
    if rng.random() < 0.5:
        _touch(layout.root / "cat" / "notes.txt")


def _case_alone(layout: Layout, rng: np.random.Generator) -> None:
    _classes(layout, layout.root, ["dog"], "", rng)
    for name in ("Cat", "cat"):
        _touch(layout.root / name / f"{name}.jpg")


def _other_classes(layout: Layout, rng: np.random.Generator) -> None:
    labels = _labels(rng, 4)
    _classes(layout, layout.root / "train", labels[:3], "", rng)
    _classes(layout, layout.root / "test", labels[1:], "", rng)


def _control_character(layout: Layout, rng: np.random.Generator) -> None:
    _classes(layout, layout.root, ["cat", "dog"], "", rng)
    _touch(layout.root / _one(("a\nb", "tab\there", "\x1b[31mred", "\x07"), rng) / "1.jpg")


def _two_names_of_a_folder(layout: Layout, rng: np.random.Generator) -> None:
    _classes(layout, layout.root, ["cat", "dog"], "", rng)
    (layout.root / "alias").symlink_to(layout.root / "cat", target_is_directory=True)


REFUSED: Mapping[str, Callable[[Layout, np.random.Generator], None]] = {
    "images with annotations": _annotations,
    "numbered parts": _numbered_parts,
    "two folders for one part": _two_of_a_part,
    "parts and another folder of images": _parts_and_classes,
    "no part to train on": _no_train_part,
    "a class without an image": _empty_class,
    "one class": _one_class,
    "images in no folder": _loose_alone,
    "no image": _nothing,
    "names that differ in case alone": _case_alone,
    "parts of other classes": _other_classes,
    "a control character in a name": _control_character,
    "two names for one folder": _two_names_of_a_folder,
}


# What may lie about in any folder, and means nothing.


def _left_behind(layout: Layout, folders: Sequence[Path], rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        _touch(folders[int(rng.integers(len(folders)))] / _one(_LEFT_BEHIND, rng))
    name = _one(_LEFT_BEHIND_FOLDERS, rng)
    place = layout.root if rng.random() < 0.5 else folders[0]
    _touch(place / name / "cat" / "1.jpg")
    _touch(place / name / "2.png")


def _unread(layout: Layout, folders: Sequence[Path], rng: np.random.Generator) -> None:
    for place in rng.permutation(len(_UNREAD))[: int(rng.integers(1, 5))]:
        _touch(folders[int(rng.integers(len(folders)))] / _UNREAD[place])
        layout.not_read += 1


def _loose(layout: Layout, folders: Sequence[Path], rng: np.random.Generator) -> None:
    # In the root, or in the folder of a part.
    place = layout.root if rng.random() < 0.5 else folders[0].parent
    _touch(place / f"loose{_one(_SUFFIXES, rng)}")
    layout.not_read += 1


def _run_inside(layout: Layout, folders: Sequence[Path], rng: np.random.Generator) -> None:
    place = (layout.root, layout.root / "my runs", folders[0])[int(rng.integers(3))] / "run 1"
    for name in ("run.json", "split.csv", "spec.json", "curves.png", "confusion.png"):
        _touch(place / name)


def _loop(layout: Layout, folders: Sequence[Path], rng: np.random.Generator) -> None:
    folder = folders[int(rng.integers(len(folders)))]
    (folder / "loop").symlink_to((folder, layout.root, folder.parent)[int(rng.integers(3))], target_is_directory=True)


def _link_to_class(_layout: Layout, folders: Sequence[Path], rng: np.random.Generator) -> None:
    target = folders[int(rng.integers(len(folders)))]
    (folders[0] / "same again").symlink_to(target, target_is_directory=True)


def _link_elsewhere(layout: Layout, folders: Sequence[Path], rng: np.random.Generator) -> None:
    """A link inside a class folder to images elsewhere: they belong to the class."""
    elsewhere = layout.root.parent / f"{layout.root.name} more"
    _touch(elsewhere / "m" / "1.jpg")
    folder = folders[int(rng.integers(len(folders)))]
    (folder / "more").symlink_to(elsewhere, target_is_directory=True)
    assert layout.meant is not None
    place = folder.relative_to(layout.root).as_posix()
    label, split = next((label, split) for path, label, split in layout.meant if path.startswith(f"{place}/"))
    layout.meant.add((f"{place}/more/m/1.jpg", label, split))


def _pipe(_layout: Layout, folders: Sequence[Path], _rng: np.random.Generator) -> None:
    os.mkfifo(folders[0] / "pipe.jpg")


def _dangling(_layout: Layout, folders: Sequence[Path], _rng: np.random.Generator) -> None:
    (folders[0] / ".lnk").symlink_to("/nowhere/at all")


def _empty_inside(_layout: Layout, folders: Sequence[Path], _rng: np.random.Generator) -> None:
    (folders[0] / "empty" / "too").mkdir(parents=True)


_TOUCHES: Mapping[str, Callable[[Layout, Sequence[Path], np.random.Generator], None]] = {
    "left behind": _left_behind,
    "unread": _unread,
    "loose": _loose,
    "run inside": _run_inside,
    "loop": _loop,
    "link to class": _link_to_class,
    "link elsewhere": _link_elsewhere,
    "pipe": _pipe,
    "hidden dangling link": _dangling,
    "empty inside": _empty_inside,
}


def draw_layout(root: Path, rng: np.random.Generator, share_read: float = 0.7) -> Layout:
    """Writes a layout drawn at random, with empty files for images; so many of them must be read."""
    if rng.random() >= share_read:
        kind = _one(list(REFUSED), rng)
        layout = Layout(kind, root, None)
        REFUSED[kind](layout, rng)
        return layout
    kind = _one(list(READ), rng)
    layout = Layout(kind, root)
    folders = READ[kind](layout, rng)
    for place in rng.permutation(len(_TOUCHES))[: int(rng.integers(0, 4))]:
        name = list(_TOUCHES)[place]
        _TOUCHES[name](layout, folders, rng)
        layout.touches.append(name)
    return layout
