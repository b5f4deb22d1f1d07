import csv
import json
import shutil

import numpy as np
import pytest

from edgeclf.export.keras_backend import inference_of
from edgeclf.runtime import Classifier
from edgeclf.toolkit.doctor.gather.run import open_run
from edgeclf.training.fit import stages
from edgeclf.training.fit.loop import FitState
from edgeclf.training.qat.model import simulated_network
from edgeclf.training.run.folder import load_run

from ....randomness import fresh_rng

pytestmark = pytest.mark.slow


def test_a_run_is_trained_for_8_bits_and_exported(call_edgeclf, trained_run, photographs, tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "int8.onnx"
    # Whether two epochs on 42 images do more than rounding alone, by nine others, is chance: it does not count here.
    monkeypatch.setattr(stages, "_as_it_came", lambda *_: FitState())
    done = call_edgeclf(
        "train", photographs, "--from", trained_run.folder, "--qat", "--run", run, "--epochs", 2, "--json"
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert [row["stage"] for row in document["history"]] == ["qat", "qat"]
    assert document["parameters"] == trained_run.document["parameters"]
    done = call_edgeclf(
        "export", run, "--out", out, "--precision", "int8", "--effort", "quick", "--min-agreement", 0,
        "--max-accuracy-drop", 1, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert Classifier(out).spec.training["quantization_aware"] is True
    # The ranges that were trained are tried first, and the file is compared with the network in 8-bit arithmetic.
    report = json.loads(done.out)
    assert report["recipes"][0]["name"] == "as trained"
    deciding = report["recipes"][0]["parity"][0]
    assert deciding["reference_accuracy"] == document["validation"]["accuracy"]
    assert deciding["mean_error"] < 0.01
    options = ("--against", run, "--min-agreement", 0, "--max-accuracy-drop", 1, "--json")
    done = call_edgeclf("verify", out, photographs, *options)
    assert done.code == 0, done.err
    assert json.loads(done.out)["mean_error"] < 0.01
    # The doctor, too, judges what was trained, and not the float network that has its weights.
    opened = open_run(run)
    pixels = fresh_rng().integers(0, 256, (4, 89, 89, 3), np.uint8)
    float_network = load_run(run).load_model()
    given = np.asarray(opened.infer(pixels))
    # Run in the same way: in 8 bits a last digit may decide which way a value is rounded.
    np.testing.assert_array_equal(given, inference_of(simulated_network(float_network, opened.run.spec))(pixels))
    assert np.abs(given - np.asarray(float_network(pixels, training=False))).max() > 1e-5


def test_no_epoch_that_is_worse_than_rounding_alone_is_kept(call_edgeclf, trained_run, photographs, tmp_path):
    run = tmp_path / "run"
    # A step so large that it cannot help.
    done = call_edgeclf(
        "train", photographs, "--from", trained_run.folder, "--qat", "--run", run, "--epochs", 1, "--learning-rate", 0.02,
        "--warmup-epochs", 0, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["training"]["best_epoch"] == 0
    before, after = (load_run(folder).load_model() for folder in (trained_run.folder, run))
    for mine, theirs in zip(after.get_weights(), before.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_loss_that_stops_being_a_number_before_the_first_epoch_is_said(
    call_edgeclf, trained_run, photographs, tmp_path
):
    run = tmp_path / "run"
    done = call_edgeclf(
        "train", photographs, "--from", trained_run.folder, "--qat", "--run", run, "--learning-rate", 300,
        "--warmup-epochs", 0,
    )  # fmt: skip
    assert done.code == 3, done.err
    assert "diverged in its first epoch" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (run / "model.keras").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--qat",), "--qat goes on from a trained network"),
        (("--qat", "--fine-tune", "--from"), "--fine-tune does not go with --qat"),
        (("--qat", "--progressive", "--from"), "--progressive does not go with"),
    ],
)
def test_what_does_not_go_with_qat(call_edgeclf, trained_run, photographs, tmp_path, options, said):
    options = [*options, trained_run.folder] if options[-1] == "--from" else options
    done = call_edgeclf("train", photographs, "--run", tmp_path / "run", *options)
    assert done.code == 2, done.err
    assert said in " ".join(done.err.split())
    assert not (tmp_path / "run").exists()


def test_other_classes_are_refused(call_edgeclf, trained_run, photographs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    folders = sorted(
        path for path in data.rglob("*") if path.is_dir() and any(item.is_file() for item in path.iterdir())
    )
    shutil.copytree(folders[0], folders[0].with_name("another"))
    done = call_edgeclf("train", data, "--from", trained_run.folder, "--qat", "--run", tmp_path / "run")
    assert done.code == 3, done.err
    assert "with its own classes" in " ".join(done.err.split())
    assert not (tmp_path / "run").exists()


def test_a_training_for_8_bits_is_resumed_as_if_nothing_had_happened(
    call_edgeclf, trained_run, photographs, tmp_path, monkeypatch
):
    from edgeclf.training import trainer as train

    def arguments(name):
        return ("train", photographs, "--from", trained_run.folder, "--qat", "--run", tmp_path / name, "--epochs", 2)

    assert call_edgeclf(*arguments("whole")).code == 0
    write_result = train.write_result

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(train, "write_result", fail)
    assert call_edgeclf(*arguments("cut")).code != 0
    monkeypatch.setattr(train, "write_result", write_result)
    done = call_edgeclf("train", "--resume", tmp_path / "cut")
    assert done.code == 0, done.err
    histories = []
    for name in ("whole", "cut"):
        with (tmp_path / name / "history.csv").open() as file:
            histories.append(list(csv.DictReader(file)))
    assert histories[0] == histories[1]
