"""Weights in a file of Keras's own: `.weights.h5` of Keras 3, or the `.h5` of its older versions and its downloads."""

import warnings
from pathlib import Path

import numpy as np

from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.files import content_kind
from edgeclf.training.networks.weights.model_file_weights import fill_by_name, is_model_file

SUFFIXES = (".h5", ".hdf5")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_EXPECTED = "a Keras file of weights only (.weights.h5 or .h5) of this network without its top"

# Keras goes on to list every layer.
_MAX_WORDS = 300


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
    except OSError as error:
        got = "a folder" if path.is_dir() else (error.strerror or "unreadable").lower()
        raise _weights_error(path, got) from error


def load_keras_weights(model: KerasModel, path: Path) -> None:
    """Fills a network with weights from a file, in place.

    Args:
        model: A Keras model; what it holds after an error is undefined.
        path: What `keras.Model.save_weights` wrote for the same layers; or a whole saved model that has them by name.

    Raises:
        InputError: The file is missing, truncated, damaged, of another format, or of another network.
    """
    if is_model_file(path):
        # A backbone stays frozen: what is not in the file would stay random.
        fill_by_name(model, path, but=())
        return
    if not is_hdf5(path):
        raise _weights_error(path, content_kind(path))
    if path.suffix not in SUFFIXES:
        # Keras tells its two layouts apart by the name.
        raise _weights_error(path, f"an HDF5 file whose name ends in {path.suffix or path.name}")
    for variable in model.weights:
        # Whatever the file has no value for is found below; Keras passes over some of it with a warning.
        if variable.dtype.startswith("float"):
            variable.assign(np.full(variable.shape, np.nan, variable.dtype))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_weights(path)
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        # h5py raises any of these for a damaged file, Keras ValueError for one that does not fit.
        words = " ".join(str(error).split())
        raise _weights_error(path, words[:_MAX_WORDS] or type(error).__name__) from error
    for variable in model.weights:
        if not np.isfinite(variable.numpy()).all():
            raise _weights_error(path, f"no numbers, or NaN or infinity, for {variable.path}")


def _weights_error(path: Path, got: str) -> InputError:
    return InputError(
        f"cannot use the weights in {path}", got=got, expected=_EXPECTED, hint="pass another file to --weights, or none"
    )
