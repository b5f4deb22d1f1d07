"""`edgeclf train`: what it leaves, how it ends, and what it refuses."""

import csv
import json
import re
import shutil
import subprocess
import sys

import cv2
import pytest

from edgeclf.training.run.folder import (
    BACKBONE_FILE,
    CHECKPOINT_FILE,
    NETWORK_FILE,
    RUN_FILES,
    TENSORBOARD_FOLDER,
    WEIGHTS_FOLDER,
    load_run,
)

from ..conftest import CLASSES, IMAGES_PER_CLASS, SEED_CNN, add_unreadable, write_photographs

pytestmark = pytest.mark.slow

_UNFINISHED = {CHECKPOINT_FILE, BACKBONE_FILE, WEIGHTS_FOLDER}
FINISHED_FILES = sorted(set(RUN_FILES) - _UNFINISHED - {NETWORK_FILE, TENSORBOARD_FOLDER})
QUICK = (*SEED_CNN, "--epochs", "1")


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_complete_and_says_what_it_is(trained_run, photographs):
    folder, document = trained_run.folder, trained_run.document
    assert sorted(path.name for path in folder.iterdir()) == FINISHED_FILES
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    run = load_run(folder)
    assert run.spec.labels == tuple(document["labels"]) == CLASSES
    assert run.spec.preprocess.size_hw == (89, 89)
    assert run.data_root == photographs.resolve()
    assert run.spec.dataset_fingerprint.startswith("blake2b:")
    assert {sample.split for sample in run.split} == {"train", "val", "test"}
    assert len(run.split) == len(CLASSES) * IMAGES_PER_CLASS
    assert run.load_model().count_params() == document["parameters"]
    # 0.15 of 20 each.
    assert document["training"]["images"] == {"train": 42, "val": 9, "test": 9}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["validation"], metrics["test"]) == (document["validation"], document["test"])
    assert metrics["parameters"] == document["parameters"]
    assert metrics["unreadable"] == document["unreadable"] == []
    assert [int(row["epoch"]) for row in history(folder)] == [1, 2, 3]
    for name in ("curves.png", "confusion.png"):
        assert min(cv2.imread(str(folder / name)).shape[:2]) > 200
    # Nothing about the building machine in what goes into the model file.
    assert str(photographs) not in (folder / "spec.json").read_text()


def test_the_same_seed_gives_the_same_run(call_edgeclf, trained_run, photographs, tmp_path):
    done = call_edgeclf("train", photographs, "--run", tmp_path / "run", *SEED_CNN, "--epochs", 3, "--seed", 0)
    assert done.code == 0, done.err
    # The first one was made in a process of its own.
    assert history(tmp_path / "run") == history(trained_run.folder)
    assert (tmp_path / "run" / "split.csv").read_text() == (trained_run.folder / "split.csv").read_text()


def test_the_pretrained_backbone_learns_and_the_output_says_so(call_edgeclf, photographs, tmp_path):
    run = tmp_path / "run"
    done = call_edgeclf("train", photographs, "--run", run, "--image-size", 64, "--epochs", 40, "--seed", 3)
    assert done.code == 0, done.err
    assert re.search(
        r"efficientnet-lite0, 3,416,867 parameters, \d+ training, \d+ validation and \d+ test images", done.out
    )
    assert "Validation images (they chose the weights)" in done.out
    assert "Test images (they chose nothing)" in done.out
    assert f"next: edgeclf export {run}" in done.err
    metrics = json.loads((run / "metrics.json").read_text())
    # Nine images each: one of them is a tenth.
    assert min(metrics[part]["accuracy"] for part in ("validation", "test")) >= 0.8
    rows = history(run)
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert load_run(run).spec.training["best_epoch"] == int(best["epoch"])


def test_parts_that_are_given_are_kept_and_without_a_test_part_the_report_says_so(call_edgeclf, photographs, tmp_path):
    data = tmp_path / "data"
    for part, names in (("train", ("00.png", "01.jpg", "02.png")), ("val", ("03.jpg",))):
        for label in CLASSES:
            (data / part / label).mkdir(parents=True)
            for name in names:
                (data / part / label / name).symlink_to(photographs / label / name)
    done = call_edgeclf("train", data, "--run", tmp_path / "run", *QUICK)
    assert done.code == 0, done.err
    assert "9 training, 3 validation and 0 test images" in done.out
    assert "no test split" in done.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"] is None
    assert "no test split" in metrics["note"]


