"""`edgeclf compare` on files: what it prints, writes and refuses. Runs: `tests/toolkit/commands/test_compare_runs.py`."""

import csv
import json

import cv2
import numpy as np
import pytest

from edgeclf.toolkit.compare import images as compared

COLOURS = ("red", "green", "blue")
PER_CLASS = 6


@pytest.fixture
def data(tmp_path, rng):
    """Class folders of noisy images, each of its colour."""
    for channel, label in zip((2, 1, 0), COLOURS, strict=True):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(PER_CLASS):
            image_bgr = rng.integers(0, 100, (40, 50, 3), np.uint8)
            image_bgr[..., channel] += 120
            cv2.imwrite(str(tmp_path / "data" / label / f"{number}.png"), image_bgr)
    return tmp_path / "data"


@pytest.fixture
def swapped(make_colour_model, tmp_path):
    """A file with the outputs of red and green exchanged, and another input size."""
    from edgeclf.runtime.spec import Preprocess

    changes = {"labels": ("green", "red", "blue"), "preprocess": Preprocess((24, 24), "crop")}
    return make_colour_model(tmp_path / "swapped.onnx", size_hw=(24, 24), spec_changes=changes)


def test_a_file_is_worth_what_it_is_worth(run_edgeclf, colour_model, data):
    done = run_edgeclf("compare", colour_model, colour_model, data, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["images"], document["agreement"], document["difference"]) == (18, 1.0, 0.0)
    assert document["interval"][0] < 0 < document["interval"][1]
    assert document["changed"] == []
    assert document["verdict"].startswith("no difference that these 18 images can show")
    assert document["part"] == "given"


def test_swapped_classes_are_lost_and_listed(run_edgeclf, call_edgeclf, colour_model, swapped, data, tmp_path):
    out, plot = tmp_path / "changed.csv", tmp_path / "new" / "changed.png"
    done = run_edgeclf("compare", colour_model, swapped, data, "--out", out, "--plot", plot)
    assert done.returncode == 0, done.stderr
    assert "accuracy: A 1.0000, B 0.3333; same label on 0.3333; 12 lost, 0 won" in done.stdout
    assert "A is better by 66.7 points" in done.stdout
    assert "12 images with another label" in done.stdout
    assert min(cv2.imread(str(plot)).shape[:2]) > 300
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["change"] for row in rows] == ["lost"] * 12
    assert {(row["label"], row["a_label"], row["b_label"]) for row in rows} == {
        ("red", "red", "green"),
        ("green", "green", "red"),
    }
    assert all(0.5 < float(row["a_confidence"]) <= 1 for row in rows)
    # The list is a data set.
    again = call_edgeclf("compare", colour_model, swapped, out, "--json").json()
    assert (again["images"], again["agreement"]) == (12, 0.0)
    back = call_edgeclf("compare", swapped, colour_model, data, "--json").json()
    assert (back["won"], back["lost"]) == (12, 0)
    assert back["verdict"].startswith("B is better by 66.7 points")
    recalls = {item["label"]: (item["a_recall"], item["b_recall"]) for item in back["classes"]}
    assert recalls == {"red": (0.0, 1.0), "green": (0.0, 1.0), "blue": (1.0, 1.0)}


def test_more_images_than_are_listed_are_counted(call_edgeclf, colour_model, swapped, data, rng):
    for number in range(30):
        image_bgr = rng.integers(0, 60, (20, 20, 3), np.uint8) + np.array([0, 0, 150], np.uint8)
        cv2.imwrite(str(data / "red" / f"more-{number}.png"), image_bgr)
    done = call_edgeclf("compare", colour_model, swapped, data)
    assert "42 images with another label, the first 20" in done.out
    assert done.out.count("│ lost") == 20


def test_a_damaged_image_costs_its_own_record(run_edgeclf, call_edgeclf, colour_model, swapped, data):
    (data / "blue" / "broken.png").write_bytes(b"not an image")
    done = run_edgeclf("compare", colour_model, swapped, data, "--json")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert document["images"] == 18
    assert [entry["source"] for entry in document["unreadable"]] == [str(data / "blue" / "broken.png")]
    assert "1 image could not be read" in done.stderr
    assert call_edgeclf("compare", colour_model, swapped, data, "--ignore-unreadable").code == 0
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    done = call_edgeclf("compare", colour_model, swapped, data)
    assert (done.code, done.out) == (3, "")
    assert "none of the images can be read" in done.err


