"""Which files below folders are found, once each; what is passed over; what is counted."""

import os

import pytest

from edgeclf.runtime.batch.listing import count_kinds, is_left_behind, unread_sentence, walk, walk_all


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(root, folder=None):
    return [path.relative_to(root).as_posix() for path in walk(folder or root)]


def test_a_linked_folder_is_entered_once_and_real_folders_come_first(tmp_path):
    touch(tmp_path, "here/b/1.jpg", "there/deep/2.jpg")
    here = tmp_path / "here"
    (here / "a").symlink_to(here / "b")
    (here / "z1").symlink_to(tmp_path / "there")
    (here / "z2").symlink_to(tmp_path / "there" / "deep")
    assert names(here) == ["b/1.jpg", "z1/deep/2.jpg"]


def test_loops_of_links_end(tmp_path):
    touch(tmp_path, "one/1.jpg", "two/2.jpg")
    (tmp_path / "one" / "to").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "back").symlink_to(tmp_path / "one")
    (tmp_path / "two" / "self").symlink_to(tmp_path / "two")
    (tmp_path / "one" / "up").symlink_to(tmp_path)
    assert names(tmp_path / "one") == ["1.jpg", "to/2.jpg"]


def test_any_tree_of_links_gives_every_file_once(tmp_path, rng):
    folders = [tmp_path / "root"]
    folders[0].mkdir()
    for number in range(25):
        parent = folders[rng.integers(len(folders))]
        touch(parent, f"{number}.jpg")
        folders.append(parent / f"d{number}")
        folders[-1].mkdir()
    for number in range(40):
        place, target = (folders[rng.integers(len(folders))] for _ in range(2))
        (place / f"l{number}").symlink_to(target)
    found = walk(folders[0])
    assert found == sorted(found)
    assert sorted(path.name for path in found) == sorted(f"{number}.jpg" for number in range(25))
    assert not any(path.is_symlink() or any(part.startswith("l") for part in path.parts[-3:-1]) for path in found)


def test_folders_that_are_links_are_class_folders(tmp_path):
    touch(tmp_path, "store/cats/1.jpg", "data/dog/2.jpg")
    data = tmp_path / "data"
    (data / "cat").symlink_to(tmp_path / "store" / "cats")
    (data / "dog" / "more").symlink_to(data)
    found = walk_all([data / "cat", data / "dog"], within=data)
    assert found == {data / "cat": [data / "cat/1.jpg"], data / "dog": [data / "dog/2.jpg"]}


def test_one_folder_by_two_names_has_its_files_once(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    (tmp_path / "again").symlink_to(tmp_path / "train")
    folders = [tmp_path / name / label for name in ("again", "train") for label in ("cat", "dog")]
    found = walk_all(folders, within=tmp_path)
    assert [path for paths in found.values() for path in paths] == [
        tmp_path / "train/cat/1.jpg",
        tmp_path / "train/dog/2.jpg",
    ]


def test_a_linked_folder_around_a_real_one_does_not_have_its_files_again(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/2.jpg")
    (tmp_path / "again").symlink_to(tmp_path)
    around, inside = tmp_path / "again/train", tmp_path / "train/cat"
    found = walk_all([around, inside], within=tmp_path)
    assert found == {around: [around / "2.jpg"], inside: [inside / "1.jpg"]}


def test_what_systems_leave_behind_and_runs_are_passed_over(tmp_path):
    touch(
        tmp_path,
        *("cat/1.jpg", "__MACOSX/cat/1.jpg", "cat/@eaDir/1.jpg", ".git/1.jpg", "cat/._1.jpg", "cat/Thumbs.db"),
        *("cat/desktop.ini", "runs/first/run.json", "runs/first/split.csv", "runs/first/curves.png"),
        *("notes/run.json", "notes/2.png"),
    )
    assert names(tmp_path) == ["cat/1.jpg", "notes/2.png", "notes/run.json"]
    # A run that is asked for by name is a folder like any other.
    assert "curves.png" in names(tmp_path / "runs/first")
    assert not is_left_behind("macosx")
    assert is_left_behind("@EADIR")


def test_a_folder_that_may_not_be_listed_is_given(tmp_path, monkeypatch):
    touch(tmp_path, "open/1.jpg", "closed/2.jpg")
    real = type(tmp_path).iterdir

    def iterdir(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    assert names(tmp_path) == ["closed", "open/1.jpg"]


def test_kinds_are_counted_by_name(tmp_path):
    touch(tmp_path, "a.jpg", "b.CR2", "c.cr2", "noname", "d.jpg.1", "e. a note that is long", "f.tar.gz", "g.PPM")
    assert count_kinds(walk(tmp_path)) == {".cr2": 2, ".jpg.1": 1, "no suffix": 2, ".gz": 1}
    assert count_kinds([tmp_path]) == {}


def test_what_programs_put_behind_the_suffix_of_an_image_is_no_missing_suffix(tmp_path):
    touch(tmp_path, "a.jpg~", "b.JPG_original", "c.jpeg ", "d.png~", "e.txt~", "f.jpgs")
    kinds = {".jpg~": 1, ".jpg_original": 1, ".jpeg ": 1, ".png~": 1, "no suffix": 1, ".jpgs": 1}
    assert count_kinds(walk(tmp_path)) == kinds


def test_one_sentence_counts_what_is_not_read():
    assert unread_sentence({}, "DATA") is None
    assert unread_sentence({".raw": 1}, "DATA") == "1 file in DATA is not read: 1 .raw"
    many = {f".{letter}": 3 for letter in "abcdefgh"}
    text = unread_sentence(many, "the folders")
    assert text.startswith("24 files in the folders are not read: 3 .a, 3 .b")
    assert text.endswith("3 .f, 6 others")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert walk(tmp_path) == []
