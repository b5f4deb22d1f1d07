"""Progress callbacks: long work reports how far it is, and the caller prints."""

from collections.abc import Callable
from typing import TypeAlias

# Called as progress(stage, done, total). The text of `stage` up to its first colon names the stage; what follows the
# colon is a note that may change from call to call ("fit: loss 0.31").
Progress: TypeAlias = Callable[[str, int, int], None]


def no_progress(_stage: str, _done: int, _total: int) -> None:
    """A `Progress` that reports nothing."""
