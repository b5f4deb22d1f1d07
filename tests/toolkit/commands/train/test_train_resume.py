"""`edgeclf train --resume`: what was killed or interrupted ends as if nothing had happened."""

import json

import pytest

from edgeclf.training.run.folder import CHECKPOINT_FILE, load_run

from ...conftest import SEED_CNN, write_photographs
from ..test_train import FINISHED_FILES, interrupted

pytestmark = pytest.mark.slow

# Everything that draws or has a state: augmentation, dropout, a schedule, an optimizer with moments, balance.
OPTIONS = (*SEED_CNN, "--epochs", "4", "--augment", "strong", "--schedule", "cosine", "--balance", "sampling")
COMPARED = ("history.csv", "metrics.json", "split.csv", "spec.json")


@pytest.fixture(scope="module")
def whole(run_edgeclf, photographs, tmp_path_factory):
    """A training that was left alone."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run_edgeclf("train", photographs, "--run", folder, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return folder


# 42 training images are three steps of 16: step 8 is in the middle of the third epoch.
@pytest.mark.parametrize(("signal", "code"), [("SIGKILL", -9), ("SIGINT", 130), ("SIGTERM", 130)])
def test_a_training_cut_off_in_its_third_epoch_ends_as_if_it_had_not(
    run_edgeclf, whole, photographs, tmp_path, monkeypatch, signal, code
):
    run = tmp_path / "run"
    done = interrupted(8, photographs, run, monkeypatch, *OPTIONS, signal=signal)
    assert done.returncode == code, done.stderr
    assert (run / CHECKPOINT_FILE).is_file()
    assert (run / "history.csv").read_text().count("\n") == 3
    assert (run / "model.keras").is_file() == (signal != "SIGKILL")
    resumed = run_edgeclf("train", "--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert sorted(path.name for path in run.iterdir()) == FINISHED_FILES
    for name in COMPARED:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    mine, theirs = load_run(run).load_model().get_weights(), load_run(whole).load_model().get_weights()
    assert all((a == b).all() for a, b in zip(mine, theirs, strict=True))


def test_an_unfinished_run_is_no_model_yet_and_says_how_to_finish(call_edgeclf, photographs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    interrupted(8, photographs, run, monkeypatch, *OPTIONS, signal="SIGKILL")
    for command in (("evaluate", run, photographs), ("export", run, "--out", tmp_path / "model.onnx")):
        done = call_edgeclf(*command)
        assert done.code == 3
        assert f"edgeclf train --resume {run}" in done.err
    again = call_edgeclf("train", photographs, "--run", run, *OPTIONS)
    assert again.code == 3
    assert "already holds a run" in again.err


def test_a_training_from_an_earlier_run_is_resumed_with_it(
    call_edgeclf, trained_run, photographs, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    options = ("--from", trained_run.folder, "--epochs", "4", "--batch-size", "16")
    interrupted(8, photographs, run, monkeypatch, *options, signal="SIGKILL")
    assert (run / CHECKPOINT_FILE).is_file()
    done = call_edgeclf("train", "--resume", run, "--json")
    assert done.code == 0, done.err
    assert len(done.json()["history"]) == 4
    assert done.json()["classes"]["kept"] == done.json()["labels"]


def test_images_that_changed_are_not_resumed_on(call_edgeclf, tmp_path, monkeypatch):
    data = write_photographs(tmp_path / "data")
    run = tmp_path / "run"
    interrupted(8, data, run, monkeypatch, *OPTIONS, signal="SIGKILL")
    rows = (run / "split.csv").read_text().splitlines()
    changed = next(row.split(",")[0] for row in rows if ",train," in row)
    other = next(row.split(",")[0] for row in rows if ",train," in row and not row.startswith(changed))
    (data / changed).write_bytes((data / other).read_bytes())
    done = call_edgeclf("train", "--resume", run)
    assert done.code == 3
    assert "images that have changed" in done.err
    # Where they are still as they were, at another place, it goes on.
    elsewhere = write_photographs(tmp_path / "elsewhere")
    done = call_edgeclf("train", elsewhere, "--resume", run, "--json")
    assert done.code == 0, done.err
    assert len(done.json()["history"]) == 4


def test_what_cannot_be_resumed_is_said(call_edgeclf, trained_run, tmp_path):
    done = call_edgeclf("train", "--resume", trained_run.folder)
    assert done.code == 3
    assert "a finished run" in done.err
    done = call_edgeclf("train", "--resume", tmp_path / "nowhere")
    assert done.code == 3
    assert "got no such file or folder" in done.err
    done = call_edgeclf("train", "--resume", tmp_path)
    assert done.code == 3
    assert "got no checkpoint" in done.err
    done = call_edgeclf("train", "--resume", trained_run.folder, "--epochs", "9")
    assert done.code == 2
    assert "--epochs does not go with --resume" in done.err
    assert json.loads((trained_run.folder / "run.json").read_text())["options"]["epochs"] == 3


def test_a_training_with_everything_of_its_own_goes_on_from_another_folder(run_edgeclf, tmp_path, monkeypatch):
    write_photographs(tmp_path / "data")
    (tmp_path / "mine.py").write_text(
        "import keras\ndef build(classes, image_size):\n"
        "    x = image = keras.Input((*image_size, 3))\n"
        "    x = keras.layers.Rescaling(1 / 255)(x)\n"
        "    x = keras.layers.Conv2D(4, 3, strides=4)(x)\n"
        "    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))\n"
        "    return keras.Model(image, keras.layers.Dense(classes)(x))\n"
    )
    options = (
        "--arch", "mine:build", "--image-size", "32", "--batch-size", "16", "--epochs", "4", "--val-fraction", "0.3", "--test-fraction",
        "0.2", "--false-rejection-rate", "0.1", "--mixup", "0.2", "--seed", "5",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    whole = run_edgeclf("train", "data", "--run", "whole", *options)
    assert whole.returncode == 0, whole.stderr
    cut = interrupted(3, "data", "cut", monkeypatch, *options, signal="SIGKILL")
    assert cut.returncode == -9, cut.stderr
    assert (tmp_path / "cut" / CHECKPOINT_FILE).is_file()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed = run_edgeclf("train", "--resume", "../cut", "--arch", "mine:build")
    assert resumed.returncode == 0, resumed.stderr
    for name in COMPARED:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_resumed_training_keeps_the_defaults_that_it_began_with(call_edgeclf, photographs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    interrupted(8, photographs, run, monkeypatch, *OPTIONS, signal="SIGKILL")
    document = json.loads((run / "run.json").read_text())
    assert document["options"]["weight_decay"] is None
    # As a version with another default would have written it.
    document["resolved"]["first"]["patience"] = 1
    (run / "run.json").write_text(json.dumps(document))
    done = call_edgeclf("train", "--resume", run, "--json")
    assert done.code == 0, done.err
    assert done.json()["training"]["patience"] == 1
    assert json.loads((run / "run.json").read_text())["resolved"] == document["resolved"]


def test_options_that_this_version_does_not_know_are_one_sentence(call_edgeclf, photographs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    interrupted(8, photographs, run, monkeypatch, *OPTIONS, signal="SIGKILL")
    document = json.loads((run / "run.json").read_text())
    document["resolved"]["first"]["from_the_future"] = 1
    (run / "run.json").write_text(json.dumps(document))
    done = call_edgeclf("train", "--resume", run)
    assert done.code == 3
    assert "another version of edgeclf" in done.err
    assert (run / CHECKPOINT_FILE).is_file()
