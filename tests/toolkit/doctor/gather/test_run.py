"""What the doctor learns from run folders: finished, unfinished, diverged, old, and with their images gone."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from edgeclf.runtime.errors import InputError, RunFolderError
from edgeclf.runtime.progress import no_progress
from edgeclf.toolkit.doctor.examination import ExaminationOptions, examine_path
from edgeclf.toolkit.doctor.facts import Facts
from edgeclf.toolkit.doctor.findings import CAUSES
from edgeclf.toolkit.doctor.gather.probes import PERTURBATIONS
from edgeclf.toolkit.doctor.gather.run import gather_model, gather_run, open_run, read_history
from edgeclf.toolkit.doctor.registry import all_checks, examine
from edgeclf.training.data.training_data import read_split

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gathered(trained_run, exported):
    opened = open_run(trained_run.folder)
    return opened, gather_run(opened), gather_model(opened, int8=exported)


def test_a_finished_run_tells_all(gathered, trained_run, photographs):
    opened, run, field = gathered
    assert run.data == str(photographs)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert run.counts == {part: dict.fromkeys(run.classes, n) for part, n in (("train", 14), ("val", 3), ("test", 3))}
    assert (run.record["ending"], run.record["architecture"]) == ("finished", "seed-cnn")
    assert run.record["fit"]["epochs"] == 3
    assert run.record["suits"]["epochs"] > 3
    assert run.metrics["training_after_last_epoch"]["images"] == 42
    probe = run.probes["network"]
    assert probe["first_layer"] == "conv1"
    # seed-cnn takes 127 off and divides by 64.
    assert -1.985 <= probe["input_min"] < probe["input_max"] <= 2.0
    # Its recipe trains it without.
    assert probe["dropout"] == dict.fromkeys(
        [*(f"dropout{n}" for n in range(1, 6)), "dense_dropout1", "dense_dropout2"], 0.0
    )
    assert [layer["name"] for layer in probe["relu_layers"]] == [*(f"conv{n}" for n in range(1, 6)), "dense1", "dense2"]
    assert run.probes["linear_probe"]["training_images"] == 42
    assert run.probes["linear_probe"]["training_accuracy"] > 0.9
    assert run.probes["training"]["images"] == 42
    assert field.split == "test"
    assert (set(field.perturbed), field.probabilities.shape) == (set(PERTURBATIONS), (9, 3))
    # The network itself, as its fp32 file gives it.
    np.testing.assert_allclose(field.probabilities, field.int8, atol=1e-4)
    assert [field.paths[row].split("/")[0] for row in range(9)] == [run.classes[label] for label in field.true]
    assert opened.run.folder == trained_run.folder


def test_the_findings_of_a_finished_run_are_known_causes_with_json_evidence(gathered):
    _, run, field = gathered
    found = examine(Facts(run=run, model=field))
    assert found
    for finding in found:
        json.dumps(finding.to_json(), allow_nan=False)
    # Three epochs of seed-cnn on 42 images, and nine to test it.
    assert [f.cause for f in found if f.severity != "note"][:2] in (
        ["too-few", "stopped-early"],
        ["stopped-early", "too-few"],
    )
    assert all(set(check.causes) <= set(CAUSES) and check.condition for check in all_checks())


def test_a_run_whose_images_are_gone_still_has_a_history(trained_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained_run.folder, folder)
    document = json.loads((folder / "run.json").read_text())
    del document["data"]  # as an older version wrote it
    (folder / "run.json").write_text(json.dumps(document | {"data_root": str(tmp_path / "gone")}))
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["training_after_last_epoch"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    opened = open_run(folder)
    run = gather_run(opened)
    assert run.data == str(tmp_path / "gone")
    assert "no longer" in run.probes["missing"]
    assert len(run.history) == 3
    assert gather_model(opened) is None
    examine(Facts(run=run))


def test_a_training_that_was_cut_off_is_told_by_its_history(trained_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("history.csv", "run.json", "split.csv"):
        shutil.copy(trained_run.folder / name, folder)
    (folder / "checkpoint.npz").write_bytes(b"")
    run = gather_run(open_run(folder))
    assert (run.record["ending"], len(run.history)) == ("unfinished", 3)
    assert "network" not in run.probes
    assert any("--resume" in finding.fix for finding in examine(Facts(run=run)))


def test_a_training_that_diverged_at_once_is_a_finding(trained_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(trained_run.folder / "split.csv", folder)
    document = json.loads((trained_run.folder / "run.json").read_text())
    document["options"]["learning_rate"] = 1e6
    document["diverged"] = {"stage": "fit", "steps": 1, "epoch_steps": 3, "loss": None}
    (folder / "run.json").write_text(json.dumps(document))
    found = examine(Facts(run=gather_run(open_run(folder))))
    assert [finding.cause for finding in found][:2] == ["lr-too-high", "diverged"]
    assert "--learning-rate" not in found[0].fix


def test_what_is_no_run_is_said(tmp_path, trained_run, colour_model):
    with pytest.raises(RunFolderError, match="is not a run folder"):
        open_run(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(trained_run.folder, folder)
    with pytest.raises(InputError, match="is not a model of"):
        gather_model(open_run(folder), int8=colour_model)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"metrics\.json"):
        gather_run(open_run(folder))


def test_a_history_of_words_and_gaps_is_read(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,stage,loss,accuracy\n1,head,nan,0.5\n2,fit,,0.75\n")
    first, second = read_history(path)
    assert (first["epoch"], first["stage"], second["accuracy"]) == (1, "head", 0.75)
    assert np.isnan([first["loss"], second["loss"]]).all()
    assert read_history(tmp_path / "none.csv") == []


def test_the_pretrained_network_runs_in_onnx_runtime_as_in_keras(call_edgeclf, photographs, tmp_path):
    folder = tmp_path / "run"
    done = call_edgeclf("train", photographs, "--run", folder, "--image-size", 64, "--epochs", 8)
    assert done.code == 0, done.err
    opened = open_run(folder)
    field = gather_model(opened, max_images=6)
    from edgeclf.export.keras_backend import inference_of
    from edgeclf.training.cache.array_file import ArrayFile

    cached, _ = opened.read([s for s in opened.samples if s.path in field.paths])
    assert isinstance(cached.images, ArrayFile)
    expected = inference_of(opened.model)(cached.images[:])
    np.testing.assert_allclose(field.probabilities, expected, atol=1e-3)
    assert "_with_head" in repr(opened.infer)
    run = gather_run(opened)
    assert "network" not in run.probes  # its units are those of the pretrained network
    assert run.probes["training"]["accuracy"] > 0.8
    broken = dataclasses.replace(run, history=[])
    examine(Facts(run=broken))


@pytest.fixture
def changed_run(trained_run, photographs, tmp_path):
    """A run with its images copied, of which the files of some splits, or all, can be replaced by turned pictures."""

    def change(splits, most=None):
        folder, data = tmp_path / "run", tmp_path / "data"
        shutil.copytree(trained_run.folder, folder)
        shutil.copytree(photographs, data)
        document = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(document | {"data": str(data), "data_root": str(data)}))
        chosen = [sample for sample in read_split(folder / "split.csv") if sample.split in splits][:most]
        for sample in chosen:
            path = data / sample.path
            assert cv2.imwrite(str(path), cv2.imread(str(path))[::-1, ::-1])
        return folder, {sample.path for sample in chosen}

    return change


def test_images_that_changed_are_told_and_nothing_is_judged_on_them(changed_run):
    folder, changed = changed_run(("train", "test"), 17)
    done = examine_path(folder, ExaminationOptions(max_features=0), no_progress)
    (finding,) = [finding for finding in done.findings if finding.cause == "changed-images"]
    by_split = finding.evidence["by_split"]
    assert (set(finding.items), sum(by_split.values()), by_split["val"]) == (changed, 17, 0)
    assert (finding.severity, finding.evidence["images"]) == ("problem", 60)
    assert (
        f"17 of 60 images have changed since the run was trained with them ({by_split['train']} training, "
        in finding.title
    )
    assert f"edgeclf train {folder.parent / 'data'} " in finding.fix
    assert f"--run {folder}-again" in finding.fix
    assert not changed & set(done.facts.model.paths)
    assert len(done.facts.model.paths) == 9 - by_split["test"] > 0
    assert done.facts.run.probes["training"]["images"] == 42 - by_split["train"]
    assert done.facts.run.probes["linear_probe"]["training_images"] == 42 - by_split["train"]


def test_images_that_are_what_they_were_are_no_finding(changed_run):
    folder, _ = changed_run(())
    done = examine_path(folder, ExaminationOptions(max_features=0), no_progress)
    assert "changed-images" not in {finding.cause for finding in done.findings}
    assert len(done.facts.model.paths) == 9
    assert done.facts.run.probes["training"]["images"] == 42


def test_a_run_all_of_whose_images_changed_is_judged_on_none(changed_run):
    folder, _ = changed_run(("train", "val", "test"))
    done = examine_path(folder, ExaminationOptions(max_features=0), no_progress)
    (finding,) = [finding for finding in done.findings if finding.cause == "changed-images"]
    assert finding.evidence["count"] == 60
    assert done.facts.model is None
    assert "have all changed" in done.facts.run.probes["missing"]


def test_one_changed_validation_image_keeps_a_training_from_being_resumed(changed_run):
    folder, changed = changed_run(("val",), 1)
    (folder / "checkpoint.npz").write_bytes(b"")
    (folder / "spec.json").unlink()
    done = examine_path(folder, ExaminationOptions(max_features=0), no_progress)
    (finding,) = [finding for finding in done.findings if finding.cause == "changed-images"]
    assert finding.title == (
        f"1 of 60 images has changed since the run was trained with them (1 validation), such as {changed.pop()}: "
        "it cannot be resumed"
    )
    assert finding.severity == "problem"
