"""A training that came to nothing: what is known of it, and the error that says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeclf.runtime.errors import InputError


class DivergedError(InputError):
    """The loss stopped being a number in the first epoch of a training.

    Attributes:
        facts: `stage`, `steps` that were finished, of how many in an `epoch_steps`, and the mean `loss` until then, None
            where there was none.
    """

    def __init__(self, facts: Mapping[str, Any], learning_rate: float, *, more: str = "") -> None:
        self.facts = facts
        self._learning_rate = learning_rate
        super().__init__(
            "training diverged in its first epoch",
            got=f"a loss that is not a number after {facts['steps']} of {facts['epoch_steps']} steps",
            expected="a finite loss",
            do=f"use a --learning-rate below {learning_rate:g} (edgeclf train --find-lr suggests one){more}",
        )

    def with_run(self, folder: Path) -> "DivergedError":
        """The same error with the folder that holds what is known."""
        return DivergedError(self.facts, self._learning_rate, more=f", or see edgeclf doctor {folder}")
