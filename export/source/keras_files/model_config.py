"""The config of a saved Keras model: the JSON that describes its layers, read without building any."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.files import content_kind
from edgeclf.runtime.spec.json_documents import check_depth

_CONFIG, _METADATA = "config.json", "metadata.json"
# A config of many thousand layers; an archive that unpacks to more is none.
_MOST_BYTES = 1 << 28
# Of networks in each other; what looks through a config calls itself for each.
_MOST_DEPTH = 256


class ModelConfig(NamedTuple):
    """The config of a saved model.

    Attributes:
        document: `class_name`, `config` and what else Keras wrote of the outermost object.
        version: The version of Keras that wrote it, such as `2.15.0`; empty where the file does not say.
        is_hdf5: Whether it is of an HDF5 file, else of a `.keras` archive.
    """

    document: dict[str, Any]
    version: str
    is_hdf5: bool

    @property
    def is_keras3(self) -> bool:
        """Whether Keras 3 or a later one wrote it."""
        major = self.version.split(".", 1)[0]
        return major.isdecimal() and int(major) >= 3


def read_model_config(path: Path) -> ModelConfig:
    """Reads the config of a `.keras` or `.h5` file, whatever its name is.

    Raises:
        ModelFileError: It is none, is damaged, or has weights alone.
    """
    try:
        with path.open("rb") as file:
            is_archive = zipfile.is_zipfile(file)
        config, version = _of_archive(path) if is_archive else _of_hdf5(path)
        document = json.loads(config)
        check_depth(document, _MOST_DEPTH)
    except (OSError, ValueError, LookupError, RuntimeError, zipfile.BadZipFile, zlib.error, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise _unreadable(path, f"{content_kind(path)} ({said})") from error
    if (
        not isinstance(document, dict)
        or "class_name" not in document
        or not isinstance(document.get("config"), dict | list)
    ):
        raise _unreadable(path, "a config that describes no model")
    return ModelConfig(document, version, not is_archive)


def has_model_config(path: Path) -> bool:
    """Whether a file is a Keras model with its config: False for weights alone, and for all else."""
    import h5py

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _CONFIG in archive.namelist()
        with h5py.File(path, "r") as file:
            return "model_config" in file.attrs
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False


def objects_in(value: object) -> Iterator[Mapping[str, Any]]:
    """Every object that a config describes, the outer before the inner."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            yield value
        for item in value.values():
            yield from objects_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from objects_in(item)


def layer_name(item: Mapping[str, Any]) -> str:
    """The name of the layer that an object is, with its class, for sentences."""
    config = item.get("config")
    name = item.get("name") or (config.get("name") if isinstance(config, Mapping) else None)
    return f"{name!r} ({item['class_name']})" if isinstance(name, str) else str(item["class_name"])


def _of_archive(path: Path) -> tuple[str, str]:
    with zipfile.ZipFile(path) as archive:
        if _CONFIG not in archive.namelist():
            raise _unreadable(path, f"a zip archive without {_CONFIG}")
        if archive.getinfo(_CONFIG).file_size > _MOST_BYTES:
            raise _unreadable(path, f"a {_CONFIG} of {archive.getinfo(_CONFIG).file_size:,} bytes")
        metadata: object = json.loads(archive.read(_METADATA)) if _METADATA in archive.namelist() else {}
        version = metadata.get("keras_version") if isinstance(metadata, dict) else None
        return archive.read(_CONFIG).decode(), version if isinstance(version, str) else ""


def _of_hdf5(path: Path) -> tuple[str, str]:
    import h5py

    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            if "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file:
                raise ModelFileError(
                    f"{path} has weights without a network",
                    got="an HDF5 file of save_weights",
                    expected="a whole model, as model.save writes it",
                    hint="load the weights into the network that they belong to, and write it with model.save('model.keras')",
                )
            raise _unreadable(path, "an HDF5 file without a model")
        version = file.attrs.get("keras_version", "")
        return _text(config), _text(version)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unreadable(path: Path, got: str) -> ModelFileError:
    return ModelFileError(
        f"cannot read {path}",
        got=got,
        expected="a Keras model, .keras or .h5, as model.save writes it",
        hint="save or copy the file again",
    )
