"""Saved Keras models, `.keras` and `.h5`, become Keras models: config checked and rewritten, then built, then filled."""

import importlib.metadata
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.export.source.keras_files.keras2 import as_keras3, keras2_functions
from edgeclf.export.source.keras_files.model_config import ModelConfig, read_model_config
from edgeclf.export.source.keras_files.safety import check_config, check_weights
from edgeclf.export.source.keras_files.tensorflow_calls import call_layer
from edgeclf.runtime.errors import ModelFileError

_MOST_WORDS = 300
_RANDOM = frozenset(
    {
        *("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal"),
        *("OrthogonalInitializer", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"),
    }
)
_ZEROS: dict[str, Any] = {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": None}


class NewerKerasError(ModelFileError):
    """A file of a newer Keras than the one installed cannot be opened with it."""


def load_keras_file(
    path: Path, *, custom_objects: Mapping[str, Any] | None = None, is_trusted: bool = False
) -> KerasModel:
    """Opens a saved Keras model for inference; nothing in the file is run.

    Files of Keras 1 and 2 are opened as well. Layers in mixed precision compute in float32, in which their weights are.

    Args:
        path: A `.keras` archive or an HDF5 file, whatever its name.
        custom_objects: Custom classes and functions by their names.
        is_trusted: Whether Python code in the file may be run.

    Returns:
        The Keras model, not compiled.

    Raises:
        ModelFileError: The file is damaged, is none, has weights alone, has code in it that is not to be run, or layers that
            are not known.
        NewerKerasError: It is of a newer Keras, and cannot be opened with this one.
        MissingPackageError: TensorFlow is not installed.
    """
    import_tensorflow()
    given = dict(custom_objects or {})
    config = read_model_config(path)
    try:
        # In `.h5` files Keras 3 writes its objects as Keras 2 did.
        is_new = config.is_keras3 and not config.is_hdf5
        document = (
            _prepared(config.document) if is_new else as_keras3(path, config.document, is_old=not config.is_keras3)
        )
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _cannot_open(path, config, error) from error
    given = {**keras2_functions(), **given}
    if not is_trusted:
        check_config(path, document, given)
    try:
        model = _build(_without_random(document), given, is_trusted=is_trusted)
        _fill(path, model, is_hdf5=config.is_hdf5)
    except Exception as error:
        # Of Keras, TensorFlow and h5py, which share no class but this one; all are about this file.
        raise _cannot_open(path, config, error) from error
    return model


def _prepared(document: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what only training needs, every layer in float32."""
    return {key: _without_training(item) for key, item in document.items() if key != "compile_config"}


def _without_training(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        if value.get("class_name") in {"DTypePolicy", "FloatDTypePolicy"} and isinstance(value.get("config"), Mapping):
            name = str(value["config"].get("name"))
            return "float32" if name.startswith("mixed_") else dict(value)
        return {key: _without_training(item) for key, item in value.items() if key != "compile_config"}
    return [_without_training(item) for item in value] if isinstance(value, list) else value


def _without_random(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The config with zeros for random initial values: all weights are filled from the file.

    Random values are made in several steps, and TensorFlow's allocator keeps all memory that it ever had.
    """
    if isinstance(value, Mapping):
        return {
            key: {**_ZEROS, "config": {}}
            if key.endswith("_initializer") and isinstance(item, Mapping) and item.get("class_name") in _RANDOM
            else _without_random(item)
            for key, item in value.items()
        }
    return [_without_random(item) for item in value] if isinstance(value, list) else value


def _build(document: dict[str, Any], given: Mapping[str, Any], *, is_trusted: bool) -> KerasModel:
    import keras

    functional = type(keras.Model(*(2 * [keras.Input((1,))])))
    known = {"Functional": functional, "TFOpLambda": call_layer(), "SlicingOpLambda": call_layer(), **given}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.saving.deserialize_keras_object(document, custom_objects=known, safe_mode=not is_trusted)
        if isinstance(model, keras.Model) and not model.built:
            _build_by_shape(model, document)
    if not isinstance(model, keras.Model):
        raise TypeError(f"a {type(model).__name__} is saved in it")
    return model


def _build_by_shape(model: KerasModel, document: Mapping[str, Any]) -> None:
    shape = (document.get("build_config") or {}).get("input_shape") or document["config"].get("build_input_shape")
    if shape is not None:
        model.build(shape)


def _fill(path: Path, model: KerasModel, *, is_hdf5: bool) -> None:
    """Fills a model with the weights of its file, all of them."""
    check_weights(path, is_hdf5=is_hdf5)
    for variable in model.weights:
        # What the file has no value for is found below; Keras passes over some of it without a word.
        if str(variable.dtype).startswith("float"):
            variable.assign(np.full(variable.shape, np.nan, variable.dtype))
    with tempfile.TemporaryDirectory(prefix="edgeclf-keras-") as folder:
        # Keras tells its formats apart by the name.
        named = Path(folder) / ("model.h5" if is_hdf5 else "model.keras")
        named.symlink_to(path.absolute())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_weights(str(named))
    empty = [variable.path for variable in model.weights if not np.isfinite(np.asarray(variable)).all()]
    if empty:
        raise ValueError(f"no numbers, or NaN or infinity, for {empty[0]} ({len(empty)} in all)")


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version for comparison: (3, 15) of 3.15.1; empty where there are none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return () if found is None else tuple(map(int, found.groups()))


def _cannot_open(path: Path, config: ModelConfig, error: Exception) -> ModelFileError:
    words = " ".join(str(error).split())[:_MOST_WORDS] or type(error).__name__
    installed = importlib.metadata.version("keras")
    if _release(config.version) > _release(installed):
        return NewerKerasError(
            f"cannot open {path} with Keras {installed}",
            got=f"a file of Keras {config.version} ({words})",
            expected="one of this Keras or an older one",
            hint=f"install Keras {config.version} or newer: pip install -U keras",
        )
    return ModelFileError(
        f"cannot open {path} with Keras",
        got=f"a file of Keras {config.version or 'of unknown version'} ({words})",
        expected="a whole model whose layers Keras 3 has",
        hint="save it again with the Keras that made it, best as a SavedModel (model.export, in Keras 2 model.save(FOLDER))",
    )
