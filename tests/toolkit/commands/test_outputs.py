"""Files that commands write: a name that is a folder's is refused before any work, whatever the option."""

import subprocess
import sys

import pytest

FILES = [
    ("export", "run", "--out"),
    ("export", "run", "--out", "m.onnx", "--precision", "int8", "--plot"),
    ("verify", "m.onnx", "data", "--against", "run", "--layers", "--plot"),
    ("compare", "m.onnx", "n.onnx", "data", "--out"),
    ("compare", "m.onnx", "n.onnx", "data", "--plot"),
    ("bench", "m.onnx", "--plot"),
    ("doctor", "data", "--html"),
    ("infer", "m.onnx", "data", "--out"),
    ("infer", "m.onnx", "--camera", "0", "--save"),
    ("infer", "m.onnx", "--camera", "0", "--events"),
    ("train", "data", "--find-lr"),
    ("train", "data", "--show-augmentation"),
]
PICTURES = [command for command in FILES if command[-1] in {"--plot", "--find-lr", "--show-augmentation"}]


@pytest.mark.parametrize("command", FILES, ids=lambda command: f"{command[0]} {command[-1]}")
def test_the_name_of_a_folder_is_refused(call_edgeclf, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    done = call_edgeclf(*command, "out dir/")
    assert done.code == 3
    assert done.err.startswith("edgeclf: cannot write out dir/: got the name of a folder, expected a file path; ")
    assert "such as 'out dir/" in done.err
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    for name in ("there", "there/", "."):
        done = call_edgeclf(*command, name)
        assert done.code == 3
        assert f"cannot write {name}: got an existing folder" in done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("command", FILES, ids=lambda command: f"{command[0]} {command[-1]}")
def test_a_file_has_a_name_and_it_is_no_dash(call_edgeclf, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    done = call_edgeclf(*command, "")
    assert (done.code, done.err.split(":")[1]) == (3, " cannot write a file")
    if command[0] != "infer" or command[-1] == "--save":
        done = call_edgeclf(*command, "-")
        assert done.code == 3
        assert "cannot write to stdout: got -, expected a file path; name a file, such as " in done.err
    assert not list(tmp_path.iterdir())


def test_records_go_to_stdout_where_a_dash_is_named(
    call_edgeclf, make_colour_model, photographs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model = make_colour_model(tmp_path / "m.onnx")
    done = call_edgeclf("infer", model, photographs, "--max-frames", "3", "--json", "--out", "-")
    assert done.code == 0, done.err
    assert [line[:10] for line in done.out.splitlines()] == ['{"source":'] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("command", PICTURES, ids=lambda command: f"{command[0]} {command[-1]}")
@pytest.mark.parametrize("name", ["picture", "picture.jpg", "picture.png.bak"])
def test_pictures_are_png(call_edgeclf, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    done = call_edgeclf(*command, name)
    assert done.code == 2
    assert f"bad {command[-1]}: got {name}, expected a file name that ends in .png; name one, such as " in done.err


def test_another_name_is_taken(call_edgeclf, photographs, tmp_path):
    for name in ("page.html", "page", "new/deep/page.html"):
        done = call_edgeclf("doctor", photographs, "--fast", "--html", tmp_path / name)
        assert done.code in {0, 4}, done.err
        assert (tmp_path / name).stat().st_size > 1000


def test_the_process_ends_with_that_code(tmp_path):
    command = [sys.executable, "-m", "edgeclf.toolkit", "export", "run", "--out", "out/"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "name a file inside it, such as out/model.onnx" in done.stderr


def test_a_file_in_the_way_of_a_folder_is_said(call_edgeclf, photographs, tmp_path):
    (tmp_path / "file").touch()
    done = call_edgeclf("doctor", photographs, "--fast", "--html", tmp_path / "file" / "page.html")
    assert done.code == 3
    assert "got a file where a folder has to be" in done.err
    done = call_edgeclf("demo", "--folder", tmp_path / "file")
    assert done.code == 3
    assert "got a file where a folder has to be" in done.err
