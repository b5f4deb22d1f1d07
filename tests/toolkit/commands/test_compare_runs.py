"""`edgeclf compare` of runs: their test images by default, without those that trained or validated either."""

import csv
import json
import shutil

import pytest

from edgeclf.training.run.folder import load_run

from ..conftest import CLASSES, SEED_CNN, write_photographs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(run_edgeclf, tmp_path_factory):
    """A run of two classes and one of three that goes on from it."""
    folder = tmp_path_factory.mktemp("before-after")
    data = write_photographs(folder / "data", seed=7)
    for label in CLASSES[:2]:
        shutil.copytree(data / label, folder / "fewer" / label)
    for name, images, more in (("before", "fewer", ()), ("after", "data", ("--from", folder / "before"))):
        options = ("--epochs", 4, "--batch-size", 16) if more else (*SEED_CNN, "--epochs", 4)
        done = run_edgeclf("train", folder / images, "--run", folder / name, *more, *options)
        assert done.returncode == 0, done.stderr
    return folder / "before", folder / "after", data


def test_a_run_and_its_file_are_the_same_on_its_test_images(call_edgeclf, run_edgeclf, trained_run, exported):
    done = call_edgeclf("compare", trained_run.folder, exported, "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert (document["images"], document["agreement"], document["part"]) == (9, 1.0, "test")
    assert document["a_accuracy"] == document["b_accuracy"] == trained_run.document["test"]["accuracy"]
    assert (document["a"]["ran_on"], document["b"]["ran_on"]) == ("Keras", "CPUExecutionProvider")
    assert document["interval"][0] < 0 < document["interval"][1]
    table = run_edgeclf("compare", exported, trained_run.folder)
    assert table.returncode == 0, table.stderr
    assert "no difference that these 9 images can show" in table.stdout


def test_images_that_trained_either_are_left_out_of_data(call_edgeclf, trained_run, exported, photographs):
    done = call_edgeclf("compare", exported, exported, photographs, "--json")
    assert "42 of the 60 given images trained A or B and 9 validated one of them: left out" in done.err
    assert done.json()["images"] == 9
    chosen = call_edgeclf("compare", trained_run.folder, exported, "--split", "val", "--json")
    assert (chosen.json()["images"], chosen.json()["part"]) == (9, "validation")
    every = call_edgeclf("compare", trained_run.folder, exported, "--split", "all", "--json")
    assert every.json()["images"] == 60
    assert "accuracy on those is too good" in every.err


def test_before_and_after_from(call_edgeclf, runs):
    before, after, data = runs
    document = call_edgeclf("compare", before, after, "--json").json()
    old, new = ({sample.digest for sample in load_run(run).split if sample.split == "test"} for run in (before, after))
    # Test images of both, once: those of the old classes stayed test images.
    assert old < new
    assert document["selection"]["given"] == len(new)
    assert (document["images"], document["only_b"][0]["label"]) == (len(old), CLASSES[2])
    assert document["only_b"][0]["images"] == len(new) - len(old) > 0
    assert [item["label"] for item in document["classes"]] == list(CLASSES[:2])
    assert document["only_a"] == []
    # The training has said the same of them.
    told = json.loads((after / "metrics.json").read_text())["old_classes"]
    assert [told[key] for key in ("images", "both", "lost", "won")] == [
        document[key] for key in ("images", "both", "lost", "won")
    ]
    # With all photographs named, the same are compared.
    named = call_edgeclf("compare", before, after, data, "--json").json()
    for key in ("images", "lost", "won", "only_b"):
        assert named[key] == document[key]
    assert named["selection"]["left_out"]


def test_test_images_of_the_one_that_trained_the_other_are_left_out(call_edgeclf, run_edgeclf, runs, tmp_path):
    before, _, data = runs
    other = tmp_path / "other"
    done = run_edgeclf("train", data, "--run", other, *SEED_CNN, "--epochs", 1, "--seed", 5)
    assert done.returncode == 0, done.stderr
    done = call_edgeclf("compare", before, other, "--json", "--out", tmp_path / "changed.csv")
    document = done.json()
    splits = [{sample.digest: sample.split for sample in load_run(run).split} for run in (before, other)]
    tested = {digest for its in splits for digest, split in its.items() if split == "test"}
    unseen = {digest for digest in tested if all(its.get(digest, "test") == "test" for its in splits)}
    assert document["selection"]["given"] == len(tested) > len(unseen) > 0
    assert document["images"] + sum(item["images"] for item in document["only_b"]) == len(unseen)
    assert "left out" in done.err
    with (tmp_path / "changed.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(document["changed"])


def test_a_run_whose_images_are_gone_needs_data(call_edgeclf, run_edgeclf, runs, tmp_path):
    _, after, data = runs
    shutil.copytree(after, tmp_path / "run")
    text = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(text.replace(str(data), str(tmp_path / "gone")))
    done = run_edgeclf("compare", tmp_path / "run", tmp_path / "run")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"got no folder {tmp_path / 'gone'}" in done.stderr
    assert call_edgeclf("compare", tmp_path / "run", tmp_path / "run", data).code == 0
