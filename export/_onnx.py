"""The import of the onnx package, in one place: where it fails, the error says which extra to install."""

from edgeclf.runtime.errors import MissingPackageError

try:
    import onnx
except ImportError as error:
    raise MissingPackageError(
        "onnx cannot be loaded",
        got=str(error),
        expected="the packages of the extra [export]",
        hint='run pip install "edgeclf[headless,export]"',
    ) from error

__all__ = ["onnx"]
