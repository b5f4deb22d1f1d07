"""What tests measure in a drawn picture."""

import numpy as np

TRAINING_BGR, VALIDATION_BGR = (0xA3, 0x8B, 0x7A), (0x0C, 0x41, 0xC2)


def margins(image):
    """Widths of the white borders: top, bottom, left, right."""
    ink = (image < 250).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return rows[0], image.shape[0] - 1 - rows[-1], columns[0], image.shape[1] - 1 - columns[-1]


def inked(image, colour_bgr):
    """How many pixels have nearly this colour."""
    return int((np.abs(image.astype(int) - colour_bgr).sum(axis=2) < 30).sum())