def test_each_image_is_decoded_once(call_edgeclf, colour_model, swapped, data, monkeypatch):
    load, loaded = compared.load_image, []

    def counting(path):
        loaded.append(path)
        return load(path)

    monkeypatch.setattr(compared, "load_image", counting)
    assert call_edgeclf("compare", colour_model, swapped, data, "--json").json()["images"] == 18
    assert len(loaded) == len(set(loaded)) == 18


def test_other_classes_are_compared_where_both_know_them(call_edgeclf, make_colour_model, colour_model, data, tmp_path):
    other = make_colour_model(tmp_path / "other.onnx", spec_changes={"labels": ("red", "leaf", "blue")})
    document = call_edgeclf("compare", colour_model, other, data, "--json").json()
    assert [item["label"] for item in document["classes"]] == ["red", "blue"]
    assert (document["images"], document["agreement"]) == (12, 1.0)
    assert [(item["label"], item["found"]) for item in document["only_a"]] == [("green", 6)]
    assert [(item["label"], item["images"]) for item in document["only_b"]] == [("leaf", 0)]
    shown = call_edgeclf("compare", colour_model, other, data).out
    assert "12 given images" in shown
    assert "of classes that both know" in shown
    assert "Classes that only A knows" in shown
    # A class that the later model has renamed is the same class; the model says so itself.
    training = {"classes_before": {"renamed": [{"from": "green", "to": "leaf"}]}}
    changes = {"labels": ("red", "leaf", "blue"), "training": training}
    renamed = make_colour_model(tmp_path / "renamed.onnx", spec_changes=changes)
    for pair in ((colour_model, renamed), (renamed, colour_model)):
        done = call_edgeclf("compare", *pair, data, "--json")
        assert (done.json()["images"], done.json()["agreement"], done.json()["only_a"]) == (18, 1.0, [])
        assert "does not say which images trained it" in done.err
    (data / "red").rename(data / "purple")
    done = call_edgeclf("compare", colour_model, other, data)
    assert (done.code, done.out) == (3, "")
    assert "match neither model: got purple, expected some of blue, green, leaf, red" in done.err


def test_a_file_of_another_tool_is_described_by_the_user(call_edgeclf, make_colour_model, colour_model, data, tmp_path):
    other = make_colour_model(tmp_path / "other.onnx", with_spec=False)
    (tmp_path / "names.txt").write_text("\n".join(COLOURS))
    done = call_edgeclf("compare", colour_model, other, data, "--labels", tmp_path / "names.txt", "--json")
    assert (done.code, done.json()["agreement"]) == (0, 1.0)
    assert done.json()["a"]["used_as"] is None
    assert done.json()["b"]["used_as"]["labels"]["origin"] == "given"
    without = call_edgeclf("compare", colour_model, other, data)
    assert (without.code, "nothing names the classes of" in without.err) == (0, True)
    refused = call_edgeclf("compare", colour_model, colour_model, data, "--labels", tmp_path / "names.txt")
    assert refused.code == 2
    assert "all models describe themselves" in refused.err


def test_what_cannot_be_compared_is_one_sentence(call_edgeclf, colour_model, data, tmp_path):
    (tmp_path / "corrupt.onnx").write_bytes(b"not a model")
    for arguments, code, words in (
        ((colour_model, colour_model), 2, "nothing to compare the models on: got two files and no DATA"),
        ((colour_model, colour_model, "--label-column", "species"), 2, "needs images: got no DATA"),
        ((colour_model, colour_model, data, "--split", "some"), 2, "unknown split 'some'"),
        ((colour_model, colour_model, data, "--split", "val"), 3, "has no val image"),
        ((colour_model, colour_model, data, "--plot", tmp_path / "a.jpg"), 2, "bad --plot"),
        ((colour_model, colour_model, data, "--out", colour_model), 2, "bad --out"),
        ((colour_model, colour_model, data, "--out", "x.png", "--plot", "x.png"), 2, "bad --plot"),
        ((colour_model, tmp_path / "corrupt.onnx", data), 3, "corrupt.onnx"),
        ((colour_model, tmp_path / "nowhere.onnx", data), 3, "nowhere.onnx"),
        ((colour_model, data, data), 3, "is not a run folder"),
        ((colour_model, colour_model, tmp_path / "nowhere"), 3, "no such path"),
        ((colour_model, colour_model, data, "--device", "abacus"), 2, "abacus"),
    ):
        done = call_edgeclf("compare", *arguments)
        assert (done.code, done.out) == (code, ""), (arguments, done.err)
        assert words in " ".join(done.err.split())
        assert "Traceback" not in done.err
