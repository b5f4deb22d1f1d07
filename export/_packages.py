"""The heavy packages of this floor, imported when used, with a sentence where one is missing."""

import logging
import os
from importlib import import_module
from typing import Any

from edgeclf.runtime.errors import MissingPackageError


def import_tensorflow() -> Any:  # noqa: ANN401 - a module without types
    """Imports TensorFlow with its start-up messages off and its oneDNN kernels on, unless the user set either.

    TensorFlow leaves oneDNN off on x86 CPUs without AVX-512, where it doubles the speed of convolutions; both
    variables are read when the library loads, so they are set before.

    Raises:
        MissingPackageError: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return _import("tensorflow", "train")


def import_tf2onnx() -> Any:  # noqa: ANN401 - a module without types
    """Imports tf2onnx, its progress messages off.

    Raises:
        MissingPackageError: tf2onnx is not installed.
    """
    module = _import("tf2onnx", "export")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    return module


def _import(name: str, extra: str) -> Any:  # noqa: ANN401
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"{name} cannot be loaded",
            got=str(error),
            expected=f"the packages of the extra [{extra}]",
            do='run pip install "edgeclf[headless,train,export]"',
        ) from error
