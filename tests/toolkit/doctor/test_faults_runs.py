"""What the battery does to data and networks before it trains them."""

import importlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeclf.training.networks.registry import ARCHITECTURES

ROOT = Path(__file__).parents[3]


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.doctor.faults.runs")


def write_images(folder, per_class):
    for part in ("train", "test"):
        for label, value in (("dark", 20), ("light", 220)):
            (folder / part / label).mkdir(parents=True)
            for number in range(per_class):
                image = np.full((8, 8, 3), value + number % 16, np.uint8)
                cv2.imwrite(str(folder / part / label / f"{number:03d}.png"), image)
    return folder


def brightness(folder):
    return {path.relative_to(folder).as_posix(): float(cv2.imread(str(path)).mean()) for path in folder.rglob("*.png")}


def test_some_images_are_kept_of_every_class(faults, tmp_path):
    data = write_images(tmp_path / "data", 30)
    faults.keep_some(data, np.random.default_rng(0), training=20, test=100)
    counts = Counter(path.parent.relative_to(data).as_posix() for path in data.rglob("*.png"))
    assert counts == {"train/dark": 10, "train/light": 10, "test/dark": 30, "test/light": 30}


def test_shuffled_labels_keep_every_file_and_say_nothing(faults, tmp_path):
    data = write_images(tmp_path / "data", 40)
    before = brightness(data)
    faults.shuffle_labels(data, np.random.default_rng(0))
    after = brightness(data)
    assert sorted(before.values()) == sorted(after.values())
    for part in ("train", "test"):
        in_dark = [value for name, value in after.items() if name.startswith(f"{part}/dark")]
        assert len(in_dark) == 40
        assert 0.15 < np.mean([value > 120 for value in in_dark]) < 0.85


def test_the_changed_normalisation_lasts_as_long_as_the_block(faults):
    original = ARCHITECTURES["seed-cnn"]
    with faults.scaled_inputs("seed-cnn", faults._times_255):
        layer = ARCHITECTURES["seed-cnn"].build((89, 89), 2).get_layer("normalise")
        assert float(np.max(layer(np.full((1, 89, 89, 3), 255, np.uint8)))) > 900
    assert ARCHITECTURES["seed-cnn"] is original


def test_every_fault_has_its_line_and_makes_a_run(faults):
    assert {fault.line for fault in faults.FAULTS} == {7}
    assert all(fault.needs_run for fault in faults.FAULTS)
    assert len({fault.name for fault in faults.FAULTS}) == len(faults.FAULTS)
