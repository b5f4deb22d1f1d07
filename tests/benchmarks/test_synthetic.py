"""The data set of ten classes: the same seed gives the same bytes, splits share no pixel, the command writes it."""

import importlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.synthetic")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(synthetic, tmp_path):
    first, again, other = (
        contents(synthetic.write_ten_classes(tmp_path / name, train=3, val=1, test=2, seed=seed))
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_every_class_has_the_images_that_were_asked_for(synthetic, tmp_path):
    folder = synthetic.write_ten_classes(tmp_path / "data", train=3, val=1, test=2)
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        counts = {label.name: len(list(label.iterdir())) for label in (folder / split).iterdir()}
        assert counts == dict.fromkeys(synthetic.TEN_CLASSES, count)
    assert len(synthetic.TEN_CLASSES) == len(set(synthetic.TEN_CLASSES)) == 10
    assert {cv2.imread(str(path)).shape for path in folder.rglob("*.jpg")} == {(96, 96, 3)}


def test_no_cell_of_a_photograph_is_in_two_splits(synthetic, tmp_path, monkeypatch):
    from skimage import data

    # Every cell of the photograph has a brightness of its own, which survives when nothing but the crop is made.
    numbered = np.kron(np.arange(40, dtype=np.uint8).reshape(5, 8) * 6, np.ones((64, 64), np.uint8))
    monkeypatch.setattr(synthetic, "TEN_CLASSES", ("camera",))
    monkeypatch.setattr(data, "camera", lambda: np.ascontiguousarray(numbered))
    monkeypatch.setattr(synthetic, "_varied_crop", lambda cell_bgr, rng: cell_bgr)
    folder = synthetic.write_ten_classes(tmp_path / "data", train=40, val=40, test=40)
    cells = {
        split: {round(cv2.imread(str(path)).mean() / 6) for path in (folder / split).rglob("*.jpg")}
        for split in ("train", "val", "test")
    }
    assert {split: len(found) for split, found in cells.items()} == {"train": 24, "val": 8, "test": 8}
    assert len(set.union(*cells.values())) == 40


def test_the_command_writes_it_and_leaves_what_is_there_alone(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "synthetic.py"), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "data"))
    written = contents(tmp_path / "data")
    assert len(written) == 1200
    again = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert contents(tmp_path / "data") == written
