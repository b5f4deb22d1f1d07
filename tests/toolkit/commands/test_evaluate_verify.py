"""`edgeclf evaluate` and `edgeclf verify`: figures, the gate on the target machine, and what does not match."""

import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeclf.runtime.spec import SPEC_KEY

from ..conftest import CLASSES, IMAGES_PER_CLASS, add_unreadable, write_photographs

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


def test_the_run_and_the_file_made_from_it_are_worth_the_same(call_edgeclf, trained_run, exported, photographs):
    documents = []
    for model in (trained_run.folder, exported):
        done = call_edgeclf("evaluate", model, photographs, "--json")
        assert done.code == 0, done.err
        documents.append(done.json())
    keras, file = documents
    assert (keras["ran_on"], file["ran_on"]) == ("Keras", "CPUExecutionProvider")
    assert keras["part"] == file["part"] == "given"
    assert keras["count"] == len(CLASSES) * IMAGES_PER_CLASS
    assert keras["confusion"] == file["confusion"]
    assert keras["accuracy"] == file["accuracy"] == np.trace(keras["confusion"]) / keras["count"]
    assert [entry["label"] for entry in file["per_class"]] == list(CLASSES)
    assert file["expected_calibration_error"] == pytest.approx(keras["expected_calibration_error"], abs=1e-3)
    assert file["unreadable"] == []


def test_the_table_has_every_class(run_edgeclf, exported, photographs):
    done = run_edgeclf("evaluate", exported, photographs)
    assert done.returncode == 0, done.stderr
    for words in (*CLASSES, "accuracy", "calibration error", f"{len(CLASSES) * IMAGES_PER_CLASS} given images"):
        assert words in done.stdout
    assert done.stderr == ""


def test_the_part_that_is_asked_for_is_measured(call_edgeclf, exported, photographs, tmp_path):
    for part, names in (("train", ("00.png", "01.jpg")), ("test", ("02.png",))):
        for label in CLASSES:
            (tmp_path / part / label).mkdir(parents=True)
            for name in names:
                (tmp_path / part / label / name).symlink_to(photographs / label / name)
    for split, part, count in (("auto", "test", 3), ("train", "training", 6), ("all", "given", 9)):
        document = call_edgeclf("evaluate", exported, tmp_path, "--split", split, "--json").json()
        assert (document["part"], document["count"]) == (part, count)
    done = call_edgeclf("evaluate", exported, tmp_path, "--split", "val")
    assert done.code == 3
    assert "has no val part: got test, train" in done.err
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


def test_a_csv_names_the_images(call_edgeclf, exported, photographs, tmp_path):
    rows = [f"{photographs / label / '00.png'},{label}" for label in CLASSES]
    (tmp_path / "data.csv").write_text("\n".join(["path,label", *rows]))
    assert call_edgeclf("evaluate", exported, tmp_path / "data.csv", "--json").json()["count"] == 3
    (tmp_path / "data.csv").write_text("\n".join(["path,class", *rows]))
    done = call_edgeclf("evaluate", exported, tmp_path / "data.csv")
    assert done.code == 3
    assert "path,label[,split] in the first line" in done.err


def test_unreadable_images_are_left_out_counted_and_listed(call_edgeclf, exported, tmp_path):
    data = write_photographs(tmp_path / "data", per_class=3)
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


def test_images_without_labels_are_enough(call_edgeclf, exported, tampered, photographs, tmp_path):
    (tmp_path / "monday").mkdir()
    for number, label in enumerate(CLASSES):
        (tmp_path / "monday" / f"{number}.png").symlink_to(photographs / label / "00.png")
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
    ],
)
def test_verify_options_that_do_not_fit_are_usage_errors(call_edgeclf, exported, photographs, options, said):
    done = call_edgeclf("verify", exported, photographs, *options)
    assert done.code == 2, done.err
    assert said in " ".join(done.err.split())


def test_a_missing_emulator_is_said_before_anything_is_downloaded(
    call_edgeclf, exported, photographs, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call_edgeclf("verify", exported, photographs, "--emulate", "arm64")
    assert (done.code, done.out) == (5, "")
    assert "apt install" in " ".join(done.err.split())
