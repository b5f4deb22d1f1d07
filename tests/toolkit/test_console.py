"""Text for terminals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.toolkit.console import printable


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
