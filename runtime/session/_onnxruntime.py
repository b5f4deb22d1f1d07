"""ONNX Runtime, imported once, with a sentence in place of a traceback when it cannot be."""

from typing import Any, TypeAlias

from edgeclf.runtime.errors import MissingPackageError

try:
    import onnxruntime
except ImportError as error:
    raise MissingPackageError(
        "ONNX Runtime cannot be loaded",
        got=str(error),
        expected="exactly one of the packages onnxruntime and onnxruntime-gpu",
        do='run pip install "edgeclf[headless]" (or "edgeclf[cpu]", "edgeclf[gpu]")',
    ) from error

# onnxruntime carries no types.
OrtSession: TypeAlias = Any
OrtOptions: TypeAlias = Any

__all__ = ["OrtOptions", "OrtSession", "onnxruntime"]
