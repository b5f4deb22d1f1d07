"""The onnx package, imported once, with a sentence in place of a traceback when it is not installed."""

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
