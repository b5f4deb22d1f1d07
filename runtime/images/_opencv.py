"""The import of OpenCV, in one place: where it fails or is too old, the error says which package or library to install."""

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

# A crafted JPEG brings 4.10 and 4.11 down, or worse (CVE-2025-53644); 4.10 fills up damaged images with what it decoded before;
# those before 4.12 read no GIF. The extras ask for as much, but an OpenCV of the system or of one's own may be older.
_OLDEST = (4, 12)


def check_version(version: str) -> None:
    """Raises MissingPackageError for an OpenCV that a picture can bring down."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST:
        raise MissingPackageError(
            "OpenCV is too old",
            got=version,
            expected="4.12 or newer, as older ones read no GIF, and a crafted JPEG can end their process",
            hint='run pip install "edgeclf[headless]" (or "edgeclf[cpu]" on a desktop)',
        )


check_version(cv2.__version__)

__all__ = ["cv2"]
