"""The checkpoint: training state after the last finished epoch, in one file that is replaced atomically."""

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeclf.runtime.errors import RunFolderError
from edgeclf.runtime.files import parse_failure, replacing
from edgeclf.runtime.spec.json_documents import Shape, check_shape, parse_json
from edgeclf.training.fit.loop import Best, FitState

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import AnyArray

_VERSION = 1
# What every epoch has.
_FIGURES = ("loss", "accuracy", "val_loss", "val_accuracy")
_EPOCH: Shape = {"epoch": int, "stage": str, "*": float}
_FACTS: dict[str, Shape] = {
    "version": int,
    "stage": str,
    "fingerprint": str,
    "history": [_EPOCH],
    "first": int,
    "seconds": [float],
    "best": {"value": float, "epoch": int},
    "variables": int,
    "weights": int,
}


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
        _check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            facts = parse_json(arrays["facts"].tobytes().decode())
            _check_facts(facts)
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
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        got = "no room in memory for what it says it holds" if isinstance(error, MemoryError) else parse_failure(error)
        raise RunFolderError(
            f"cannot resume from {path}", got=got, expected="what edgeclf train wrote", hint="train again"
        ) from error


def _check_archive(path: Path) -> None:
    """Refuses what NumPy would not have written: compressed, an archive unpacks to a thousand times its size."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("a compressed archive")
        # NumPy reads what it needs of an entry, and no checksum behind it.
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"damaged {damaged}")


def _check_facts(facts: Any) -> None:  # noqa: ANN401 - JSON
    """Checks that there is a value of its type for every fact, and an epoch for every row of the history."""
    check_shape({} if facts is None else facts, dict(_FACTS))
    if missing := [name for name in _FACTS if facts is None or facts.get(name) is None]:
        raise ValueError(f"no {missing[0]!r}")
    if facts["version"] != _VERSION:
        raise ValueError(f"version {facts['version']}, this edgeclf reads {_VERSION}")
    rows, first, best = facts["history"], facts["first"], facts["best"]
    if not rows or any(row.get(name) is None for row in rows for name in (*row, "stage", *_FIGURES)):
        raise ValueError("a history without an epoch, or an epoch without all its figures")
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)) or len(facts["seconds"]) != len(rows):
        raise ValueError("epochs that do not follow each other")
    if not 0 <= first <= len(rows) or best.get("value") is None or not 0 <= (best.get("epoch") or 0) <= len(rows):
        raise ValueError("another number of epochs than its history has")
