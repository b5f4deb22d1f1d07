"""The saved network of a run, opened without running code that its file may hold: a run may come from somebody else."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.export.source.feature_layer import feature_layer_objects, feature_layer_of, read_graph
from edgeclf.export.source.keras_files.loading import NewerKerasError, load_keras_file
from edgeclf.runtime.errors import EdgeclfError, ModelFileError, RunFolderError
from edgeclf.training.networks.own_network import is_own_network, own_custom_objects
from edgeclf.training.run.own_module import NETWORK_FILE, check_module_place


def load_saved_network(path: Path, architecture: str) -> KerasModel:
    """Opens the Keras model of a run.

    Args:
        path: The model's file, in the run folder.
        architecture: As the run's options name it; of a network that the user wrote, the module is imported where it is
            found, but never because it came with the run.

    Raises:
        RunFolderError: The file is damaged, has code or unknown layers in it, or is of a newer Keras.
        MissingPackageError: TensorFlow is not installed.
    """
    import_tensorflow()
    known, missing = own_objects(path.parent, architecture)
    try:
        # Keras reads on past some damage: the archive's own checksums are what tells.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise model_error(path, f"damaged {damaged}")
        model = load_keras_file(path, custom_objects={**feature_layer_objects(), **known})
        layer = feature_layer_of(model)
        if layer is not None:
            layer.graph = read_graph(path)
    except NewerKerasError as error:
        raise RunFolderError(
            f"cannot load {path}", got=error.got, expected=error.expected, hint=error.hint or "train again"
        ) from error
    except ModelFileError as error:
        got = error.got or error.what
        if missing is None:
            raise model_error(path, got) from error
        raise RunFolderError(
            f"cannot read {path}",
            got=f"{got}, and {missing.what}",
            expected=f"the module of {architecture}, which has its layers",
            hint=f"run edgeclf in the folder of that module; {path.with_name(NETWORK_FILE)} is a copy of it",
        ) from error
    except (OSError, ValueError, LookupError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        # Of the archive: zipfile has no class of its own for a compression that it does not know, or a damaged name.
        raise model_error(path, str(error).split("\n", 1)[0][:200]) from error
    return model


def own_objects(folder: Path, architecture: str) -> tuple[dict[str, Any], EdgeclfError | None]:
    """The layers of the module of a network that the user wrote; none, and why, where it is not there or came with the run."""
    if not is_own_network(architecture):
        return {}, None
    try:
        check_module_place(architecture, folder)
        return own_custom_objects(architecture), None
    except EdgeclfError as error:
        # Most networks are of Keras's layers alone, for which their file suffices.
        return {}, error


def model_error(path: Path, got: str) -> RunFolderError:
    """The error of a file that is no model of a run."""
    return RunFolderError(
        f"cannot load {path}", got=got, expected="the Keras model that edgeclf train wrote", hint="train again"
    )
