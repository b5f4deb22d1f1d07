"""Text for terminals."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.toolkit.console import environment_error, note, print_json, print_result, print_table, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("röd 花.jpg", "röd 花.jpg"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\udcff.jpg", "\\xff.jpg"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_any_text_becomes_one_printable_line(text):
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("error", "got"),
    [
        (MemoryError("Unable to allocate 9.19 GiB for an array"), "unable to allocate 9.19 GiB for an array"),
        (MemoryError(), "none left"),
        (OSError(12, "Cannot allocate memory"), "cannot allocate memory"),
    ],
)
def test_memory_that_is_not_there_is_no_bug(error, got):
    shown = environment_error(error)
    assert str(shown).startswith(f"there is not enough memory: got {got}, expected ")
    assert shown.exit_code == 3
    # What a program does wrong is one.
    assert environment_error(IndexError("list index out of range")) is None


HOSTILE = "\x1b[2J\x9b2J\u202egpj.exe"


@pytest.mark.parametrize(
    "show",
    [
        print_result,
        note,
        lambda text: print_json({text: [text]}),
        lambda text: print_table(text, [text], [[text]]),
        lambda text: print_result(f"first\n{text}"),
    ],
)
def test_nothing_that_is_printed_commands_a_terminal(capsys, show):
    show(f"{HOSTILE} röd [bold]花[/bold]")
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert all(line.isprintable() for line in text.split("\n"))
    assert all(part in text for part in ("röd", "[bold]花[/bold]"))


def test_json_on_stdout_is_read_back(capsys):
    print_json({"name": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"name": HOSTILE}
