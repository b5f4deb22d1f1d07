"""Files of another kind than a command takes: one clear sentence, exit code 3, no decoder's or parser's own words."""

import shutil
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_PARSER_WORDS = ("codec", "Errno", "Protobuf", "PROTOBUF", "unpickling", "load key", "Traceback")
# What each kind is called in the sentence.
KINDS = {
    "model.onnx": "an ONNX model",
    "net.keras": "a Keras model",
    "photo.jpg": "an image",
    "data.zip": "a zip archive",
    "noise.bin": "binary data",
    "utf16.csv": "UTF-16 text",
    "latin1.csv": "text that is not UTF-8",
    "empty": "an empty file",
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory, exported, trained_run, photographs) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copy(exported, folder / "model.onnx")
    shutil.copy(trained_run.folder / "model.keras", folder / "net.keras")
    shutil.copy(photographs / "coffee" / "01.jpg", folder / "photo.jpg")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("coffee/01.jpg", "x")
    (folder / "noise.bin").write_bytes(bytes(range(256)) * 8)
    rows = "path,label\n" + "".join(f"{p},köffee\n" for p in (photographs / "coffee").iterdir())
    (folder / "utf16.csv").write_text(rows, encoding="utf-16")
    (folder / "latin1.csv").write_text(rows, encoding="latin-1")
    (folder / "empty").write_bytes(b"")
    return folder


def check(done, what: str) -> None:
    assert done.code == 3, (done.out, done.err)
    (sentence,) = done.err.splitlines()
    assert sentence.startswith("edgeclf: ")
    assert what in sentence
    assert "; " in sentence
    assert not any(words in sentence for words in _PARSER_WORDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_data_set_is_called_by_its_name(call_edgeclf, exported, trained_run, wrong, tmp_path, kind):
    path = wrong / kind
    # A broken CSV is a finding of the doctor's, and a model file is examined itself.
    if path.suffix not in {".csv", ".onnx"}:
        check(call_edgeclf("doctor", path, "--fast"), KINDS[kind])
    check(call_edgeclf("train", path, "--run", tmp_path / "run"), KINDS[kind])
    check(call_edgeclf("evaluate", exported, path), KINDS[kind])
    check(call_edgeclf("verify", exported, path, "--against", exported), KINDS[kind])
    if kind != "empty":
        check(call_edgeclf("doctor", trained_run.folder, "--data", path), KINDS[kind])
        check(call_edgeclf("export", trained_run.folder, "--out", tmp_path / "m.onnx", "--data", path), KINDS[kind])
        check(call_edgeclf("info", exported, "--labels", path), KINDS[kind])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_run_is_called_by_its_name(call_edgeclf, photographs, wrong, tmp_path, kind):
    # Only the beginning of a file without a telling one is looked at.
    what = "text" if kind == "latin1.csv" else KINDS[kind]
    # Models are exported as they are.
    if kind not in {"model.onnx", "net.keras"}:
        check(call_edgeclf("export", wrong / kind, "--out", tmp_path / "m.onnx"), what)
    check(call_edgeclf("train", photographs, "--run", tmp_path / "run", "--from", wrong / kind), what)
    check(call_edgeclf("train", "--resume", wrong / kind), what)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"model.onnx"}))
def test_what_is_no_model_is_called_by_its_name(call_edgeclf, exported, photographs, wrong, kind):
    what = "text" if kind == "latin1.csv" else KINDS[kind]
    if kind != "net.keras":
        check(call_edgeclf("info", wrong / kind), what)
    check(call_edgeclf("bench", wrong / kind), what)
    check(call_edgeclf("infer", wrong / kind, photographs), what)
    # Keras models are opened by all but bench and infer.
    if kind != "net.keras":
        check(call_edgeclf("evaluate", wrong / kind, photographs), what)
        check(call_edgeclf("verify", exported, photographs, "--against", wrong / kind), what)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"empty"}))
def test_what_are_no_weights_is_called_by_its_name(call_edgeclf, photographs, wrong, tmp_path, kind):
    what = {"latin1.csv": "text", "net.keras": "of another network: got 0 layers"}.get(kind, KINDS[kind])
    check(call_edgeclf("train", photographs, "--run", tmp_path / "run", "--weights", wrong / kind), what)


@pytest.mark.parametrize("kind", ["utf16.csv", "latin1.csv"])
def test_the_doctor_says_how_a_csv_is_mended(call_edgeclf, wrong, kind):
    done = call_edgeclf("doctor", wrong / kind)
    assert done.code == 4
    assert "Save it as UTF-8" in done.out
    assert KINDS[kind] in done.out


def test_a_data_set_that_is_elsewhere_is_no_note(call_edgeclf, trained_run, tmp_path):
    (tmp_path / "other").mkdir()
    check(call_edgeclf("doctor", trained_run.folder, "--fast", "--data", tmp_path / "other"), "check --data")


def test_a_model_file_is_examined_on_photographs(call_edgeclf, wrong):
    done = call_edgeclf("doctor", wrong / "model.onnx")
    assert done.code == 2
    assert "pass --data" in done.err


def test_the_process_ends_with_that_code(run_edgeclf, wrong):
    done = run_edgeclf("doctor", wrong / "photo.jpg")
    assert done.returncode == 3
    assert "got an image" in done.stderr
