"""Models that others made, through `edgeclf export`: verified against the original, on photographs divided by content."""

import hashlib
import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from edgeclf.runtime import ForeignModel, ModelSession, PixelScaling
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.training.data.seen_images import images_of_record

from ...conftest import CLASSES, add_unreadable, write_photographs
from .foreign_models import MEAN, STD, write_foreign

SCALING = ("--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "names.txt"
    path.write_text("\n".join(CLASSES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def original(photographs, tmp_path_factory):
    return write_foreign(tmp_path_factory.mktemp("original") / "other.onnx", photographs)


@pytest.fixture(scope="module")
def flat(photographs, tmp_path_factory):
    """The same photographs in one folder, without classes."""
    folder = tmp_path_factory.mktemp("flat")
    for number, file in enumerate(sorted(photographs.rglob("*.*"))):
        shutil.copy(file, folder / f"{number:03d}{file.suffix}")
    return folder


def spec_of(path):
    return ModelSession(path, device="cpu").spec


def digest(file):
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def pixels_of(folder, spec):
    files = sorted(file for file in folder.rglob("*.*") if file.is_file())
    return np.stack([preprocess_bgr(load_image(file), spec.preprocess) for file in files])


@pytest.mark.parametrize(
    "variant", [{}, {"bgr": True}, {"nhwc": True}, {"with_softmax": True}, {"sigmoid": True, "bgr": True, "nhwc": True}]
)
def test_fp32_computes_what_the_original_does(call_edgeclf, photographs, labels, tmp_path, variant):
    theirs = write_foreign(tmp_path / "other.onnx", photographs, **variant)
    options = [*SCALING, *(["--channels", "bgr"] if variant.get("bgr") else [])]
    done = call_edgeclf(
        "export", theirs, "--data", photographs, "--labels", labels, *options, "--out", tmp_path / "m.onnx", "--json"
    )
    assert done.code == 0, done.err
    session = ModelSession(tmp_path / "m.onnx", device="cpu")
    foreign = ForeignModel(CLASSES, PixelScaling(MEAN, STD), channels="bgr" if variant.get("bgr") else None)
    images = pixels_of(photographs, session.spec)
    expected = ModelSession(theirs, device="cpu", foreign=foreign).run(images)
    np.testing.assert_allclose(session.run(images), expected, atol=1e-5)
    document = done.json()
    assert document["limits"]["max_error"] == 1e-4
    assert document["candidates"][0]["parity"][0]["candidate_accuracy"] > 0.9
    assert document["used_as"]["labels"] == {"value": list(CLASSES), "origin": "given"}


def test_int8_is_calibrated_and_judged_on_different_photographs_and_says_which(
    call_edgeclf, original, photographs, labels, tmp_path
):
    # Copies under other names and in no order must not be calibrated on and judged.
    data = shutil.copytree(photographs, tmp_path / "data")
    copied = sorted(data.rglob("*.png"))[::3]
    for number, file in enumerate(copied):
        shutil.copy(file, file.with_name(f"0000-{number}.png"))
    out = tmp_path / "m.onnx"
    arguments = ("--data", data, "--labels", labels, *SCALING, "--precision", "int8", "--effort", "quick")
    done = call_edgeclf("export", original, *arguments, "--out", out)
    assert done.code == 0, done.err
    assert f"of {60 + len(copied)} images 24 calibrate, 24 decide, 12 are only reported" in done.err
    assert f"{len(copied)} are copies of others" in done.err
    assert "Parity with other.onnx" in done.out
    spec = spec_of(out)
    assert spec.source["images"] == {"calibration": 24, "validation": 24, "test": 12}
    assert spec.source["file"] == "other.onnx"
    assert spec.source["digest"] == f"blake2b-128 {digest(original)}"
    assert spec.source["producer"] == "pytorch 2.9"
    assert spec.source["used_as"]["scaling"]["origin"] == "given"
    assert (spec.architecture, spec.precision, spec.parity["reference"][:11]) == ("other", "int8", "onnxruntime")
    assert (spec.portable, spec.portable_reason) == (
        spec.quantization["portable"],
        spec.quantization["portable_reason"],
    )
    assert str(tmp_path) not in spec.to_json()
    short = images_of_record(spec.seen_images).short
    assert sorted(short.values()) == ["train"] * 24 + ["val"] * 24
    # What it has seen is left out when it is evaluated, in the same folder and under other names.
    evaluated = call_edgeclf("evaluate", out, data, "--json")
    assert evaluated.code == 0, evaluated.err
    document = evaluated.json()
    assert document["selection"]["left_out"] is True
    unseen = [file for file in data.rglob("*.*") if digest(file)[:8] not in short]
    assert document["count"] == len(unseen)
    # The original is opened as the file's record says.
    verified = call_edgeclf("verify", out, data, "--against", original)
    assert verified.code == 0, verified.err
    assert "images calibrated this file and " in verified.err
    assert f"{original} is used as {out} records" in verified.err
    # The same command gives the same file, but for what it took.
    again = call_edgeclf("export", original, *arguments, "--fresh", "--out", tmp_path / "again.onnx")
    assert again.code == 0, again.err
    first, second = onnx.load(out), onnx.load(tmp_path / "again.onnx")
    assert first.graph == second.graph
    assert spec.with_changes(latency=None) == spec_of(tmp_path / "again.onnx").with_changes(latency=None)


def test_without_labels_agreement_is_judged_and_no_accuracy_is_told(call_edgeclf, original, flat, labels, tmp_path):
    out = tmp_path / "m.onnx"
    arguments = ("--data", flat, "--labels", labels, *SCALING, "--precision", "int8", "--effort", "quick")
    done = call_edgeclf("export", original, *arguments, "--out", out, "--json")
    assert done.code == 0, done.err
    assert "agreement is judged, accuracy is not" in done.err
    document = done.json()
    for candidate in document["candidates"]:
        for part in candidate["parity"]:
            assert (part["reference_accuracy"], part["candidate_accuracy"], part["accuracy_drop"]) == (None, None, None)
    assert "cannot be told without labels" in document["candidates"][-1]["verdict"]["doubts"][0]
    refused = call_edgeclf("export", original, *arguments, "--max-accuracy-drop", 0.1, "--out", tmp_path / "x.onnx")
    assert (refused.code, refused.err.splitlines()[-1].count("needs labels")) == (2, 1)
    kept = call_edgeclf("export", original, *arguments, "--min-agreement", 0.5, "--out", out, "--json")
    assert (kept.code, kept.json()["limits"]["max_accuracy_drop"]) == (0, None)


def test_without_photographs_fp32_is_verified_on_computed_images_and_int8_refused(
    call_edgeclf, original, labels, tmp_path
):
    done = call_edgeclf("export", original, "--labels", labels, *SCALING, "--out", tmp_path / "m.onnx")
    assert done.code == 0, done.err
    assert "32 computed images" in done.err
    spec = spec_of(tmp_path / "m.onnx")
    assert [(part["part"], part["images"]) for part in spec.parity["parts"]] == [("computed", 32)]
    assert spec.source["images"] == {"calibration": 0, "computed": 32}
    assert (spec.seen_images, spec.portable) == (None, False)
    assert "last digits" in spec.portable_reason
    for precision in ("int8", "fp16"):
        refused = call_edgeclf(
            "export", original, "--labels", labels, *SCALING, "--precision", precision, "--out", tmp_path / "x.onnx"
        )
        assert (refused.code, "--data" in refused.err) == (2, True), refused.err
        assert not (tmp_path / "x.onnx").exists()


def test_a_float16_original_is_judged_as_a_rounded_file(call_edgeclf, photographs, labels, tmp_path):
    theirs = write_foreign(tmp_path / "half.onnx", photographs, half=True)
    done = call_edgeclf(
        "export", theirs, "--data", photographs, "--labels", labels, *SCALING, "--out", tmp_path / "m.onnx", "--json"
    )
    assert done.code == 0, done.err
    document = done.json()
    assert document["limits"]["rule"] == "evidence"
    assert 0 < document["candidates"][0]["parity"][0]["max_error"] < 0.05
    verified = call_edgeclf("verify", tmp_path / "m.onnx", photographs, "--against", theirs)
    assert verified.code == 0, verified.err


def test_edgeclfs_own_fp32_file_is_a_source_and_its_int8_file_is_not(
    call_edgeclf, original, photographs, labels, tmp_path
):
    ours, eight = tmp_path / "ours.onnx", tmp_path / "eight.onnx"
    made = call_edgeclf("export", original, "--data", photographs, "--labels", labels, *SCALING, "--out", ours)
    assert made.code == 0, made.err
    arguments = ("--data", photographs, "--precision", "int8", "--effort", "quick")
    done = call_edgeclf("export", ours, *arguments, "--out", eight)
    assert done.code == 0, done.err
    spec = spec_of(eight)
    assert spec.labels == CLASSES
    assert (spec.source["file"], spec.source["source"]["file"]) == ("ours.onnx", "other.onnx")
    refused = call_edgeclf("export", eight, *arguments, "--out", tmp_path / "x.onnx")
    assert (refused.code, "int8 file" in refused.err) == (3, True), refused.err
    assert call_edgeclf("export", ours, *SCALING, "--out", tmp_path / "x.onnx").code == 2
    assert not (tmp_path / "x.onnx").exists()


def test_rejection_threshold_of_an_own_file_is_kept(call_edgeclf, original, photographs, labels, tmp_path):
    from edgeclf.export.graph.contract import attach_spec

    ours = tmp_path / "ours.onnx"
    assert call_edgeclf("export", original, "--labels", labels, *SCALING, "--out", ours).code == 0
    model = onnx.load(ours)
    attach_spec(model, spec_of(ours).with_changes(rejection_threshold=0.4))
    ours.write_bytes(model.SerializeToString())
    done = call_edgeclf("export", ours, "--data", photographs, "--out", tmp_path / "m.onnx", "--json")
    assert done.code == 0, done.err
    assert spec_of(tmp_path / "m.onnx").rejection_threshold == 0.4
    assert done.json()["candidates"][0]["parity"][0]["decision_agreement"] == 1.0


def test_unreadable_photographs_are_named_and_the_others_used(call_edgeclf, original, photographs, labels, tmp_path):
    data = shutil.copytree(photographs, tmp_path / "data")
    bad = add_unreadable(data / "coffee")
    arguments = ("export", original, "--data", data, "--labels", labels, *SCALING, "--out", tmp_path / "m.onnx")
    done = call_edgeclf(*arguments)
    assert done.code == 3
    assert "could not be read" in done.err
    # Only those that would have been judged are read.
    assert 1 <= done.err.count("warning: ") <= bad
    assert call_edgeclf(*arguments, "--ignore-unreadable").code == 0


@pytest.mark.slow
def test_bad_input_ends_with_one_sentence_before_any_image_is_read(run_edgeclf, original, tmp_path, labels):
    def fails(code, words, *arguments):
        done = run_edgeclf("export", *arguments, "--out", tmp_path / "m.onnx", "--data", tmp_path / "nowhere")
        assert done.returncode == code, done.stderr
        assert words in done.stderr.splitlines()[-1]
        assert not (tmp_path / "m.onnx").exists()

    fails(3, "--mean and --std", original)
    (tmp_path / "two.txt").write_text("a\nb", encoding="utf-8")
    fails(3, "2 labels", original, *SCALING, "--labels", tmp_path / "two.txt")
    fails(2, "images of another size", original, *SCALING, "--image-size", "64")
    fails(2, "--qat", original, *SCALING, "--labels", labels, "--precision", "int8", "--qat")
    model = onnx.load(original)
    helper.set_model_props(model, {"task": "detect", "names": "{0: 'a'}", "imgsz": "[48, 48]"})
    (tmp_path / "detector.onnx").write_bytes(model.SerializeToString())
    fails(3, "detect", tmp_path / "detector.onnx", *SCALING)
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    fails(3, "text.onnx", tmp_path / "text.onnx", *SCALING)
    fails(3, "missing.onnx", tmp_path / "missing.onnx", *SCALING)


def test_too_few_photographs_other_classes_and_options_for_runs(
    call_edgeclf, original, photographs, labels, tmp_path, trained_run
):
    def refused(code, *arguments):
        done = call_edgeclf("export", *arguments, "--out", tmp_path / "m.onnx")
        assert done.code == code, done.err
        assert not (tmp_path / "m.onnx").exists()
        return done.err

    few = tmp_path / "few"
    few.mkdir()
    for number, file in enumerate(sorted(photographs.rglob("*.png"))[:6]):
        shutil.copy(file, few / f"{number}.png")
    arguments = (original, "--labels", labels, *SCALING)
    assert "6 different images" in refused(3, *arguments, "--data", few, "--precision", "int8")
    (tmp_path / "empty").mkdir()
    refused(3, *arguments, "--data", tmp_path / "empty")
    data = write_photographs(tmp_path / "data", per_class=4)
    (data / "tea").mkdir()
    cv2.imwrite(str(data / "tea" / "0.png"), np.zeros((60, 60, 3), np.uint8))
    assert "class folders tea" in refused(3, *arguments, "--data", data)
    assert "all models describe themselves" in refused(2, trained_run.folder, *SCALING)
    assert json.loads((trained_run.folder / "spec.json").read_text())["source"] is None


def test_a_csv_of_other_columns_lists_the_photographs_of_export_and_verify(
    call_edgeclf, original, photographs, labels, tmp_path, trained_run
):
    files = sorted(photographs.rglob("*.png"))
    rows = [f"{file.parent.name},{file.parent.name}/{file.stem}" for file in files]
    listed = tmp_path / "lists" / "all.csv"
    listed.parent.mkdir()
    listed.write_text("\n".join(["kind,picture", *rows]) + "\n", encoding="utf-8")
    columns = ("--path-column", "picture", "--label-column", "kind")
    columns += ("--image-folder", photographs, "--image-suffix", ".png")
    options, out = (original, "--labels", labels, *SCALING, "--out", tmp_path / "m.onnx"), tmp_path / "m.onnx"

    # What the sentence about the columns names is an option of the command.
    unnamed = call_edgeclf("export", *options, "--data", listed)
    assert (unnamed.code, "--path-column" in unnamed.err, out.exists()) == (3, True, False)
    done = call_edgeclf("export", *options, "--data", listed, *columns)
    assert done.code == 0, done.err
    assert f"of {len(files)} images" in done.err

    sides = ("verify", out, listed, "--against", original, "--split", "all", "--labels", labels, *SCALING, "--json")
    assert call_edgeclf(*sides).code == 3
    verified = call_edgeclf(*sides, *columns)
    assert verified.code == 0, verified.err
    assert verified.json()["images"] == len(files)
    assert verified.json()["reference_accuracy"] is not None

    for refused in (
        ("export", *options, *columns),
        ("export", trained_run.folder, "--out", tmp_path / "run.onnx", *columns),
        ("verify", out, *columns),
    ):
        done = call_edgeclf(*refused)
        assert done.code == 2, done.err
    assert not (tmp_path / "run.onnx").exists()
