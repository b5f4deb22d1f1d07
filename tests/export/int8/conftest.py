"""Crops of real photographs, for small networks."""

import numpy as np
import pytest

from .networks import SIZE


@pytest.fixture(scope="module")
def images():
    from skimage import data

    rng = np.random.default_rng(3)
    photographs = [data.astronaut(), data.chelsea(), data.coffee()]
    crops = []
    for number in range(96):
        photo = photographs[number % 3]
        top, left = rng.integers(0, photo.shape[0] - SIZE), rng.integers(0, photo.shape[1] - SIZE)
        crops.append(photo[top : top + SIZE, left : left + SIZE])
    return np.stack(crops)
