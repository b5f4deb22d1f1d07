"""The Keras backend: late import of TensorFlow, aliases for its missing types, and a Keras model in inference mode."""

import contextlib
import ctypes
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.errors import MissingPackageError, install_hint
from edgeclf.runtime.spec import ModelSpec

# Keras and TensorFlow carry no types; these aliases say at least what a value is.
KerasModel: TypeAlias = Any
KerasLayer: TypeAlias = Any
# A symbolic tensor of a functional model, or one with values.
KerasTensor: TypeAlias = Any
KerasVariable: TypeAlias = Any
KerasOptimizer: TypeAlias = Any
# A module that carries no types: tensorflow, keras, tf2onnx.
UntypedModule: TypeAlias = Any
Inference: TypeAlias = Callable[[AnyArray], FloatArray]


def import_tensorflow() -> UntypedModule:
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


def give_memory_back() -> None:
    """Gives memory that was freed back to the system, where the C library keeps it: glibc all blocks of less than 32 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def check_training_packages() -> None:
    """Checks that TensorFlow and matplotlib are installed, without the seconds that importing them takes.

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


def import_tf2onnx() -> UntypedModule:
    """Imports tf2onnx, its progress messages off.

    Raises:
        MissingPackageError: tf2onnx is not installed.
    """
    module = _import("tf2onnx", "export")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    return module


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Captures file descriptor 2, which C++ code writes to; yields a function that returns the captured text.

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


def _import(name: str, extra: str) -> UntypedModule:
    try:
        return import_module(name)
    except ImportError as error:
        raise _missing(name, extra, str(error)) from error


def _missing(name: str, extra: str, got: str) -> MissingPackageError:
    return MissingPackageError(
        f"{name} cannot be loaded",
        got=got,
        expected=f"the packages of the extra [{extra}]",
        hint=install_hint("train", "export"),
    )


def inference_of(model: KerasModel) -> Inference:
    """The inference function of a Keras model, for arrays of any batch size.

    `model.predict` sets up a data pipeline at each call, and both it and `predict_on_batch` trace the network anew for
    each new batch size; the returned function is traced once.

    Args:
        model: A Keras model with one input and one output.

    Returns:
        Takes (N, ...) arrays of the input's dtype, gives (N, ...) float32.
    """
    tensorflow = import_tensorflow()
    given = model.inputs[0]
    signature = [tensorflow.TensorSpec((None, *given.shape[1:]), given.dtype)]
    traced = tensorflow.function(
        lambda inputs: model(inputs, training=False), input_signature=signature, autograph=False
    )

    def run(inputs: AnyArray) -> FloatArray:
        return np.asarray(traced(tensorflow.constant(inputs)), np.float32)

    return run


class KerasClassifier:
    """A Keras classifier and its spec, with the interface of a `ModelSession`: `spec` and `run`.

    Args:
        model: A Keras model, uint8 (None, H, W, 3) RGB in, probabilities (None, C) out.
        spec: Its labels and preprocessing.
    """

    def __init__(self, model: KerasModel, spec: ModelSpec) -> None:
        self.spec = spec
        self._infer = inference_of(model)

    def run(self, images_rgb: UInt8Array) -> FloatArray:
        """(N, H, W, 3) uint8 RGB to (N, C) float32 probabilities, computed by Keras in inference mode."""
        return self._infer(images_rgb)
