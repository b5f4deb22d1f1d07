"""Which way to share the CPUs is possible for what was asked, and which one measurements choose."""

import pytest

from edgeclf.runtime.batch.schedule import Circumstances, faster_schedule, is_beyond_doubt, possible_schedules


def possible(*, workers=2, on_cpu=True, threads=2, chosen=False):
    return possible_schedules(
        Circumstances(workers=workers, batch_size=4, runs_on_cpu=on_cpu, threads=threads, threads_were_chosen=chosen)
    )


def schemes(**given):
    return [found.scheme for found in possible(**given)]


def test_both_are_possible_only_where_nothing_was_asked_and_there_are_several_cpus():
    assert schemes() == ["fed", "side-by-side"]
    assert schemes(on_cpu=False) == schemes(on_cpu=False, threads=None) == ["fed"]
    assert schemes(chosen=True) == ["fed"]
    assert schemes(threads=1, chosen=True) == ["side-by-side"]
    assert schemes(threads=1, chosen=True, workers=1) == ["fed"]
    assert schemes(threads=1, workers=1) == ["fed"]


@pytest.mark.parametrize(
    ("side_by_side", "fed", "chosen"),
    [
        ([100, 90], [80, 85], "side-by-side"),
        ([100, 90], [104, 20], "side-by-side"),
        ([100, 90], [106, 20], "fed"),
        # A disturbance of one trial decides nothing.
        ([10, 100], [50, 60], "side-by-side"),
    ],
)
def test_the_faster_one_is_chosen_and_side_by_side_where_they_are_alike(side_by_side, fed, chosen):
    found = faster_schedule(possible(), {"side-by-side": side_by_side, "fed": fed})
    assert found.scheme == chosen
    assert found.measured == {"side-by-side": max(side_by_side), "fed": max(fed)}


@pytest.mark.parametrize(
    ("side_by_side", "fed", "enough"),
    [
        ([120, 121], [100], True),
        ([100, 90], [125], True),
        ([121, 119], [100], False),
        ([120], [100], False),
        ([120], [], False),
        # Images that became quicker to read from trial to trial.
        ([60, 140], [100], False),
    ],
)
def test_a_large_difference_before_and_after_needs_no_fourth_trial(side_by_side, fed, enough):
    assert is_beyond_doubt({"side-by-side": side_by_side, "fed": fed}) is enough


def test_a_schedule_says_what_it_does():
    fed, side_by_side = possible()
    assert str(fed) == "2 workers decoding for one inference of 2 threads"
    assert str(side_by_side) == "2 workers side by side, one thread each"
    assert str(possible(workers=1, on_cpu=False, threads=None)[0]) == "1 worker decoding for one inference"