def test_unreadable_images_are_left_out_counted_and_listed(call_edgeclf, tmp_path):
    data = write_photographs(tmp_path / "data", per_class=8)
    count = add_unreadable(data / "coffee")
    (data / "coffee" / "phone.cr2").write_bytes(b"")
    arguments = ("train", data, "--run", tmp_path / "run", *QUICK, "--json")
    done = call_edgeclf(*arguments)
    assert done.code == 3
    assert f"{count} images could not be read and had to be left out" in done.err
    assert done.err.count("warning: cannot read") == count
    assert "warning: 1 file in the class folders is not read: 1 .cr2" in done.err
    assert done.json()["not_read"] == {".cr2": 1}
    document = done.json()
    assert sum(document["training"]["images"].values()) == 24
    assert {entry["source"].rsplit("/", 1)[1] for entry in document["unreadable"]} == {
        "empty.jpg",
        "short.jpg",
        "text.jpg",
        "folder.jpg",
        "dangling.jpg",
    }
    assert load_run(tmp_path / "run").load_model()
    again = call_edgeclf(*arguments, "--overwrite", "--ignore-unreadable")
    assert again.code == 0, again.err
    assert again.json()["unreadable"] == document["unreadable"]


def test_an_existing_run_is_kept_unless_told_otherwise(call_edgeclf, trained_run, photographs):
    before = (trained_run.folder / "spec.json").stat().st_mtime_ns
    done = call_edgeclf("train", photographs, "--run", trained_run.folder, *QUICK)
    assert done.code == 3
    assert "already holds a run" in done.err
    assert "--overwrite" in done.err
    assert (trained_run.folder / "spec.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--image-size", "88", "--arch", "seed-cnn"), 2, "got 88 px, expected at least 89 px"),
        (("--seed", "5000000000"), 2, "less than or equal to 4294967295"),
        (
            ("--arch", "resnet50"),
            2,
            "expected resnet8, efficientnet-lite0, efficientnet-lite1, efficientnet-lite2, small-cnn, seed-cnn",
        ),
        (("--fit", "squash"), 2, "unknown fit mode 'squash'"),
        (("--optimizer", "lion"), 2, "unknown optimizer 'lion'"),
        (("--learning-rate", "0"), 2, "bad learning rate"),
        (("--epochs", "0"), 2, "--epochs"),
        (("--val-fraction", "1"), 2, "bad fractions"),
        (("--test-fraction", "0.9", "--val-fraction", "0.2"), 2, "bad fractions"),
    ],
)
def test_options_out_of_range_are_usage_errors_before_any_work(
    call_edgeclf, photographs, tmp_path, arguments, code, words
):
    done = call_edgeclf("train", photographs, "--run", tmp_path / "run", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in " ".join(done.err.split())
    assert list(tmp_path.iterdir()) == []


def test_unusable_data_and_outputs_are_one_sentence(call_edgeclf, photographs, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "one" / "cat").mkdir(parents=True)
    (tmp_path / "one" / "cat" / "1.jpg").write_bytes(b"")
    run = tmp_path / "run"
    for arguments, words in (
        ((tmp_path / "nowhere", "--run", run), "no such path"),
        ((tmp_path / "one", "--run", run), "one class only"),
        ((photographs, "--run", tmp_path / "file"), "got a file"),
        ((photographs, "--run", tmp_path / "file" / "run"), "cannot write"),
        ((photographs, "--run", photographs), "other files"),
    ):
        done = call_edgeclf("train", *arguments)
        assert (done.code, done.out, len(done.err.splitlines())) == (3, "", 1), done.err
        assert words in done.err
    assert not run.exists()
    assert call_edgeclf("train", photographs).code == 2
    too_vague = call_edgeclf("train", photographs, "--run", tmp_path / "vague", "--cache-size", "many")
    assert too_vague.code == 2
    assert "bad --cache-size: got 'many'" in too_vague.err
    assert call_edgeclf("train").code == 2


def test_a_learning_rate_that_makes_it_diverge_is_said_and_leaves_what_the_doctor_needs(
    call_edgeclf, photographs, trained_run, tmp_path
):
    run = tmp_path / "run"
    diverging = ("train", photographs, *QUICK, "--optimizer", "sgd", "--learning-rate", "4e9", "--batch-size", 2)
    done = call_edgeclf(*diverging, "--run", run)
    assert done.code == 3
    assert "diverged in its first epoch" in done.err
    assert f"edgeclf doctor {run}" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert sorted(path.name for path in run.iterdir()) == ["run.json", "split.csv"]
    document = json.loads((run / "run.json").read_text())
    assert (document["data"], document["diverged"]["stage"]) == (str(photographs), "fit")
    assert document["diverged"]["steps"] < document["diverged"]["epoch_steps"]
    assert "diverged in its first epoch" in call_edgeclf("export", run, "--out", tmp_path / "model.onnx").err
    # There is nothing in it to lose, so that another try needs no --overwrite; a finished run is another matter.
    assert call_edgeclf(*diverging, "--run", run).code == 3
    finished = tmp_path / "finished"
    shutil.copytree(trained_run.folder, finished)
    done = call_edgeclf(*diverging, "--run", finished, "--overwrite")
    assert done.code == 3
    assert "doctor" not in done.err
    assert sorted(path.name for path in finished.iterdir()) == FINISHED_FILES
    assert call_edgeclf("train", photographs, "--run", run, *QUICK).code == 0
    assert sorted(path.name for path in run.iterdir()) == FINISHED_FILES


def test_the_networks_are_listed(call_edgeclf):
    names = [row["name"] for row in call_edgeclf("train", "--list", "--json").json()]
    assert names == [
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
        "small-cnn",
        "seed-cnn",
        "resnet8",
    ]
    assert "89 px" in call_edgeclf("train", "--list").out


# Ctrl-C at a step that is known: the signal is the real one, sent by the process to itself.
INTERRUPTED = """
import os, signal, sys
import edgeclf.training.fit.stages as stages
from edgeclf.toolkit.cli import main

# A shell that runs the tests in the background leaves the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
fit = stages.fit_network
def interrupted_fit(*arguments, progress, **options):
    def report(stage, done, total):
        if done == int(os.environ["STEP"]):
            os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
        progress(stage, done, total)
    return fit(*arguments, progress=report, **options)
stages.fit_network = interrupted_fit
main()
"""


def interrupted(step, photographs, folder, monkeypatch, *options, signal="SIGINT"):
    monkeypatch.setenv("STEP", str(step))
    monkeypatch.setenv("SIGNAL", signal)
    options = options or (*SEED_CNN, "--epochs", "9")
    command = [sys.executable, "-c", INTERRUPTED, "train", photographs, "--run", folder, *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


# 42 training images are three steps of 16.
def test_ctrl_c_after_the_first_epoch_keeps_the_best_so_far(photographs, tmp_path, monkeypatch):
    done = interrupted(5, photographs, tmp_path / "run", monkeypatch)
    assert done.returncode == 130, done.stderr
    assert "interrupted: the weights of epoch 1, the best so far, are in" in done.stderr
    assert "Traceback" not in done.stderr
    assert "--resume" in done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted([*FINISHED_FILES, CHECKPOINT_FILE])
    assert load_run(tmp_path / "run").spec.training["ending"] == "interrupted"
    assert len(history(tmp_path / "run")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_ctrl_c_before_the_first_epoch_ends_leaves_nothing(photographs, tmp_path, monkeypatch):
    done = interrupted(2, photographs, tmp_path / "run", monkeypatch)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "edgeclf: interrupted\n"
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
from edgeclf.toolkit.cli import main
main()
"""


def test_a_disk_that_fills_while_the_model_is_written_leaves_nothing(trained_run, photographs, tmp_path):
    # The cache has the pixels already; the model of 1 MB passes the limit of 0.6 MB a file.
    command = [sys.executable, "-c", FULL_DISK, "train", photographs, "--run", tmp_path / "run", *QUICK]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []
