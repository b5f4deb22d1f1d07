"""The checkpoint: training state after the last finished epoch, in one file that is replaced atomically."""

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeclf.runtime.errors import RunFolderError
from edgeclf.runtime.files import replacing
from edgeclf.training.fit.loop import Best, FitState

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import AnyArray

_VERSION = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Training state after a finished epoch.

    Attributes:
        stage: The fit that the state belongs to.
        state: Weights, optimizer, history and best epoch.
        fingerprint: Digest of the training and validation images with their labels.
    """

    stage: str
    state: FitState
    fingerprint: str

    def check_images(self, fingerprint: str, folder: Path, changed: str | None = None) -> None:
        """Checks that a training is resumed with the images that it began with.

        Args:
            fingerprint: Digest of the images now.
            folder: The run folder, for the message.
            changed: What is known of the images that have changed, for the message; None for nothing.

        Raises:
            RunFolderError: They have changed.
        """
        if self.fingerprint != fingerprint:
            raise RunFolderError(
                f"cannot resume {folder}",
                got=changed or "images that have changed since it began",
                expected="the images it was training on",
                hint="put them back, or train again with --overwrite",
            )


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint atomically: `path` holds either the one before or this one.

    Raises:
        OutputError: See `replacing`.
    """
    state = checkpoint.state
    if state.best is None:
        raise ValueError("a checkpoint is of a finished epoch")
    facts = {
        "version": _VERSION,
        "stage": checkpoint.stage,
        "fingerprint": checkpoint.fingerprint,
        "history": state.history,
        "first": state.first,
        "seconds": state.seconds,
        "best": {"value": state.best.value, "epoch": state.best.epoch},
        "variables": len(state.variables),
        "weights": len(state.best.weights),
    }
    arrays: dict[str, AnyArray] = {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        **{f"variable{number}": array for number, array in enumerate(state.variables)},
        **{f"best{number}": array for number, array in enumerate(state.best.weights)},
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type] # its stub takes the keywords for an option


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        RunFolderError: The file is missing, damaged or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes().decode())
            _check_version(facts["version"])
            state = FitState(
                history=facts["history"],
                first=facts["first"],
                best=Best(
                    facts["best"]["value"],
                    facts["best"]["epoch"],
                    [arrays[f"best{number}"] for number in range(facts["weights"])],
                ),
                variables=[arrays[f"variable{number}"] for number in range(facts["variables"])],
                seconds=facts["seconds"],
            )
            return Checkpoint(facts["stage"], state, facts["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunFolderError(
            f"cannot resume from {path}", got=str(error), expected="what edgeclf train wrote", hint="train again"
        ) from error


def _check_version(version: int) -> None:
    if version != _VERSION:
        raise ValueError(f"version {version}, this edgeclf reads {_VERSION}")
