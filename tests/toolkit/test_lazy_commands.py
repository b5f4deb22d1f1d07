"""Sub-commands that are loaded when they are needed: what help, completion and suggestions say without them."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest

from edgeclf.toolkit.commands import COMMANDS

PROGRAM = """
import sys
from edgeclf.toolkit.cli import main
try:
    main()
finally:
    loaded = sorted(name.rsplit(".", 1)[1] for name in sys.modules if name.startswith("edgeclf.toolkit.commands."))
    print("loaded:", *loaded, file=sys.stderr)
"""


def loaded_by(*arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_commands_say_of_themselves(name):
    command = getattr(importlib.import_module(f"edgeclf.toolkit.commands.{name}"), name)
    first = inspect.cleandoc(command.__doc__).split("\n\n")[0]
    assert COMMANDS[name] == " ".join(first.split())


def test_the_help_of_the_program_loads_no_command():
    assert loaded_by("--help") == []
    assert loaded_by("--version") == []
    assert loaded_by("trian") == []


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"demo"}))
def test_a_command_is_loaded_alone(name):
    assert loaded_by(name, "--help") == [name]


def test_a_slip_of_the_pen_is_still_understood(run_edgeclf):
    done = run_edgeclf("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean 'train'?" in done.stderr


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("edgeclf ex", {"export"}),
        ("edgeclf ", set(COMMANDS)),
        ("edgeclf train --find", {"--find-lr"}),
        ("edgeclf doctor --fa", {"--fast"}),
        ("edgeclf nothing --fa", set()),
    ],
)
def test_the_shell_completes_commands_and_their_options(words, completions):
    count = len(words.split()) - (not words.endswith(" "))
    environment = os.environ | {"_EDGECLF_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    program = "import sys\nsys.argv[0] = 'edgeclf'\nfrom edgeclf.toolkit.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == completions
