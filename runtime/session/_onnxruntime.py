"""The import of ONNX Runtime, in one place: where it fails, the error says which package to install."""

from typing import Any, TypeAlias

from edgeclf.runtime.errors import MissingPackageError

try:
    import onnxruntime
except ImportError as error:
    raise MissingPackageError(
        "ONNX Runtime cannot be loaded",
        got=str(error),
        expected="exactly one of the packages onnxruntime and onnxruntime-gpu",
        hint='run pip install "edgeclf[headless]" (or "edgeclf[cpu]", "edgeclf[gpu]")',
    ) from error

# onnxruntime carries no types.
OrtSession: TypeAlias = Any
OrtOptions: TypeAlias = Any

__all__ = ["OrtOptions", "OrtSession", "onnxruntime"]
