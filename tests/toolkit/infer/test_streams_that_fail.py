"""Standard streams that are closed or full, temporary folders that cannot be written, no home: a sentence and an exit code."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeclf.toolkit.console import environment_error

from ..colours import picture, records

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(picture("red"))
    return path


def shell(line, *arguments, env=None):
    """Runs a line of the shell in which `"$@"` is edgeclf with arguments."""
    command = ["bash", "-c", line, "bash", sys.executable, "-m", "edgeclf.toolkit", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **(env or {})}
    )


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "0<&- 2>&-"])
def test_a_result_needs_no_stderr(colour_model, image, redirection):
    done = shell(f'"$@" {redirection}', "infer", colour_model, image, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert records(done.stdout)[0]["label"] == "red"


@pytest.mark.parametrize(("redirection", "words"), [(">&-", "a closed file"), (">/dev/full", "no space left")])
@pytest.mark.parametrize(
    "arguments", [("infer", "{model}", "{image}", "--json"), ("info", "{model}"), ("--help",), ("--version",)]
)
def test_a_result_that_cannot_be_written_is_an_error(colour_model, image, redirection, words, arguments):
    given = [argument.format(model=colour_model, image=image) for argument in arguments]
    done = shell(f'"$@" {redirection}', *given)
    assert done.returncode == 3
    assert "cannot write the result to stdout" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_that_had_no_room_goes_on_when_there_is_some(tmp_path):
    program = (
        "import resource\n"
        "from edgeclf.toolkit.console import note\n"
        "note('first')\n"
        "limits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6, limits[1]))\n"
        "note('lost'); note('lost')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, limits)\n"
        "note('last')\n"
    )
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run([sys.executable, "-c", program], stderr=log, check=False)
    assert done.returncode == 0
    assert (tmp_path / "log").read_text() == "first\nlast\n"


def test_with_neither_stream_the_status_tells(colour_model, image, tmp_path):
    assert shell('"$@" >&- 2>&-', "infer", colour_model, image, "--json").returncode == 3
    assert shell('"$@" >&- 2>&-', "infer", colour_model, tmp_path / "none.png").returncode == 3
    out = tmp_path / "records.jsonl"
    # stdout is not needed here, and no file has taken its number.
    assert shell('"$@" >&- 2>&-', "infer", colour_model, image, "--json", "--out", out).returncode == 0
    assert [record["label"] for record in records(out.read_text())] == ["red"]


def test_a_bug_is_still_one():
    assert environment_error(FileNotFoundError(2, "No such file or directory", "spec.json")) is None
    assert environment_error(PermissionError(13, "Permission denied", "/etc/shadow")) is None


def test_temporary_files_that_cannot_be_written_are_named(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/tmp/of-a-test")
    shown = environment_error(OSError(30, "Read-only file system", "/tmp/of-a-test/edgeclf-export-1"))
    assert str(shown) == (
        "cannot write temporary files: got read-only file system, expected a writable folder with free space; "
        "set TMPDIR to one."
    )
    assert environment_error(OSError(30, "Read-only file system", "/usr/lib/x")) is None
    nowhere = FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
    assert "no folder that can be written to" in str(environment_error(nowhere))
    assert "cannot write /srv/x: got no space" in str(
        environment_error(OSError(28, "No space left on device", "/srv/x"))
    )
    # Without a name: a temporary file where their disk is full, else stdout.
    full = OSError(28, "No space left on device")
    for free, words in ((0, "room for results and for temporary files in /tmp/of-a-test"), (1 << 30, "to stdout")):
        monkeypatch.setattr("shutil.disk_usage", lambda _folder, free=free: SimpleNamespace(free=free))
        assert words in str(environment_error(full))


def test_a_name_that_stdout_cannot_encode_is_escaped(colour_model, tmp_path):
    model = tmp_path / "花.onnx"
    model.write_bytes(colour_model.read_bytes())
    for arguments in (("info",), ("info", "--json")):
        done = shell('"$@"', arguments[0], model, *arguments[1:], env={"PYTHONIOENCODING": "ascii"})
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        assert "\\u82b1" in done.stdout


_CRASH = """
import ctypes, importlib, os, sys
from edgeclf.toolkit.cli import run_process

def crash(*_, **__):
    libc = ctypes.CDLL(None)
    libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    libc.fputs(b"terminate called without an active exception\\n", ctypes.c_void_p.in_dll(libc, "stderr"))
    os.write(2, b"free(): invalid pointer\\n")
    os.abort()

module, name = sys.argv.pop(1).split(":")
setattr(importlib.import_module(module), name, crash)
run_process()
"""


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("edgeclf.toolkit.infer.files:infer_files", "{image}"),
        ("edgeclf.toolkit.infer.cameras:infer_cameras", "--camera={image}"),
    ],
)
def test_a_crash_in_native_code_leaves_its_words_and_the_lines_that_led_to_it(colour_model, image, place, source):
    command = [sys.executable, "-c", _CRASH, place, "infer", colour_model, source.format(image=image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGABRT
    for words in ("terminate called", "free(): invalid pointer", "Fatal Python error: Aborted", "in crash"):
        assert words in done.stderr
