import copy
import os
import pickle
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime import errors
from edgeclf.runtime.errors import (
    EdgeclfError,
    GateError,
    MissingPackageError,
    UnavailableError,
    UsageError,
    command_line,
    install_hint,
)

from ..randomness import fresh_rng


def test_a_sentence_says_what_got_expected_and_do():
    error = EdgeclfError("cannot read x", got="0 bytes", expected="an image", hint="copy it again")
    assert str(error) == "cannot read x: got 0 bytes, expected an image; copy it again."


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({}, "it broke."),
        ({"got": "a"}, "it broke: got a."),
        ({"expected": "b"}, "it broke: expected b."),
        ({"hint": "c"}, "it broke; c."),
        ({"got": "two\nlines\tand tabs"}, "it broke: got two lines and tabs."),
        ({"got": "a  b.jpg\r\n  and more\n"}, "it broke: got a  b.jpg and more."),
    ],
)
def test_missing_parts_leave_no_trace(parts, sentence):
    assert str(EdgeclfError("it broke", **parts)) == sentence


def test_exit_codes_are_those_of_the_documentation():
    public = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EdgeclfError)]
    assert {cls.__name__: cls.exit_code for cls in public if cls.exit_code != 3} == {
        "UsageError": 2,
        "GateError": 4,
        "UnavailableError": 5,
        "DeviceUnavailableError": 5,
        "MissingPackageError": 5,
    }
    assert len(public) > 8


def test_a_missing_package_is_an_import_error_too():
    # So that `try: import ...; except ImportError` in an application works as with any other package.
    with pytest.raises(ImportError):
        raise MissingPackageError("x is not installed")
    assert issubclass(MissingPackageError, UnavailableError)
    assert not issubclass(UsageError, ImportError)


class OddError(GateError):
    """An error with arguments of its own."""

    def __init__(self, count: int, *, limit: int) -> None:
        super().__init__(f"{count} of {limit}", hint="ask for less")
        self.count = count


@pytest.mark.parametrize("cls", [EdgeclfError, *EdgeclfError.__subclasses__(), MissingPackageError, OddError])
@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_survives_a_process_boundary(cls, copied):
    error = (
        cls(3, limit=2) if cls is OddError else cls("cannot read x", got="0 bytes", expected="an image", hint="copy it")
    )
    # Twice, as from a pool within a pool.
    again = copied(copied(error))
    assert type(again) is cls
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    assert again.exit_code == error.exit_code


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1))
def test_a_command_line_comes_back_from_the_shell_as_it_was(name):
    path = Path(name)
    words = shlex.split(command_line("export", path, "--out", "model.onnx"))
    assert words[0:2] == ["edgeclf", "export"]
    assert Path(words[2]) == path
    assert not words[2].startswith("-")
    assert words[3:] == ["--out", "model.onnx"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_words_that_no_terminal_shows_come_back_from_bash_as_they_were():
    rng = fresh_rng()
    names = [
        "two\nlines",
        "tab\there",
        "\x1b[2J",
        "back\\slash\n'quote'",
        "turned\u202e",
        "no text \udcff",
        "\n",
        "a\n",
        "-\n$x`y`",
    ]
    signs = [*"aé '\"\\$`\n\t\x01\x7f\u200f\U0001f600", "\udc80"]
    names += ["x" + "".join(rng.choice(signs, 12)) for _ in range(30)]
    command = command_line("doctor", *map(Path, names))
    # A terminal shows it as it is, and a sentence keeps it on its line.
    assert command.isprintable()
    assert command in EdgeclfError("it failed", hint=f"run {command}").sentence
    program = 'edgeclf() { printf "%s\\0" "$@"; }; ' + command
    done = subprocess.run(["bash", "-c", program], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [
        b"doctor",
        *(os.fsencode(f"./{name}" if name[0] == "-" else name) for name in names),
    ]


def test_plain_words_are_not_quoted_and_dashes_are_no_options():
    assert command_line("doctor", Path("photographs"), "--json") == "edgeclf doctor photographs --json"
    assert command_line("doctor", Path("my photographs")) == "edgeclf doctor 'my photographs'"
    assert command_line("doctor", Path("-x")) == "edgeclf doctor ./-x"


def test_extras_are_installed_by_one_command():
    assert install_hint("train", "export") == 'run pip install "edgeclf[train,export]"'
