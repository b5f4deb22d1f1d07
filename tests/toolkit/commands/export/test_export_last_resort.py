"""Where no int8 recipe passes, the run is trained for 8 bits and exported in its own place."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgeclf.export import ParityLimits, exporter
from edgeclf.runtime import Classifier
from edgeclf.runtime.errors import InputError, RunFolderError
from edgeclf.toolkit.export.last_resort import find_trained, folder_beside, train_for_8_bits
from edgeclf.training import load_run
from edgeclf.training.fit import stages

pytestmark = pytest.mark.slow

# An error that rounding to 8 bits cannot reach, and neither can its steps towards float.
NOTHING_PASSES = ParityLimits(min_agreement=0.0, max_error=1e-9)
INT8 = ("--precision", "int8", "--effort", "quick", "--entrance", "int8")


@pytest.fixture
def no_recipe_suits(monkeypatch):
    """Refuses int8 files of networks that were trained in float; those of networks trained for 8 bits are judged as ever."""
    judge = exporter._judge_precisions

    def refuse(classifier, images, *, options, **more):
        limits = NOTHING_PASSES if classifier.simulate is None else options.limits
        return judge(classifier, images, options=replace(options, limits=limits), **more)

    monkeypatch.setattr(exporter, "_judge_precisions", refuse)


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy of the run, in a folder with nothing beside it."""
    return shutil.copytree(trained_run.folder, tmp_path / "runs" / "mine")


