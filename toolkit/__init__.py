"""The command line and what it shows: the only place that prints or exits."""

import contextlib
import os


def end_at_once(_number: int, _frame: object) -> None:
    """Handler of Ctrl-C while there is nothing to lose yet: before a command runs, and when all is written."""
    with contextlib.suppress(OSError):
        os.write(2, b"edgeclf: interrupted\n")
    os._exit(130)


def end_without_words(_number: int, _frame: object) -> None:
    """Handler of Ctrl-C once it has been said that there was one."""
    os._exit(130)
