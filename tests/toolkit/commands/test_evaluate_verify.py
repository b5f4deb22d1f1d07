"""`edgeclf evaluate` and `edgeclf verify`: figures, the gate on the target machine, and what does not match."""

import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeclf.export.emulation import comparison
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.verify.verdict import DEFAULT_RULE, limits_record
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import SPEC_KEY
from edgeclf.training.run.folder import load_run

from ..conftest import CLASSES, add_unreadable, write_photographs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tampered(exported, tmp_path_factory):
    """The exported file with the channels of its first convolution swapped and everything else as it was."""
    model = onnx.load(exported)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == first.input[1]]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[:, ::-1].copy(), weights.name))
    path = tmp_path_factory.mktemp("tampered") / "tampered.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("split", "parts", "count"), [("auto", ("test", "unseen"), 9), ("all", ("given", "given"), 60)]
)
def test_the_run_and_the_file_made_from_it_are_worth_the_same(
    call_edgeclf, trained_run, exported, photographs, split, parts, count
):
    documents = []
    for model in (trained_run.folder, exported):
        done = call_edgeclf("evaluate", model, photographs, "--split", split, "--json")
        assert done.code == 0, done.err
        documents.append(done.json())
    keras, file = documents
    assert (keras["ran_on"], file["ran_on"]) == ("Keras", "CPUExecutionProvider")
    assert (keras["part"], file["part"]) == parts
    assert keras["count"] == count
    assert keras["selection"] == file["selection"]
    assert keras["selection"] == {"given": 60, "trained": 42, "validated": 9, "left_out": split == "auto"}
    assert keras["confusion"] == file["confusion"]
    assert keras["accuracy"] == file["accuracy"] == np.trace(keras["confusion"]) / keras["count"]
    assert [entry["label"] for entry in file["per_class"]] == list(CLASSES)
    assert file["expected_calibration_error"] == pytest.approx(keras["expected_calibration_error"], abs=1e-3)
    assert file["unreadable"] == []


def test_the_table_has_every_class(run_edgeclf, exported, photographs):
    done = run_edgeclf("evaluate", exported, photographs)
    assert done.returncode == 0, done.stderr
    for words in (*CLASSES, "accuracy", "calibration error", "9 unseen images"):
        assert words in done.stdout
    assert "(95 % interval " in done.stdout
    assert done.stderr == (
        "42 of the 60 given images trained this network and 9 validated it: left out (--split all takes all of them)\n"
        "9 images are too few to say more than the interval does; 100 or more are better\n"
    )


