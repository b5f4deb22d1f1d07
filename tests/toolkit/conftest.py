"""Photographs in class folders, and one small run and model made from them, shared by the tests of the commands."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLASSES = ("astronaut", "chelsea", "coffee")
IMAGES_PER_CLASS = 20
SEED_CNN = ("--arch", "seed-cnn", "--image-size", "89", "--batch-size", "16")


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call_edgeclf(monkeypatch, capsys) -> Callable[..., Finished]:
    """Runs the command line in this process, which has TensorFlow loaded already, through its real entry point."""
    from edgeclf.toolkit.cli import main

    def call(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["edgeclf", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Finished(int(ended.value.code or 0), captured.out, captured.err)

    return call


def write_photographs(folder: Path, seed: int = 0, per_class: int = IMAGES_PER_CLASS) -> Path:
    """Writes `per_class` crops of each of three colour photographs, JPEG and PNG in turn, into class folders.

    Crops are drawn until as many of each class as are expected, and not a number by chance, train, validate and test by default.
    """
    import cv2
    from skimage import data

    from edgeclf.training.data.split import drawn_split

    held_out = max(1, round(0.15 * per_class))
    rng = np.random.default_rng(seed)
    for label in CLASSES:
        image_bgr = cv2.cvtColor(getattr(data, label)(), cv2.COLOR_RGB2BGR)
        (folder / label).mkdir(parents=True)
        room = {"train": per_class - 2 * held_out, "val": held_out, "test": held_out}
        for number in range(per_class):
            suffix = ".jpg" if number % 2 else ".png"
            while True:
                top, left = rng.integers(0, image_bgr.shape[0] - 120), rng.integers(0, image_bgr.shape[1] - 120)
                encoded = cv2.imencode(suffix, image_bgr[top : top + 120, left : left + 120])[1].tobytes()
                split = drawn_split(hashlib.blake2b(encoded, digest_size=16).hexdigest())
                if room[split]:
                    break
            room[split] -= 1
            (folder / label / f"{number:02d}{suffix}").write_bytes(encoded)
    return folder


def add_unreadable(folder: Path) -> int:
    """Adds one file of each unreadable kind to a class folder; gives their number."""
    good = (folder / "01.jpg").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "short.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.jpg").write_text("this is no image")
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    return 5


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """60 crops in three class folders; not to be changed."""
    return write_photographs(tmp_path_factory.mktemp("photographs") / "data")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keeps the commands of these tests, in this process and in others, out of the user's cache."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("EDGECLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True)
class TrainedRun:
    folder: Path
    document: dict[str, Any]
    err: str


@pytest.fixture(scope="session")
def trained_run(run_edgeclf, photographs, tmp_path_factory) -> TrainedRun:
    """A run of three epochs of the smallest network, made by `edgeclf train --json` in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run_edgeclf("train", photographs, "--run", folder, *SEED_CNN, "--epochs", 3, "--json")
    assert done.returncode == 0, done.stderr
    return TrainedRun(folder, json.loads(done.stdout), done.stderr)


@pytest.fixture(scope="session")
def exported(run_edgeclf, trained_run, tmp_path_factory) -> Path:
    """The run as an fp32 file, made by `edgeclf export` in a process of its own."""
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    done = run_edgeclf("export", trained_run.folder, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Ship fp32" in done.stdout
    return out
