"""`edgeclf demo`: the whole road in one process, and the photographs it is run on."""

import json

import cv2
import numpy as np
import pytest
from skimage import data

from edgeclf.runtime import Classifier
from edgeclf.runtime.errors import OutputError
from edgeclf.toolkit.datasets.demo_data import CROP_PIXELS, write_demo_data


@pytest.mark.slow
def test_the_whole_road(run_edgeclf, tmp_path):
    done = run_edgeclf("demo", "--json", cwd=tmp_path, timeout_s=300)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["test_accuracy"] >= 0.95
    assert summary["test_images"] == 120
    assert summary["agreement"] >= 0.99
    assert summary["int8_median_ms"] > 0
    assert summary["file_bytes"] < 6e6
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert Classifier(tmp_path / "demo" / "model.onnx").spec.labels == ("brick", "grass", "gravel")
    # Every step is shown as one would type it.
    commands = [line.split()[2] for line in done.stderr.splitlines() if line.startswith("$ edgeclf ")]
    assert commands == ["train", "export", "verify", "infer", "bench"]


def test_a_folder_with_other_files_is_left_alone(call_edgeclf, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = call_edgeclf("demo", "--folder", tmp_path)
    assert (done.code, done.out, len(done.err.splitlines())) == (3, "", 1)
    assert "a folder with other files" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    done = call_edgeclf("demo", "--folder", tmp_path / "mine.txt")
    assert done.code == 3
    assert "cannot write" in done.err


def test_the_parts_are_cut_from_disjoint_regions_of_real_photographs(tmp_path):
    counts = write_demo_data(tmp_path)
    assert counts == {"train": 180, "val": 120, "test": 120}
    strips = {"train": (0, 256), "val": (256, 384), "test": (384, 512)}
    for label in ("brick", "grass", "gravel"):
        photograph = getattr(data, label)()
        for split, (left, right) in strips.items():
            files = sorted((tmp_path / split / label).iterdir())
            assert len(files) == counts[split] // 3
            for path in files[::10]:
                crop = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                assert crop.shape == (CROP_PIXELS, CROP_PIXELS)
                # Found in its own strip, pixel for pixel.
                differences = cv2.matchTemplate(photograph[:, left:right], crop, cv2.TM_SQDIFF)
                row, column = np.unravel_index(differences.argmin(), differences.shape)
                found = photograph[row : row + CROP_PIXELS, left + column : left + column + CROP_PIXELS]
                np.testing.assert_array_equal(found, crop)


def test_the_crops_are_the_same_every_time(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_demo_data(tmp_path / name, seed)
    first, again, other = (
        [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))] for name in ("a", "b", "c")
    )
    assert first == again
    assert first != other


def test_photographs_that_cannot_be_written_are_an_output_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_demo_data(tmp_path / "file")
