"""The import of OpenCV, in one place: where it fails, the error says which package or library to install."""

from edgeclf.runtime.errors import MissingPackageError

try:
    import cv2
except ImportError as error:
    if getattr(error, "name", None) == "cv2" and "No module named" in str(error):
        raise MissingPackageError(
            "OpenCV is not installed",
            expected="opencv-python or opencv-python-headless",
            hint='run pip install "edgeclf[headless]" (or "edgeclf[cpu]" on a desktop)',
        ) from error
    raise MissingPackageError(
        "OpenCV is installed but cannot be loaded",
        got=str(error),
        expected="the system libraries libGL.so.1 and libglib-2.0.so.0, which opencv-python needs",
        hint='install them (Debian: libgl1 libglib2.0-0) or use pip install "edgeclf[headless]", which needs neither',
    ) from error

__all__ = ["cv2"]
