"""The folders of a run, good files that are changed, and the means to draw hostile ones."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sandbox:
    """Folders of a run.

    Attributes:
        outside: What no file may make edgeclf read or write: weights, a table, a picture, a model of Keras.
        inside: The files that are drawn, each in a folder of its own.
        data: Photographs in class folders, which the commands are given.
        out: What the commands write.
    """

    outside: Path
    inside: Path
    data: Path
    out: Path

    @property
    def canary(self) -> Path:
        """The file that code in a hostile file would make."""
        return self.outside / "executed"


@dataclass(frozen=True)
class Bases:
    """Good files that are changed.

    Attributes:
        keras: A `.keras` archive.
        h5: A `.h5` model.
        own: An ONNX file with a spec.
        foreign: One without, with a weight.
        torch: A legacy `.pth` of one tensor.
        picture: A PNG of 32 px.
    """

    keras: bytes
    h5: bytes
    own: bytes
    foreign: bytes
    torch: bytes
    picture: bytes


class Call:
    """Pickled, the call of a function."""

    def __init__(self, *call: Any) -> None:  # noqa: ANN401 - a function and its arguments
        self._call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call[0], self._call[1:]


@dataclass(frozen=True)
class Drawing:
    """What a kind draws a file with.

    Attributes:
        folder: The file's own folder.
        bases: Good files.
        box: The sandbox.
        rng: The generator.
    """

    folder: Path
    bases: Bases
    box: Sandbox
    rng: np.random.Generator

    def one(self, values: Any) -> Any:  # noqa: ANN401 - one of them
        """One of the values."""
        return values[int(self.rng.integers(len(values)))]

    def write(self, name: str, data: bytes) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_bytes(data)
        return path

    def pickled(self) -> bytes:
        """A pickle that makes the canary by one of the ways that pickles have."""
        code = f"open({str(self.box.canary)!r}, 'w').close()"
        calls = (
            Call(exec, code),
            Call(eval, code),
            Call(os.system, f"touch {self.box.canary}"),
            Call(open, str(self.box.canary), "w"),
            Call(os.mkdir, str(self.box.canary)),
        )
        return pickle.dumps(self.one(calls), protocol=int(self.rng.integers(0, 5)))

    def way_out(self, name: str) -> str:
        """A path from the file's folder to a file outside."""
        up = os.path.relpath(self.box.outside / name, self.folder)
        return str(self.one((up, str(self.box.outside / name), f"x/../{up}", f"./{up}", up.replace("/", "//"))))

    def damaged(self, data: bytes) -> bytes:
        """Bytes cut, changed, or followed by others."""
        changed = bytearray(data)
        match int(self.rng.integers(4)):
            case 0:
                return bytes(changed[: int(self.rng.integers(len(changed)))])
            case 1:
                for place in self.rng.integers(0, len(changed), size=int(self.rng.integers(1, 40))):
                    changed[place] = int(self.rng.integers(256))
            case 2:
                at, length = int(self.rng.integers(len(changed))), int(self.rng.integers(1, 200))
                changed[at : at + length] = bytes(min(length, len(changed) - at))
            case _:
                at = int(self.rng.integers(len(changed)))
                changed[at:at] = self.rng.bytes(int(self.rng.integers(1, 300)))
        return bytes(changed)


Kind = Callable[[Drawing], Path]
