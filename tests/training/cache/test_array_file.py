"""Rows of a file: the same numbers as an array's, read by as many threads as like."""

import contextlib
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.training.cache.array_file import RowFile


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(array, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "file"
    path.write_bytes(array.tobytes())
    return RowFile(path, (3, 4), "<f4")


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


def test_it_can_be_read_when_its_name_is_gone_and_is_closed_when_it_is_no_longer_used(tmp_path, array):
    path = tmp_path / "unlinked rows"
    path.write_bytes(array.tobytes())
    opened = RowFile(path, (3, 4), "<f4")
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
            if descriptor.readlink().name.startswith(path.name):
                return True
    return False


def test_a_file_cut_off_within_a_row_is_refused(tmp_path, array):
    path = tmp_path / "file"
    path.write_bytes(array.tobytes()[:-1])
    with pytest.raises(ValueError, match="cut off"):
        RowFile(path, (3, 4), "<f4")


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path, array):
    path = tmp_path / "unlinked rows"
    path.write_bytes(array.tobytes())
    opened = RowFile(path, (3, 4), "<f4")
    os.truncate(path, 100)
    with pytest.raises(OSError, match="shorter"):
        opened.take(np.array([49]))
