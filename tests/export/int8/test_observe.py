"""What is seen of a network's values: all of them, and that one of them is no number."""

import numpy as np
import pytest

from edgeclf.export.int8.observe import count_values
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import no_progress

from ...randomness import fresh_rng


def rows(count):
    return fresh_rng().integers(0, 256, (count, 2, 2, 3), np.uint8)


def test_histograms_reach_from_the_smallest_to_the_largest_value_of_all_batches():
    images = rows(11)
    found = count_values(lambda batch: {"x": batch.astype(np.float32) - 100}, images, no_progress)["x"]
    assert (found.low, found.high) == (images.min() - 100.0, images.max() - 100.0)
    # Zeros and the largest value are exact in 8 bits.
    assert found.counts.sum() == np.count_nonzero((images != 100) & (images != images.max()))
    assert found.at_high == np.count_nonzero(images == images.max())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 6])
def test_one_value_that_is_not_finite_is_enough(value, position):
    images = rows(9)
    seen = []

    def run(batch):
        values = batch.astype(np.float32)
        if len(seen) <= position < len(seen) + len(batch):
            values[position - len(seen), 0, 0, 0] = value
        seen.extend(batch)
        return {"x": values}

    with pytest.raises(InputError, match="values in x that are not finite"):
        count_values(run, images, no_progress)
