"""Commands that other commands suggest reach their program as they are meant, whatever the names of files."""

import re
import shutil
import subprocess

import pytest

from ..conftest import SEED_CNN

pytestmark = pytest.mark.slow

ODD = "it's $HOME; my run"


def words_of(suggested: str) -> list[str]:
    """What a shell passes to edgeclf."""
    script = f"edgeclf() {{ printf '%s\\n' \"$@\"; }}\n{suggested}"
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()


def test_training_and_export_say_what_comes_next(call_edgeclf, photographs, tmp_path):
    run, out = tmp_path / ODD, tmp_path / f"{ODD}.onnx"
    done = call_edgeclf("train", photographs, "--run", run, *SEED_CNN, "--epochs", 1)
    assert done.code == 0, done.err
    (suggested,) = re.findall(r"^next: (.*)$", done.err, flags=re.MULTILINE)
    assert words_of(suggested) == ["export", str(run), "--out", "model.onnx"]
    done = call_edgeclf("export", run, "--out", out)
    assert done.code == 0, done.err
    ((first, second),) = re.findall(r"; next: (.*), or (.*)$", done.err, flags=re.MULTILINE)
    assert words_of(first) == ["infer", str(out), "IMAGES"]
    assert words_of(second) == ["bench", str(out)]


def test_an_unfinished_run_says_how_it_is_finished(call_edgeclf, trained_run, tmp_path):
    run = tmp_path / ODD
    shutil.copytree(trained_run.folder, run)
    (run / "model.keras").unlink()
    (run / "checkpoint.npz").touch()
    done = call_edgeclf("export", run, "--out", tmp_path / "m.onnx")
    assert done.code == 3
    (suggested,) = re.findall(r"; run (edgeclf .*)\.$", done.err, flags=re.MULTILINE)
    assert words_of(suggested) == ["train", "--resume", str(run)]
