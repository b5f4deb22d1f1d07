"""Random generators for tests: fresh values in every run, and the same ones again with the seed that the run printed."""

import itertools
import os
import zlib
from collections import defaultdict

import numpy as np

# Set by tests/conftest.py to the seed of pytest-randomly, which stands in the header of every run.
SEED_VARIABLE = "EDGECLF_TEST_SEED"
_calls: defaultdict[str, "itertools.count[int]"] = defaultdict(itertools.count)


def fresh_rng() -> np.random.Generator:
    """A random generator seeded with the run's seed, the running test and the number of the call in that test.

    A test gets the same values whichever tests ran before it: `pytest --randomly-seed=SEED TEST` repeats a failure.
    """
    test = os.environ.get("PYTEST_CURRENT_TEST", "collection").rsplit(" ", 1)[0]
    return np.random.default_rng([int(os.environ[SEED_VARIABLE]), zlib.crc32(test.encode()), next(_calls[test])])
