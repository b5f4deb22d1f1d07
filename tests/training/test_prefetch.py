"""Work done ahead: in order, bounded, and over when nobody wants it any more."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.training.prefetch import prefetch_map, run_in_background


def of_ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead-test")]


@given(items=st.lists(st.integers()), threads=st.integers(1, 4), ahead=st.integers(1, 9))
def test_results_come_in_order_and_no_more_are_computed_than_allowed(items, threads, ahead):
    begun = []

    def double(item):
        begun.append(item)
        return 2 * item

    results = []
    for result in prefetch_map(double, items, threads=threads, ahead=ahead, name="ahead-test"):
        results.append(result)
        assert len(begun) <= len(results) - 1 + ahead
    assert results == [2 * item for item in items]
    assert not of_ours()


def test_an_error_comes_where_its_result_would_and_ends_the_rest():
    begun = []

    def divide(item):
        begun.append(item)
        return 6 / item

    results = prefetch_map(divide, [3, 2, 0, *range(1, 1000)], threads=2, ahead=4, name="ahead-test")
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) < 20
    assert not of_ours()


def test_leaving_early_ends_the_rest():
    begun = []
    results = prefetch_map(begun.append, range(1000), threads=2, ahead=4, name="ahead-test")
    next(results)
    results.close()
    assert len(begun) < 20
    assert not of_ours()


def test_the_result_of_work_beside_the_block_comes_with_its_reports():
    calls = []

    def work(report):
        report("half", 1, 2)
        return 42

    with run_in_background(work, lambda *call: calls.append(call), name="ahead-test") as result:
        assert result.result() == 42
    assert calls == [("half", 1, 2)]
    assert not of_ours()


def test_an_error_beside_the_block_comes_with_the_result():
    with (
        run_in_background(lambda _: 1 / 0, lambda *_: None, name="ahead-test") as result,
        pytest.raises(ZeroDivisionError),
    ):
        result.result()


def test_leaving_the_block_early_ends_the_work_beside_it():
    begun, cleaned = threading.Event(), threading.Event()

    def work(report):
        try:
            while True:
                begun.set()
                report("on and on", 1, 2)
        finally:
            cleaned.set()

    def leave():
        with run_in_background(work, lambda *_: None, name="ahead-test"):
            begun.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert cleaned.is_set()
    assert not of_ours()