def test_the_figures_of_a_run_on_its_own_photographs_are_its_test_figures(
    call_edgeclf, trained_run, photographs, tmp_path
):
    for data in (photographs, trained_run.folder / "split.csv"):
        done = call_edgeclf("evaluate", trained_run.folder, data, "--json")
        assert done.code == 0, done.err
        assert "42 of the 60 given images trained this network" in done.err
        document, test = done.json(), trained_run.document["test"]
        # Sums of another batch size are rounded otherwise.
        error = pytest.approx(test["expected_calibration_error"], rel=1e-5)
        assert {key: document[key] for key in test} == test | {"expected_calibration_error": error}
    # Told by content: names and places do not matter, a photograph that was compressed again is another one.
    for label in CLASSES:
        (tmp_path / label).mkdir()
        for path in (photographs / label).iterdir():
            shutil.copy(path, tmp_path / label / f"copy-{path.name}")
    (train,) = [its for its in load_run(trained_run.folder).split if its.split == "train"][:1]
    image = cv2.imread(str(photographs / train.path))
    cv2.imwrite(str(tmp_path / train.label / "again.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    moved = call_edgeclf("evaluate", trained_run.folder, tmp_path, "--json").json()
    assert (moved["part"], moved["count"]) == ("unseen", 10)
    assert moved["selection"] == {"given": 61, "trained": 42, "validated": 9, "left_out": True}
    # Without an image that it has not seen, all are evaluated, and that is said.
    for sample in load_run(trained_run.folder).split:
        if sample.split == "test":
            (tmp_path / sample.label / f"copy-{sample.path.rsplit('/', 1)[1]}").unlink()
    (tmp_path / train.label / "again.jpg").unlink()
    seen = call_edgeclf("evaluate", trained_run.folder, tmp_path, "--json")
    assert (seen.json()["part"], seen.json()["count"], seen.json()["selection"]["left_out"]) == ("given", 51, False)
    assert "no other can be evaluated: these figures are too good" in seen.err


def test_the_split_of_a_run_is_taken_where_folders_name_none(call_edgeclf, trained_run, photographs):
    for split, part, count in (("train", "training", 42), ("val", "validation", 9), ("test", "test", 9)):
        document = call_edgeclf("evaluate", trained_run.folder, photographs, "--split", split, "--json").json()
        assert (document["part"], document["count"]) == (part, count)


def test_a_split_whose_images_have_moved_is_an_error(call_edgeclf, trained_run, photographs, tmp_path):
    shutil.copytree(trained_run.folder, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts | {"data_root": str(tmp_path / "gone")}))
    done = call_edgeclf("evaluate", tmp_path / "run", tmp_path / "run" / "split.csv")
    assert (done.code, done.out) == (3, "")
    assert f"got no folder {tmp_path / 'gone'}" in done.err
    # As the hint says.
    shutil.copytree(photographs, tmp_path / "now")
    shutil.copy(tmp_path / "run" / "split.csv", tmp_path / "now" / "split.csv")
    assert call_edgeclf("evaluate", tmp_path / "run", tmp_path / "now" / "split.csv", "--json").json()["count"] == 9


def test_a_file_of_an_earlier_version_says_that_it_does_not_know(call_edgeclf, exported, photographs, tmp_path):
    model = onnx.load(exported)
    (entry,) = [entry for entry in model.metadata_props if entry.key == SPEC_KEY]
    spec = json.loads(entry.value)
    assert spec.pop("seen_images")
    entry.value = json.dumps(spec)
    onnx.save(model, tmp_path / "old.onnx")
    done = call_edgeclf("evaluate", tmp_path / "old.onnx", photographs, "--json")
    assert (done.code, done.json()["count"]) == (0, 60)
    assert "does not say which images trained it" in done.err


@pytest.fixture(scope="module")
def other_photographs(tmp_path_factory):
    """Three images of each class that no training has seen."""
    return write_photographs(tmp_path_factory.mktemp("other") / "data", seed=1, per_class=3)


def test_the_part_that_is_asked_for_is_measured(call_edgeclf, exported, other_photographs, tmp_path):
    for part, names in (("train", ("00.png", "01.jpg")), ("test", ("02.png",))):
        for label in CLASSES:
            (tmp_path / part / label).mkdir(parents=True)
            for name in names:
                (tmp_path / part / label / name).symlink_to(other_photographs / label / name)
    for split, part, count in (("auto", "test", 3), ("train", "training", 6), ("all", "given", 9)):
        document = call_edgeclf("evaluate", exported, tmp_path, "--split", split, "--json").json()
        assert (document["part"], document["count"]) == (part, count)
    done = call_edgeclf("evaluate", exported, tmp_path, "--split", "val")
    assert done.code == 3
    assert "has no val split: got test, train" in done.err
    assert call_edgeclf("evaluate", exported, tmp_path, "--split", "some").code == 2
    # A class that is not there has no recall; the others are measured.
    one = call_edgeclf("evaluate", exported, tmp_path / "test", "--json").json()
    assert one["count"] == 3
    shutil.rmtree(tmp_path / "test" / "coffee")
    rest = call_edgeclf("evaluate", exported, tmp_path / "test", "--json").json()
    assert (rest["count"], rest["per_class"][2]["recall"]) == (2, None)


def test_labels_that_do_not_match_are_refused(call_edgeclf, exported, photographs, tmp_path):
    for folder in ("astronaut", "tea"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").symlink_to(photographs / "coffee" / "00.png")
    for command in (("evaluate", exported, tmp_path), ("verify", exported, tmp_path, "--against", exported)):
        done = call_edgeclf(*command)
        assert (done.code, done.out) == (3, "")
        assert "do not match the model: got class folders tea, expected some of astronaut, chelsea, coffee" in done.err


def test_a_csv_names_the_images(call_edgeclf, exported, other_photographs, tmp_path):
    rows = [f"{other_photographs / label / '00.png'},{label}" for label in CLASSES]
    (tmp_path / "data.csv").write_text("\n".join(["path,label", *rows]))
    assert call_edgeclf("evaluate", exported, tmp_path / "data.csv", "--json").json()["count"] == 3
    (tmp_path / "data.csv").write_text("\n".join(["path,class", *rows]))
    done = call_edgeclf("evaluate", exported, tmp_path / "data.csv")
    assert done.code == 3
    assert "path,label[,split] in the first line" in done.err


def test_unreadable_images_are_left_out_counted_and_listed(call_edgeclf, exported, tmp_path):
    data = write_photographs(tmp_path / "data", seed=1, per_class=3)
    count = add_unreadable(data / "chelsea")
    for command in (("evaluate", exported, data), ("verify", exported, data, "--against", exported)):
        done = call_edgeclf(*command, "--json")
        assert done.code == 3
        assert f"{count} images could not be read" in done.err
        assert len(done.json()["unreadable"]) == count
        assert done.json().get("count", done.json().get("images")) == 9
        assert call_edgeclf(*command, "--ignore-unreadable").code == 0
    for path in data.rglob("*.[jp][pn]g"):
        if path.is_file():
            path.write_bytes(b"")
    done = call_edgeclf("evaluate", exported, data)
    assert (done.code, done.out) == (3, "")
    assert "none of the images can be read" in done.err


def test_models_that_are_none_are_refused(call_edgeclf, photographs, tmp_path):
    (tmp_path / "corrupt.onnx").write_bytes(b"\x08\x01 not a model")
    for model, words in (
        (tmp_path / "nowhere.onnx", "nowhere.onnx"),
        (tmp_path / "corrupt.onnx", "corrupt.onnx"),
        (tmp_path, "is not a run folder"),
    ):
        done = call_edgeclf("evaluate", model, photographs)
        assert (done.code, done.out, len(done.err.splitlines())) == (3, "", 1), done.err
        assert words in done.err


def test_the_file_passes_against_its_run_on_this_machine(call_edgeclf, exported, trained_run, photographs):
    done = call_edgeclf("verify", exported, photographs, "--against", trained_run.folder, "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert document["passed"] is True
    assert (document["agreement"], document["failures"], document["differing"]) == (1.0, [], [])
    assert document["max_error"] <= 1e-4
    assert document["reference_accuracy"] == document["candidate_accuracy"]
    assert document["cpu"]["model"]
    assert "passed" in done.err


def test_a_tampered_file_fails_against_its_run(call_edgeclf, run_edgeclf, tampered, exported, trained_run, photographs):
    assert {p.key for p in onnx.load(tampered).metadata_props} >= {SPEC_KEY}
    done = call_edgeclf("verify", tampered, photographs, "--against", trained_run.folder, "--json")
    assert done.code == 4
    assert done.json()["passed"] is False
    assert done.json()["failures"]
    assert "does not match" in done.err
    apart = run_edgeclf("verify", tampered, photographs, "--against", exported)
    assert apart.returncode == 4, apart.stderr
    assert "do not ship it" in apart.stderr


def test_images_without_labels_are_enough(call_edgeclf, exported, tampered, other_photographs, tmp_path):
    (tmp_path / "monday").mkdir()
    for number, label in enumerate(CLASSES):
        (tmp_path / "monday" / f"{number}.png").symlink_to(other_photographs / label / "00.png")
    for folder in (tmp_path, tmp_path / "monday"):
        done = call_edgeclf("verify", exported, folder, "--against", exported, "--json")
        assert done.code == 0, done.err
        assert (done.json()["images"], done.json()["candidate_accuracy"]) == (3, None)
        assert "agreement is judged, accuracy is not" in done.err
        assert call_edgeclf("verify", tampered, folder, "--against", exported).code == 4
    (tmp_path / "none").mkdir()
    assert call_edgeclf("verify", exported, tmp_path / "none", "--against", exported).code == 3
    done = call_edgeclf("evaluate", exported, tmp_path)
    assert done.code == 3
    assert "do not match the model" in done.err


def test_different_classifiers_are_not_compared(call_edgeclf, exported, colour_model, photographs):
    done = call_edgeclf("verify", colour_model, photographs, "--against", exported)
    assert (done.code, done.out) == (3, "")
    assert "are different classifiers: got labels red, green, blue and astronaut, chelsea, coffee" in done.err


@pytest.fixture(scope="module")
def int8_file(run_edgeclf, trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    done = run_edgeclf(
        "export", trained_run.folder, "--out", out, "--precision", "int8", "--effort", "quick",
        "--min-agreement", 0, "--max-accuracy-drop", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_the_limits_recorded_in_the_file_apply_until_others_are_asked_for(
    call_edgeclf, int8_file, trained_run, photographs
):
    verify = ("verify", int8_file, photographs, "--against", trained_run.folder)
    done = call_edgeclf(*verify, "--json")
    assert done.code == 0, done.err
    recorded = "agreement at least 0, accuracy drop at most 1"
    assert f"judged by the limits recorded in the file: {recorded}" in " ".join(done.err.split())
    document = done.json()
    assert document["limits"] == document["recorded_limits"]
    assert document["verdict"]["outcome"] == "passed"
    others = call_edgeclf(*verify, "--min-agreement", 0, "--json")
    said = " ".join(others.err.split())
    assert "judged by agreement at least 0, accuracy drop at most 0.01" in said
    assert f"the file was written with other limits: {recorded}" in said
    assert others.json()["limits"]["max_accuracy_drop"] == 0.01
    # The same limits as those of the file are no others.
    same = call_edgeclf(*verify, "--min-agreement", 0, "--max-accuracy-drop", 1)
    assert "other limits" not in same.err


@pytest.fixture(scope="module")
def int8_by_the_default_rule(int8_file, tmp_path_factory):
    """The same file, as if it had been written without limits of the user's."""
    path = tmp_path_factory.mktemp("rule") / "int8.onnx"
    model = onnx.load(int8_file)
    spec = ModelSession(int8_file, device="cpu").spec
    attach_spec(model, spec.with_changes(parity={**spec.parity, "limits": limits_record(DEFAULT_RULE)}))
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_against_itself_passes_the_default_rule_on_any_images(
    call_edgeclf, int8_by_the_default_rule, photographs
):
    verify = ("verify", int8_by_the_default_rule, photographs, "--split", "all", "--against", int8_by_the_default_rule)
    done = call_edgeclf(*verify, "--json")
    assert done.code == 0, done.err
    assert done.json()["verdict"] == {"outcome": "passed", "failures": [], "doubts": []}
    assert "judged by the limits recorded in the file: the default rule" in " ".join(done.err.split())


def test_layers_are_compared_with_those_of_the_run(call_edgeclf, int8_file, trained_run, photographs, tmp_path):
    plot = tmp_path / "layers.png"
    done = call_edgeclf(
        "verify", int8_file, photographs, "--against", trained_run.folder, "--layers", "--plot", plot, "--json",
        "--min-agreement", 0, "--max-accuracy-drop", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    layers = done.json()["layers"]
    # Five convolutions and three dense layers.
    assert [layer["operator"] for layer in layers] == ["Conv"] * 5 + ["Gemm"] * 3
    assert min(layer["output_sqnr_db"] for layer in layers) > 5
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_layers_of_a_float_file_are_refused(call_edgeclf, exported, trained_run, photographs):
    done = call_edgeclf("verify", exported, photographs, "--against", trained_run.folder, "--layers")
    assert (done.code, done.out) == (3, "")
    assert "cannot compare these models layer by layer" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "nothing to compare with"),
        (("--against", "x", "--emulate", "arm64"), "--emulate compares with this machine"),
        (("--emulate", "riscv"), "cannot emulate 'riscv'"),
        (("--emulate", "arm64", "--core", "cortex-z9"), "unknown core 'cortex-z9'"),
        (("--against", "x", "--core", "max"), "--core without --emulate"),
        (("--against", "x", "--plot", "p.png"), "--plot without --layers"),
        (("--emulate", "arm64", "--device", "cpu"), "--device does nothing with --emulate"),
        (("--emulate", "arm64", "--provider-option", "a=b"), "--provider-option does nothing with --emulate"),
        (("--emulate", "arm64", "--engine-cache", "x"), "--engine-cache does nothing with --emulate"),
        (("--emulate", "arm64", "--threads", 2), "--threads does nothing with --emulate"),
        (("--against", "x", "--emulate-images", 3), "--emulate-images does nothing without --emulate"),
        (("--against", "x", "--cache-folder", "x"), "--cache-folder does nothing without --emulate"),
    ],
)
def test_verify_options_that_do_not_fit_are_usage_errors(call_edgeclf, exported, photographs, options, said):
    done = call_edgeclf("verify", exported, photographs, *options)
    assert done.code == 2, done.err
    assert said in " ".join(done.err.split())


@pytest.mark.parametrize("options", [("--split", "all"), ("--ignore-unreadable",)])
def test_the_self_test_takes_no_option_of_images(call_edgeclf, exported, options):
    done = call_edgeclf("verify", exported, *options)
    assert (done.code, f"{options[0]} does nothing without DATA" in " ".join(done.err.split())) == (2, True), done.err


@pytest.mark.parametrize(
    "options", [("--device", "cpu"), ("--provider-option", "a=b"), ("--engine-cache", "x"), ("--threads", 1)]
)
@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_what_keras_runs_takes_no_option_of_files(call_edgeclf, trained_run, photographs, command, options):
    models = [trained_run.folder] * (2 if command == "compare" else 1)
    done = call_edgeclf(command, *models, photographs, *options)
    assert (done.code, f"{options[0]} does nothing w" in " ".join(done.err.split())) == (2, True), done.err


def test_a_run_takes_no_option_of_files_without_a_spec(call_edgeclf, trained_run, photographs):
    done = call_edgeclf("evaluate", trained_run.folder, photographs, "--preprocess", "imagenet")
    assert (done.code, "describe themselves" in done.err) == (2, True), done.err


def test_a_missing_emulator_is_said_before_anything_is_downloaded(
    call_edgeclf, exported, photographs, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call_edgeclf("verify", exported, photographs, "--emulate", "arm64")
    assert (done.code, done.out) == (5, "")
    assert "apt install" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("change", "code", "outcome"),
    [
        (lambda probabilities: probabilities, 0, "passed"),
        # Less than a flip, more than the order of a sum: a dozen images cannot tell what it costs.
        (lambda probabilities: 0.999 * probabilities + 0.001 / 3, 0, "undecided"),
        (lambda probabilities: np.roll(probabilities, 1, axis=1), 4, "failed"),
    ],
)
def test_emulated_cores_are_judged_by_the_same_rule(
    call_edgeclf, int8_by_the_default_rule, photographs, monkeypatch, change, code, outcome
):
    """The emulator is replaced by this machine, and its outputs are changed."""

    def run_here(model, images_rgb, core, sysroot, progress):
        return change(np.concatenate([model.run(images_rgb[row : row + 1]) for row in range(len(images_rgb))]))

    monkeypatch.setattr(comparison, "prepare_sysroot", lambda *_: None)
    monkeypatch.setattr(comparison, "run_emulated", run_here)
    options = (photographs, "--split", "all", "--emulate", "arm64", "--core", "cortex-a53", "--emulate-images", 12)
    done = call_edgeclf("verify", int8_by_the_default_rule, *options, "--json")
    assert done.code == code, done.err
    document = done.json()
    assert document["limits"]["rule"] == "evidence"
    assert [core["verdict"]["outcome"] for core in document["cores"]] == [outcome]
    assert document["passed"] == (outcome != "failed")
    # What fails by one thing may be in doubt by another.
    assert bool(document["doubts"]) == (outcome == "undecided") or outcome == "failed"
    assert {"passed": "passed: ", "undecided": "undecided: ", "failed": "something else on ARM"}[outcome] in done.err
    table = call_edgeclf("verify", int8_by_the_default_rule, *options)
    assert outcome in table.out


def test_an_image_that_cannot_be_read_is_left_out_of_an_emulated_comparison(
    call_edgeclf, int8_by_the_default_rule, photographs, monkeypatch, tmp_path
):
    def run_here(model, images_rgb, core, sysroot, progress):
        return np.concatenate([model.run(images_rgb[row : row + 1]) for row in range(len(images_rgb))])

    monkeypatch.setattr(comparison, "prepare_sysroot", lambda *_: None)
    monkeypatch.setattr(comparison, "run_emulated", run_here)
    shutil.copytree(photographs, tmp_path / "data")
    (tmp_path / "data" / "coffee" / "00.png").write_bytes(b"no image")
    options = ("--split", "all", "--emulate", "arm64", "--core", "cortex-a53", "--emulate-images", 1000)
    verify = ("verify", int8_by_the_default_rule, tmp_path / "data", *options)
    done = call_edgeclf(*verify, "--json")
    assert (done.code, "1 image could not be read" in done.err) == (3, True)
    (unreadable,) = done.json()["unreadable"]
    assert unreadable["source"].endswith("00.png")
    assert done.json()["cores"][0]["images"] == sum(len(list(label.iterdir())) for label in photographs.iterdir()) - 1
    assert call_edgeclf(*verify, "--ignore-unreadable").code == 0
    for label in (tmp_path / "data").iterdir():
        for path in label.iterdir():
            path.write_bytes(b"no image")
    done = call_edgeclf(*verify)
    assert (done.code, done.out, "none of the images can be read" in done.err) == (3, "", True)
