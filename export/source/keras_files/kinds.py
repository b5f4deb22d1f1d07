"""The kinds of Keras models that others made, told apart without TensorFlow, and what the user says of opening one."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeclf.runtime.files import kind_of

SAVED_MODEL_FILE = "saved_model.pb"
KerasKind = Literal["Keras file", "SavedModel", "Python object"]
_SUFFIXES = (".keras", ".h5", ".hdf5")
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class KerasOptions:
    """What the user says of a Keras model of others.

    Attributes:
        custom_objects: Name of the Python module with its custom layers and functions; None for none.
        signature: Of a SavedModel: the signature; None takes `serving_default`, or the only one.
        is_trusted: Whether Python code in the file may be run.
    """

    custom_objects: str | None = None
    signature: str | None = None
    is_trusted: bool = False


def keras_kind(source: Path | str) -> KerasKind | None:
    """What kind of Keras model a path, or a text `module:name`, names; None of anything else, such as an ONNX file.

    Needs no TensorFlow. A path that is there comes first.
    """
    kind, path = kind_of(source), Path(source)
    if kind is None:
        return "Python object" if parse_object_name(str(source)) is not None else None
    if kind == "folder":
        return "SavedModel" if kind_of(path / SAVED_MODEL_FILE) == "file" else None
    is_file = kind == "file" and (path.suffix.lower() in _SUFFIXES or _is_keras_file(path))
    return "Keras file" if is_file else None


def _is_keras_file(path: Path) -> bool:
    """Whether a file is HDF5, or an archive with a config, whatever its name."""
    try:
        with path.open("rb") as file:
            if file.read(len(_HDF5)) == _HDF5:
                return True
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def parse_object_name(text: str) -> tuple[str, str] | None:
    """Module and name of `module:name`; None of text that is none, such as a path."""
    module, colon, name = text.partition(":")
    is_name = colon and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))
    return (module, name) if is_name else None
