"""The import of the onnx package, in one place: where it fails, the error says which extra to install."""

from edgeclf.runtime.errors import MissingPackageError, install_hint

try:
    import onnx
    import onnx.inliner
    import onnx.version_converter
except ImportError as error:
    raise MissingPackageError(
        "onnx cannot be loaded",
        got=str(error),
        expected="the packages of the extra [export]",
        hint=install_hint("export"),
    ) from error

__all__ = ["onnx"]