@pytest.fixture(scope="module")
def trained_pair(trained_run, tmp_path_factory) -> Path:
    """A folder with the run `mine` and, beside it, `mine-qat`; not to be changed."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(trained_run.folder, folder / "mine")
    train_for_8_bits(load_run(folder / "mine"))
    return folder


@pytest.fixture
def pair(trained_pair, tmp_path) -> Path:
    """A copy of it: the run before, with the run trained for 8 bits beside it."""
    return shutil.copytree(trained_pair, tmp_path / "pair") / "mine"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words(text):
    return " ".join(text.split())


@pytest.mark.usefixtures("no_recipe_suits")
def test_the_run_is_trained_for_8_bits_and_its_file_judged_by_the_run_before(call_edgeclf, trained_run, run, tmp_path):
    out = tmp_path / "m.onnx"
    done = call_edgeclf("export", run, *INT8, "--out", out, "--json")
    assert done.code == 0, done.err
    said, document, qat = words(done.err), done.json(), folder_beside(run)
    assert f"{run} is trained for 8 bits now, into {qat}; that takes minutes" in said
    assert f"{out} is of {qat}, the network of {run} trained for 8 bits: accuracy " in said
    assert f"verify it with --against {qat}" in said
    assert "What passes, or may" not in said
    assert (document["written"], document["written_precision"]) == (True, "int8")
    assert (document["qat"]["run"], document["qat"]["reused"], document["qat"]["written"]) == (str(qat), False, True)
    # The export that failed, and the one that is the file.
    refused, written = document["qat"]["other_export"]["candidates"][-1], document["candidates"][-1]
    assert refused["failures"]
    assert refused["replaced"] == []
    assert written["failures"] == []
    # It is compared with what was trained, and with the float network of the run before.
    before, after = (load_run(folder) for folder in (run, qat))
    assert written["parity"][0]["reference_accuracy"] == after.spec.training["val_accuracy"]
    assert written["replaced"][0]["reference_accuracy"] == trained_run.document["validation"]["accuracy"]
    spec = Classifier(out).spec
    assert spec.precision == "int8"
    assert spec.parity["replaced"]["parts"] == written["replaced"]
    assert spec.parity["replaced"]["limits"]["rule"] == "evidence"
    assert [part["part"] for part in spec.parity["replaced"]["parts"]] == ["validation", "test"]
    assert spec.training["trained_from"] == before.weights_identity()
    # The same images in the same splits.
    assert after.split == before.split
    assert after.options["seed"] == before.options["seed"]

    # It is there the next time.
    kept = contents(qat)
    done = call_edgeclf("export", run, *INT8, "--out", tmp_path / "again.onnx")
    assert done.code == 0, done.err
    assert f"{qat} was trained for 8 bits before, and is used again" in words(done.err)
    assert "trained for 8 bits now" not in done.err
    assert contents(qat) == kept
    # Both exports are shown, the comparison with the run before once.
    assert done.out.count("Parity with the Keras model") == 2
    assert done.out.count("Compared with the network before it was trained for 8 bits") == 1
    assert Classifier(tmp_path / "again.onnx").spec.parity["replaced"]["parts"] == written["replaced"]


@pytest.mark.usefixtures("no_recipe_suits")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--no-qat",), "trains the network for 8 bits, was not tried"),
        (("--budget-s", 0), "not trained for 8 bits: --budget-s is used up"),
        (("--min-agreement", 0.9), "--min-agreement asks for those of"),
    ],
)
def test_it_is_not_begun(call_edgeclf, run, tmp_path, options, said):
    done = call_edgeclf("export", run, *INT8, *options, "--out", tmp_path / "m.onnx")
    assert done.code == 4, done.err
    assert said in words(done.err)
    assert f"--from {run} --qat --run {folder_beside(run)}:" in words(done.err)
    assert not (tmp_path / "m.onnx").exists()
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_qat_is_about_int8(call_edgeclf, run, tmp_path):
    for flag in ("--qat", "--no-qat"):
        done = call_edgeclf("export", run, flag, "--out", tmp_path / "m.onnx")
        assert done.code == 2
        assert f"{flag} is about int8" in done.err


@pytest.mark.usefixtures("no_recipe_suits")
@pytest.mark.parametrize("foreign", ["notes", "run", "file"])
def test_what_else_stands_in_its_place_is_not_touched(call_edgeclf, run, tmp_path, foreign):
    place = folder_beside(run)
    if foreign == "run":
        shutil.copytree(run, place)
    elif foreign == "notes":
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    else:
        place.write_text("mine")
    before = contents(run.parent)
    done = call_edgeclf("export", run, *INT8, "--out", tmp_path / "m.onnx")
    assert done.code == 4, done.err
    said = words(done.err)
    assert f"not trained for 8 bits: {place} is not" in said
    assert f"--run {place}-2" in said
    assert contents(run.parent) == before
    assert not (tmp_path / "m.onnx").exists()


def rewrite_spec(run, **training):
    document = json.loads((run / "spec.json").read_text())
    document["training"] |= training
    (run / "spec.json").write_text(json.dumps(document))


def test_only_this_run_trained_for_8_bits_on_its_training_images_is_used_again(pair):
    run, qat = load_run(pair), folder_beside(pair)
    assert find_trained(run).folder == qat
    spec, split = (qat / "spec.json").read_text(), (qat / "split.csv").read_text()

    def refused(said):
        with pytest.raises(RunFolderError, match=said):
            find_trained(run)
        (qat / "spec.json").write_text(spec)
        (qat / "split.csv").write_text(split)

    rewrite_spec(qat, trained_from="model.keras (blake2b-128 00)")
    refused("trained from another network")
    rewrite_spec(qat, quantization_aware=False)
    refused("not trained for 8 bits")
    rewrite_spec(qat, ending="interrupted")
    refused("--resume")
    # What judges the file must not have trained it.
    (qat / "split.csv").write_text(split.replace(",val,", ",train,", 1))
    refused("trained on other images")
    # Fewer training images are no harm.
    (qat / "split.csv").write_text(split.replace(",train,", ",test,", 1))
    assert find_trained(run).folder == qat


@pytest.mark.usefixtures("no_recipe_suits")
def test_where_both_fail_the_error_has_both_and_or_fp32_writes_fp32(call_edgeclf, pair, tmp_path):
    out, qat = tmp_path / "m.onnx", folder_beside(pair)
    # Five epochs change labels: an agreement that is asked for holds against the run before.
    options = ("export", pair, *INT8, "--out", out, "--min-agreement", 1, "--max-accuracy-drop", 1, "--qat")
    done = call_edgeclf(*options)
    assert done.code == 4, done.err
    error = words(done.err.splitlines()[-1])
    assert "largest probability error" in error
    assert f"{qat}, trained for 8 bits: against the network before it was trained for 8 bits: top-1 agreement" in error
    assert "--qat" not in words(done.err).split("What passes, or may:")[1]
    assert not out.exists()

    done = call_edgeclf(*options, "--or-fp32", "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert (document["written_precision"], document["qat"]["written"]) == ("fp32", False)
    refused = document["qat"]["other_export"]["candidates"][-1]
    assert refused["replaced"][0]["agreement"] < 1
    assert any("against the network before" in failure for failure in refused["failures"])
    assert "is the fp32 file, as --or-fp32 asks" in words(done.err)
    assert Classifier(out).spec.precision == "fp32"


@pytest.mark.usefixtures("no_recipe_suits")
def test_or_fp32_comes_after_the_training(call_edgeclf, pair, tmp_path):
    out = tmp_path / "m.onnx"
    # What is asked of the accuracy is asked beside the run before, and nothing of its labels.
    done = call_edgeclf("export", pair, *INT8, "--out", out, "--or-fp32", "--max-accuracy-drop", 0.5, "--json")
    assert done.code == 0, done.err
    assert done.json()["written_precision"] == "int8"
    parity = Classifier(out).spec.parity
    limits = parity["replaced"]["limits"]
    assert (limits["min_agreement"], limits["max_accuracy_drop"]) == (0.0, 0.5)
    assert parity["limits"]["rule"] == "evidence"
    assert "fp32 file" not in done.err
    assert Classifier(out).spec.precision == "int8"


@pytest.mark.usefixtures("no_recipe_suits")
def test_a_network_that_cannot_be_trained_for_8_bits_is_one_line(call_edgeclf, run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("cannot train this network for 8 bits", got="odd, a SeparableConv2D")

    monkeypatch.setattr(stages, "fake_quantized", refuse)
    done = call_edgeclf("export", run, *INT8, "--out", tmp_path / "m.onnx")
    assert done.code == 4, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("not trained for 8 bits")]
    assert "cannot train this network for 8 bits: got odd, a SeparableConv2D" in line
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert not (tmp_path / "m.onnx").exists()


def test_an_epoch_0_that_was_best_is_nothing_new(call_edgeclf, pair, tmp_path, no_recipe_suits):
    rewrite_spec(folder_beside(pair), ranges_8bit=None)
    done = call_edgeclf("export", pair, *INT8, "--out", tmp_path / "m.onnx")
    assert done.code == 4, done.err
    assert "no epoch with a better validation figure than rounding alone" in words(done.err)


def test_a_run_trained_for_8_bits_is_not_trained_for_them_again(call_edgeclf, pair, tmp_path, monkeypatch):
    judge = exporter._judge_precisions
    monkeypatch.setattr(
        exporter,
        "_judge_precisions",
        lambda *inputs, options, **more: judge(*inputs, options=replace(options, limits=NOTHING_PASSES), **more),
    )
    done = call_edgeclf("export", folder_beside(pair), *INT8, "--out", tmp_path / "m.onnx")
    assert done.code == 4, done.err
    assert "--qat" not in done.err
    assert sorted(path.name for path in pair.parent.iterdir()) == ["mine", "mine-qat"]


def test_the_place_of_a_run_that_has_no_name(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert folder_beside(Path()) == tmp_path / "here-qat"
    assert folder_beside(Path("..")) == tmp_path.with_name(f"{tmp_path.name}-qat")
    assert folder_beside(Path("runs/mine/")) == Path("runs/mine-qat")
