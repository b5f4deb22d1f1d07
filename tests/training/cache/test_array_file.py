"""Rows of an array file: the same numbers as an array's, checked, read by as many threads as like."""

import contextlib
import gc
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import no_progress
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.store import Configuration, cached_rows

DIGESTS = [f"{number:032x}" for number in range(50)]


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)


def stored(array, folder):
    """The array as a cache has it."""
    configuration = Configuration("features", "test", (3, 4), "<f4")

    def compute(positions):
        yield from array[list(positions)]

    rows, _ = cached_rows(CacheFolder(folder), configuration, DIGESTS, compute, stage="rows", progress=no_progress)
    (path,) = folder.glob("*.array")
    return rows, path


@pytest.fixture(scope="module")
def rows(array, tmp_path_factory):
    return stored(array, tmp_path_factory.mktemp("rows"))[0]


def test_it_looks_like_the_array(rows, array):
    assert (rows.shape, rows.ndim, rows.dtype, len(rows)) == (array.shape, 3, array.dtype, 50)
    np.testing.assert_array_equal(np.asarray(rows), array)
    np.testing.assert_array_equal(rows[7], array[7])
    np.testing.assert_array_equal(rows[-1], array[-1])
    np.testing.assert_array_equal(rows[3:20:4], array[3:20:4])
    assert rows[10:10].shape == (0, 3, 4)


@given(wanted=st.lists(st.integers(0, 49), max_size=70))
def test_rows_come_in_the_order_asked(rows, array, wanted):
    taken = rows.take(np.array(wanted, np.int64))
    np.testing.assert_array_equal(taken, array[np.array(wanted, np.int64)])
    assert taken.flags.writeable


@given(chosen=st.lists(st.integers(0, 49), min_size=1, max_size=70), data=st.data())
def test_a_selection_is_the_rows_selected(rows, array, chosen, data):
    chosen = np.array(chosen, np.int64)
    selected = rows.select(chosen)
    wanted = np.array(data.draw(st.lists(st.integers(0, len(chosen) - 1), max_size=20)), np.int64)
    assert selected.shape == (len(chosen), 3, 4)
    np.testing.assert_array_equal(selected.take(wanted), array[chosen][wanted])
    np.testing.assert_array_equal(selected.select(wanted)[:], array[chosen][wanted])


@pytest.mark.parametrize("wanted", [[50], [-1], [3, 99]])
def test_rows_that_are_not_there_are_an_index_error(rows, wanted):
    with pytest.raises(IndexError):
        rows.take(np.array(wanted))
    with pytest.raises(IndexError):
        rows[50]


def test_threads_do_not_disturb_each_other(rows, array):
    wanted = [np.random.default_rng(seed).integers(0, 50, 40) for seed in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for order, taken in zip(wanted, pool.map(rows.take, wanted), strict=True):
            np.testing.assert_array_equal(taken, array[order])


def test_a_damaged_row_is_computed_again_the_first_time_it_is_read(array):
    data = bytearray(array.tobytes())
    data[48 * 7 + 5] ^= 1
    computed = []

    def read_into(buffer, offset):
        buffer[:] = data[offset : offset + len(buffer)]

    def recompute(numbers):
        computed.append(list(numbers))
        for number in numbers:
            data[48 * number : 48 * number + 48] = array[number].tobytes()
        return [array[number] for number in numbers]

    checksums = np.array([zlib.crc32(row.tobytes()) for row in array], np.uint32)
    opened = ArrayFile(read_into, (3, 4), "<f4", rows=np.arange(49, -1, -1), checksums=checksums, recompute=recompute)
    np.testing.assert_array_equal(opened.take(np.array([1, 2])), array[[48, 47]])
    assert computed == []
    for _ in range(2):
        np.testing.assert_array_equal(opened[:], array[::-1])
        np.testing.assert_array_equal(opened.select(np.array([42, 42]))[:], array[[7, 7]])
    assert computed == [[7]]


def test_it_can_be_read_when_its_name_is_gone_and_is_closed_when_it_is_no_longer_used(tmp_path, array):
    opened, path = stored(array, tmp_path)
    path.unlink()
    np.testing.assert_array_equal(opened[4], array[4])
    assert is_open(path)
    del opened
    gc.collect()
    assert not is_open(path)


def is_open(path):
    """Whether this process holds a file that had this name; others may come and go meanwhile."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(descriptor.readlink()).startswith(str(path)):
                return True
    return False


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path, array):
    opened, path = stored(array, tmp_path)
    os.truncate(path, 100)
    with pytest.raises(InputError, match=rf"cannot read {path}: got a file that became shorter"):
        opened.take(np.array([49]))
