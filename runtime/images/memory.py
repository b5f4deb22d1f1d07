"""Memory that one image does not get: an error of that image, and no end of the program."""

import contextlib
from collections.abc import Iterator

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images._opencv import cv2

# OpenCV's codes (cvdef.h): no memory; and, where NumPy's own allocation failed, "The numpy array ... can not be created".
_NO_MEMORY = -4
_NUMPY_FAILED = "can not be created"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, cv2.error) and (error.code == _NO_MEMORY or _NUMPY_FAILED in str(error))


@contextlib.contextmanager
def within_memory(what: str, got: str) -> Iterator[None]:
    """Makes an ImageError of memory that is not there.

    Args:
        what: What could not be done, and to which image.
        got: What the image is that needs so much.

    Raises:
        ImageError: The block ran out of memory.
    """
    try:
        yield
    except (MemoryError, cv2.error) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(
            what, got=got, expected="an image that fits into the memory that is left", hint="shrink the image first"
        ) from error
