"""`edgeclf train --backbone`: a run on the features of an ONNX file, from the first epoch to the exported file."""

import json

import numpy as np
import pytest

from edgeclf.runtime import Classifier
from edgeclf.training.run.folder import BACKBONE_FILE, CHECKPOINT_FILE, load_run

from ...randomness import fresh_rng
from ..doctor.foreign_networks import CLASSES, Network, write_photographs
from .test_train import FINISHED_FILES, interrupted

pytestmark = pytest.mark.slow

OPTIONS = ("--preprocess", "imagenet", "--channels", "bgr", "--epochs", "60", "--learning-rate", "0.05")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs") / "data", fresh_rng(), per_class=30)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return Network(is_bgr=True).write(tmp_path_factory.mktemp("network") / "net.onnx", fresh_rng())


@pytest.fixture(scope="module")
def run(run_edgeclf, data, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run_edgeclf("train", data, "--backbone", network, "--run", folder, *OPTIONS, "--json", timeout_s=600)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_run_is_whole_and_needs_the_file_no_more(run, network, call_edgeclf, data, tmp_path):
    assert sorted(path.name for path in run.iterdir()) == FINISHED_FILES
    opened = load_run(run)
    assert opened.spec.architecture == "onnx:net"
    assert opened.spec.training["weights"].startswith("net.onnx (blake2b-128 ")
    assert json.loads((run / "metrics.json").read_text())["parameters"] > 24 * 3 * 25
    moved = network.rename(tmp_path / "gone.onnx")
    try:
        done = call_edgeclf("evaluate", run, data, "--split", "all", "--json")
        assert (done.code, done.json()["accuracy"] > 0.8) == (0, True), done.err
        # One file, backbone and head, in float and in 8 bits.
        out = tmp_path / "m.onnx"
        assert call_edgeclf("export", run, "--out", out).code == 0
        found = [Classifier(out).predict(path).label for path in sorted((data / CLASSES[0]).iterdir())[:8]]
        assert found.count(CLASSES[0]) > 4
        done = call_edgeclf("export", run, "--out", tmp_path / "m8.onnx", "--precision", "int8", "--or-fp32", "--json")
        assert done.code == 0, done.err
        assert done.json()["written"]
        # Not trained for 8 bits, whatever the recipes give.
        assert not (run.parent / f"{run.name}-qat").exists()
        assert call_edgeclf("doctor", run, "--fast", "--json").code in {0, 4}
    finally:
        moved.rename(network)


def test_a_training_goes_on_from_it_and_keeps_its_preprocessing(run, call_edgeclf, data, tmp_path):
    done = call_edgeclf("train", data, "--from", run, "--run", tmp_path / "next", "--epochs", 2, "--json")
    assert done.code == 0, done.err
    before, after = load_run(run), load_run(tmp_path / "next")
    assert after.spec.preprocess == before.spec.preprocess
    assert after.spec.architecture == "onnx:net"
    assert after.spec.preprocess.crop_fraction == pytest.approx(0.875)
    for option in ("--fine-tune", "--qat"):
        refused = call_edgeclf("train", data, "--from", run, "--run", tmp_path / "x", option)
        assert (refused.code, "backbone from an ONNX file" in refused.err) == (2, True)


def test_a_training_that_was_cut_off_goes_on_without_the_file(run_edgeclf, data, network, tmp_path, monkeypatch):
    folder, copy = tmp_path / "run", tmp_path / "copy.onnx"
    copy.write_bytes(network.read_bytes())
    interrupted(8, data, folder, monkeypatch, "--backbone", copy, *OPTIONS, signal="SIGKILL")
    assert (folder / CHECKPOINT_FILE).is_file()
    assert (folder / BACKBONE_FILE).is_file()
    copy.unlink()
    done = run_edgeclf("train", "--resume", folder, timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == FINISHED_FILES
    model = load_run(folder).load_model()
    assert np.isfinite(model(np.zeros((1, *model.input_shape[1:]), np.uint8)).numpy()).all()
