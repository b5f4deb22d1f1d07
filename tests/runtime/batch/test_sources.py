"""Files, folders, globs: which images they name, in which order."""

import os

import pytest

from edgeclf.runtime.batch.sources import image_paths
from edgeclf.runtime.errors import SourceError


def names(root, sources):
    return [path.relative_to(root).as_posix() for path in image_paths(sources)]


@pytest.fixture
def tree(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/deep/er/x.webp", "a/notes.txt", ".git/hidden.jpg", "c/.thumb.jpg", "z.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_are_walked_in_order_without_hidden_and_other_files(tree):
    assert names(tree, [tree]) == ["a/deep/er/x.webp", "b/1.JPG", "b/2.png", "z.bmp"]


def test_what_only_looks_like_an_image_is_listed_and_what_never_ends_is_not(tree):
    (tree / "folder.jpg").mkdir()
    (tree / "folder.jpg" / "inside.jpg").touch()
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe.jpg")
    found = names(tree, [tree])
    assert "folder.jpg" in found
    assert "gone.png" in found
    assert not {"folder.jpg/inside.jpg", "pipe.jpg"} & set(found)
    assert not any(name.startswith("loop/") for name in found)


def test_patterns_cross_folders_and_odd_names_are_files_first(tree):
    assert names(tree, [f"{tree}/**/*.png"]) == ["b/2.png"]
    assert names(tree, [f"{tree}/b/*"]) == ["b/1.JPG", "b/2.png"]
    (tree / "shot[1].jpg").touch()
    assert names(tree, [tree / "shot[1].jpg"]) == ["shot[1].jpg"]


def test_sources_keep_their_order_and_a_named_file_counts_whatever_it_is_called(tree):
    assert names(tree, [tree / "z.bmp", tree / "b", tree / "a/notes.txt"]) == [
        "z.bmp", "b/1.JPG", "b/2.png", "a/notes.txt",
    ]  # fmt: skip


@pytest.mark.parametrize("source", ["missing.jpg", "*.nothing", "c", "a/q*"])
def test_nothing_there_is_an_error(tree, source):
    with pytest.raises(SourceError, match=r"cannot find|no images"):
        image_paths([tree / source])
