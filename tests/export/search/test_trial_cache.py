import dataclasses
import os

import numpy as np
import pytest

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.search import search as search_module
from edgeclf.export.search import trial_cache
from edgeclf.export.search.search import search
from edgeclf.export.search.sensitivity import rank_layers
from edgeclf.export.search.trial_cache import TrialCache, TrialKey
from edgeclf.export.verify.parity import ParityLimits, compare_probabilities
from edgeclf.runtime.cpus import CpuInfo
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.session.opening import open_session_from_bytes


def run(model, images):
    return open_session_from_bytes(model.SerializeToString(), threads=1).run(None, {"image": images})[0]


class Clock:
    """A clock that goes on only where it is told to."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds

    def spend(self, seconds):
        self.seconds += seconds


@pytest.fixture
def searched(fp32, trained, tmp_path):
    """Searches as an export does, and counts what was judged anew and what was reused."""
    reference = run(fp32, trained.held_out_rgb)

    def start(*, images=trained.train_rgb[::4], judged_by="these", limit_bytes=10**9, before_judging=None, **changes):
        judged = []

        def judge(quantized):
            if before_judging is not None:
                before_judging()
            judged.append(quantized)
            return (compare_probabilities(reference, run(quantized.model, trained.held_out_rgb), "validation"),)

        cache = TrialCache(CacheFolder(tmp_path / "cache", limit_bytes), TrialKey(fp32, images, judged_by))
        options = {"limits": ParityLimits(0.9), "effort": "normal", "base": QuantizationRecipe(), "budget_s": np.inf}
        trials = search(fp32, images, judge, progress=no_progress, cache=cache, **{**options, **changes})
        return trials, len(judged), cache.reused

    start.folder = tmp_path / "cache"
    return start


def facts(trials):
    return [(t.name, t.parity, t.failures, t.quantized.recipe, t.quantized.layers) for t in trials]


def test_the_same_search_again_tries_nothing_and_gives_the_same(searched, trained):
    first, judged, reused = searched()
    assert (judged, reused) == (len(first), 0)
    again, judged, reused = searched()
    assert (judged, reused) == (0, len(first))
    assert facts(again) == facts(first)
    images = trained.held_out_rgb[:9]
    for mine, kept in zip(first, again, strict=True):
        np.testing.assert_array_equal(run(kept.quantized.model, images), run(mine.quantized.model, images))


def test_other_limits_judge_what_was_kept(searched):
    _, judged, _ = searched()
    stricter, judged_again, reused = searched(limits=ParityLimits(1.0, max_error=0.0))
    # Nothing meets a limit of no error at all, so layers went back into float besides.
    assert all(trial.failures for trial in stricter)
    assert reused == judged
    assert judged_again == len(stricter) - judged > 0
    # And these are kept as well, with the ranking that they came from.
    last, judged_at_last, reused = searched(limits=ParityLimits(1.0, max_error=0.0))
    assert (judged_at_last, reused) == (0, len(stricter))
    assert facts(last) == facts(stricter)


def test_a_budget_counts_what_is_spent_and_a_trial_keeps_what_it_took(searched, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(search_module, "time", clock)
    # A trial takes 10 s of this clock: each budget has time for one.
    tries = [searched(effort="max", budget_s=15.0, before_judging=lambda: clock.spend(10.0)) for _ in range(3)]
    assert [(len(trials), judged, reused) for trials, judged, reused in tries] == [(1, 1, 0), (2, 1, 1), (3, 1, 2)]
    assert {trial.seconds for trial in tries[-1][0]} == {10.0}
    # What is there is read whatever the budget; nothing more is begun.
    trials, judged, reused = searched(effort="max", budget_s=5.0, before_judging=lambda: clock.spend(10.0))
    assert (len(trials), judged, reused) == (3, 0, 3)


@pytest.mark.slow
def test_the_ranking_of_layers_ends_with_the_budget(searched, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(search_module, "time", clock)
    ranked = []

    def rank(*arguments, is_over):
        def is_over_then():
            ranked.append(is_over())
            clock.spend(10.0)
            return ranked[-1]

        return rank_layers(*arguments, is_over=is_over_then)

    monkeypatch.setattr(search_module, "rank_layers", rank)
    nothing_passes = {"limits": ParityLimits(1.0, max_error=0.0), "effort": "quick"}
    first, *_ = searched(budget_s=15.0, **nothing_passes)
    assert ranked == [False, False, True]
    # What was ranked in part is no ranking: with time for it, it is made.
    whole, *_ = searched(budget_s=np.inf, **nothing_passes)
    assert len(whole) > len(first)
    assert len(ranked) > 4


@pytest.mark.parametrize("change", ["images", "judge", "recipe", "pixel"])
def test_whatever_the_figures_depend_on_makes_them_anew(searched, trained, change):
    images = trained.train_rgb[::4]
    searched(effort="quick")
    if change == "images":
        other = {"images": images[:-1]}
    elif change == "pixel":
        changed = images.copy()
        changed[0, 0, 0, 0] ^= 1
        other = {"images": changed}
    elif change == "judge":
        other = {"judged_by": "others"}
    else:
        other = {"base": dataclasses.replace(QuantizationRecipe(), target="arm64")}
    _, judged, reused = searched(effort="quick", **other)
    assert reused == 0
    assert judged >= 1


def test_another_cpu_has_trials_of_its_own(fp32, trained, monkeypatch):
    key = TrialKey(fp32, trained.train_rgb[:4], "these")
    here = key.digest
    assert key.digest == here
    # Its kernels round differently, and a float prefix is chosen by its latencies.
    monkeypatch.setattr(trial_cache, "cpu_info", lambda: CpuInfo("another", "x86_64", ("avx2",), 2))
    assert key.digest != here


@pytest.mark.parametrize("damage", [b"", b"no model at all", None])
def test_a_kept_trial_that_is_damaged_is_made_again(searched, damage):
    first, _, _ = searched(effort="quick")
    for path in searched.folder.glob("*.onnx"):
        path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    again, judged, reused = searched(effort="quick")
    assert (judged, reused) == (len(first), 0)
    assert facts(again) == facts(first)
    assert searched(effort="quick")[1] == 0


def test_a_cache_that_cannot_be_written_costs_nothing_but_itself(searched):
    searched.folder.write_bytes(b"a file where the folder should be")
    trials, judged, reused = searched(effort="quick")
    assert (judged, reused) == (len(trials), 0)
    assert not trials[0].failures


def test_trials_and_names_count_to_the_size_of_the_cache(searched):
    searched(judged_by="old")
    old = set(searched.folder.iterdir())
    assert {path.suffix for path in old} == {".onnx", ".names"}
    for path in old:
        os.utime(path, (1, 1))
    limit_bytes = sum(path.stat().st_size for path in old)
    searched(judged_by="new", limit_bytes=limit_bytes)
    left = set(searched.folder.iterdir())
    assert not left & old
    assert sum(path.stat().st_size for path in left) <= limit_bytes


def test_without_a_cache_every_trial_is_made(fp32, trained):
    reference = run(fp32, trained.held_out_rgb)
    judged = []

    def judge(quantized):
        judged.append(quantized)
        return (compare_probabilities(reference, run(quantized.model, trained.held_out_rgb), "validation"),)

    for count in (1, 2):
        search(
            fp32,
            trained.train_rgb[::4],
            judge,
            limits=ParityLimits(0.9),
            effort="quick",
            base=QuantizationRecipe(),
            budget_s=np.inf,
            progress=no_progress,
        )
        assert len(judged) == count
