"""Ctrl-C at any moment of the first second: exit code 130, one line, no traceback."""

import subprocess
import sys

import pytest

# Sends the signal to itself when a module is about to be imported, and runs the command as `python -m` does.
PROGRAM = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)
        return None

at, *sys.argv[1:] = sys.argv[1:]
# A shell that runs the tests in the background leaves the signal ignored.
signal.signal(signal.SIGINT, HANDLER)
sys.meta_path.insert(0, Interrupting())
runpy.run_module("edgeclf.toolkit", run_name="__main__", alter_sys=True)
"""


def run_interrupted(at, *command, handler="signal.default_int_handler"):
    program = PROGRAM.replace("HANDLER", handler)
    line = [sys.executable, "-c", program, at, *map(str, command)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "module",
    [
        *("edgeclf.toolkit.cli", "typer", "typer.core", "edgeclf.toolkit.console", "edgeclf.toolkit.commands.bench"),
        *("edgeclf.runtime.session.session", "numpy", "numpy._core.multiarray", "cv2", "onnxruntime"),
    ],
)
def test_ctrl_c_while_modules_are_imported_has_no_traceback(colour_model, module):
    done = run_interrupted(module, "bench", colour_model, "--duration", "600")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "edgeclf: interrupted\n")


def test_ctrl_c_that_is_ignored_stays_so(colour_model):
    done = run_interrupted("typer", "info", colour_model, "--json", handler="signal.SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")


# What imports the module that Ctrl-C meets, and there meets it again before the first has ended the command.
TWICE = """
import signal, sys, time

import typer.core

from edgeclf.toolkit import cli, end_at_once

signal.signal(signal.SIGINT, end_at_once)
raised = []

def command(ctx):
    try:
        sys.path.insert(0, FOLDER)
        import interrupted_module
        time.sleep(60)
    except KeyboardInterrupt:
        raised.append(1)
        try:
            # Longer than the signal of a second interruption would wait.
            time.sleep(5 * cli._WAIT_S)
        except KeyboardInterrupt:
            raised.append(2)
        raise

typer.core.TyperGroup.invoke = lambda self, ctx: command(ctx)
try:
    cli._Boundary().invoke(None)
finally:
    time.sleep(5 * cli._WAIT_S)
    print(raised)
"""


def test_ctrl_c_pressed_twice_during_an_import_interrupts_once(tmp_path):
    (tmp_path / "interrupted_module.py").write_text(
        "import os, signal, time\nfor _ in range(2):\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.012)\n",
        encoding="utf-8",
    )
    program = TWICE.replace("FOLDER", repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "[1]\n", "edgeclf: interrupted\n")
