"""The heavy packages of this floor, imported when used, with a sentence where one is missing."""

import contextlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
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
    with _captured_stderr() as captured:
        try:
            tensorflow = _import("tensorflow", "train")
        except MissingPackageError:
            sys.stderr.write(captured())
            raise
    # Its Python side advises about retracing, which is for its developers; errors still arrive as exceptions.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return tensorflow


def check_training_packages() -> None:
    """Looks whether TensorFlow and matplotlib are installed, without the seconds that importing them takes.

    Raises:
        MissingPackageError: One of them is not.
    """
    for name in ("tensorflow", "matplotlib"):
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise _missing(name, "train", "no such module")


def import_tf2onnx() -> Any:  # noqa: ANN401 - a module without types
    """Imports tf2onnx, its progress messages off.

    Raises:
        MissingPackageError: tf2onnx is not installed.
    """
    module = _import("tf2onnx", "export")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    return module


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Takes what C++ code writes to file descriptor 2 out of the user's sight; yields what gives it back.

    TensorFlow's library writes a dozen lines while it is loaded, before any setting of its log level counts.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:

        def captured() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield captured
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _import(name: str, extra: str) -> Any:  # noqa: ANN401
    try:
        return import_module(name)
    except ImportError as error:
        raise _missing(name, extra, str(error)) from error


def _missing(name: str, extra: str, got: str) -> MissingPackageError:
    return MissingPackageError(
        f"{name} cannot be loaded",
        got=got,
        expected=f"the packages of the extra [{extra}]",
        do='run pip install "edgeclf[headless,train,export]"',
    )
