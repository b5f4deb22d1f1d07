"""How sure the doctor is of what it says of a training: seldom of a healthy one, and still of what is wrong."""

import importlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeclf.toolkit.doctor.checks.training import failures, fit, reliability
from edgeclf.toolkit.doctor.facts import Facts
from edgeclf.toolkit.doctor.findings import most_important_first

from .histories import healthy, linear_probe, rows, run_facts, stuck

CHECKS = (*failures.CHECKS, *fit.CHECKS, *reliability.CHECKS)
SIZES = [(2, 5), (2, 20), (2, 100), (10, 5), (10, 20), (100, 5)]


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4]))
    return importlib.import_module("benchmarks.doctor.healthy").healthy_run


def examine(run):
    found = most_important_first([finding for check in CHECKS for finding in check.find(Facts(run=run))])
    return [finding for finding in found if finding.severity != "note"]


def told(run, cause):
    return [finding.severity for finding in examine(run) if finding.cause == cause]


def with_accuracies(run, rng, *, training, validation):
    """The run with other true accuracies, of training images in inference mode and of validation images in every epoch."""
    images, seen = sum(run.counts["val"].values()), sum(run.counts["train"].values())
    measured = rng.binomial(images, validation, len(run.history)) / images
    history = [
        row | {"val_accuracy": float(accuracy), "accuracy": float(rng.binomial(seen, training) / seen)}
        for row, accuracy in zip(run.history, measured, strict=True)
    ]
    known = float(rng.binomial(seen, training) / seen)
    return replace(
        run,
        history=history,
        metrics={
            "validation": {"accuracy": float(measured[-1])},
            "training_after_last_epoch": {"accuracy": known, "images": seen},
        },
        record={**run.record, "fit": {**run.record["fit"], "learning_rate": 1e-3}, "best_epoch": len(history)},
        probes={**run.probes, "training": {"accuracy": known, "images": seen}},
    )


def drawn_long(drawn, rng, classes, images):
    """A healthy run of more epochs than are few, with a usual learning rate and usual pixels, and a probe that is right on 95 %."""
    while len((run := drawn(rng, classes, images)).history) < 20:
        pass
    probe = linear_probe(0.95, 1 / classes, images=4 * images * classes)
    network = {**run.probes["network"], "input_std": 0.5}
    return replace(run, probes={**run.probes, **probe, "network": network})


def test_a_healthy_training_of_any_size_is_told_nothing(drawn, rng):
    alarms = Counter(
        finding.cause for classes, each in SIZES for _ in range(100) for finding in examine(drawn(rng, classes, each))
    )
    # Levels of 0.001, or 0.003 with a trend: Bin(600, 0.003) is above 10 once in 100,000 times.
    assert all(count <= 10 for count in alarms.values()), alarms


@pytest.mark.parametrize(("classes", "each"), SIZES[1:])
def test_a_network_that_guesses_is_stuck(drawn, rng, classes, each):
    found = Counter()
    for _ in range(12):
        run = drawn_long(drawn, rng, classes, each)
        guessing = with_accuracies(run, rng, training=1 / classes, validation=1 / classes)
        found["guessing"] += told(guessing, "stuck-at-chance") == ["problem"]
        found["good"] += bool(told(with_accuracies(run, rng, training=0.95, validation=0.95), "stuck-at-chance"))
    # Guessing is taken for learning in one of several hundred.
    assert found["guessing"] >= 9
    assert found["good"] == 0


@pytest.mark.parametrize(("classes", "each"), SIZES[1:])
def test_gaps_are_told_where_they_are_beyond_chance(drawn, rng, classes, each):
    found = Counter()
    for _ in range(12):
        run = drawn_long(drawn, rng, classes, each)
        by_heart = with_accuracies(run, rng, training=1.0, validation=0.5)
        found["overfit"] += told(by_heart, "overfit") == ["problem"]
        # Sixty percent of two classes are not far from guessing, so that more is asked of them.
        unfit = 0.6 + 0.1 * (classes == 2)
        found["underfit"] += bool(told(with_accuracies(run, rng, training=unfit, validation=unfit), "underfit"))
        good = with_accuracies(run, rng, training=0.95, validation=0.95)
        found["neither"] += not {"overfit", "underfit"} & {finding.cause for finding in examine(good)}
    assert min(found["overfit"], found["neither"]) >= 9
    # A hundred and sixty training images are not enough for all of them.
    assert found["underfit"] >= (9 if classes * each > 40 else 3)


def test_a_gap_on_few_images_is_none():
    # Eight of ten and all of forty.
    flat = rows(np.full(20, 0.2), np.full(20, 1.0), np.full(20, 0.25), np.full(20, 0.8))
    few = run_facts(flat, train=40, val=10, probes=linear_probe(0.97, images=40))
    assert told(few, "overfit") == []
    assert told(run_facts(flat, train=4000, val=1000, probes=linear_probe(0.97, images=400)), "overfit") == ["problem"]


def cut_short(*, known=27, probe=1.0, usual=120):
    """Three epochs of three classes on 42 images, `known` of them right, and five of the nine that validate."""
    history = rows([1.3, 0.9, 0.94], [0.4, 0.6, 0.6], [1.02, 0.95, 0.93], 5 / 9)
    return run_facts(
        history,
        classes=3,
        train=42,
        val=9,
        record={"suits": {"learning_rate": 1e-3, "optimizer": "adam", "epochs": usual}},
        metrics={"training_after_last_epoch": {"accuracy": known / 42, "images": 42}},
        probes={
            "training": {"accuracy": known / 42, "images": 42},
            "linear_probe": {
                "training_images": 42,
                "training_accuracy": probe,
                "training_chance": 1 / 3,
                "validation_images": 9,
                "validation_accuracy": probe,
                "validation_chance": 1 / 3,
                "network": "efficientnet-lite0",
            },
        },
    )


def test_a_run_that_was_cut_short_is_told_however_few_its_images():
    # It does not know its training images as plain features know those that they have not seen: sure, whatever nine images say.
    (finding,) = examine(cut_short())
    assert (finding.cause, finding.severity) == ("stopped-early", "problem")
    assert "3 epochs of the 120" in finding.title
    # Where features do no better, that it ended early is all that is known; and nothing where it did not.
    assert told(cut_short(probe=27 / 42), "stopped-early") == ["warning"]
    assert told(cut_short(probe=27 / 42, usual=3), "stopped-early") == []
    assert told(cut_short(usual=3), "stopped-early") == ["problem"]
    # What knows its training images has had epochs enough, though nine validation images cannot show what it learned.
    assert examine(cut_short(known=42)) == []


@pytest.mark.parametrize("epochs", [2, 4, 6])
def test_a_loss_that_fell_in_few_epochs_is_told_where_more_are_usual(epochs):
    t = np.arange(epochs)
    falling = rows(0.5 * 0.9**t, 1.0, 0.5 * 0.945**t, 1.0)
    assert told(run_facts(falling), "stopped-early") == ["warning"]
    as_usual = {"suits": {"learning_rate": 1e-3, "optimizer": "adam", "epochs": epochs}}
    assert told(run_facts(falling, record=as_usual), "stopped-early") == []
    assert told(run_facts(falling, record={"ending": "early"}), "stopped-early") == []
    # Losses of sixteen images differ by as much by accident.
    assert told(run_facts(falling, train=64, val=16), "stopped-early") == []
    # One of the two has levelled off.
    for of_training, of_validation in ((0.9, 0.99), (0.99, 0.9)):
        level = rows(0.5 * of_training**t, 1.0, 0.5 * of_validation**t, 1.0)
        assert told(run_facts(level), "stopped-early") == []


def test_a_training_accuracy_that_is_hardly_above_guessing_is_stuck_all_the_same():
    # Beyond chance on 400 images, and nothing like what plain features reach.
    history = stuck(np.random.default_rng(0))
    measured = {"training_after_last_epoch": {"accuracy": 0.6, "images": 400}}
    assert told(run_facts(history, metrics=measured, probes=linear_probe(0.98)), "stuck-at-chance") == ["problem"]
    more = {"training_after_last_epoch": {"accuracy": 0.75, "images": 400}}
    assert told(run_facts(history, metrics=more, probes=linear_probe(0.98)), "stuck-at-chance") == []


def test_what_was_cut_short_before_any_trend_is_not_underfit():
    flat = rows(np.full(5, 0.5), np.full(5, 0.75), np.full(5, 0.5), np.full(5, 0.75))
    known = {"metrics": {"training_after_last_epoch": {"accuracy": 0.75, "images": 400}}, "probes": linear_probe(0.97)}
    assert [f.cause for f in examine(run_facts(flat, **known))] == ["stopped-early"]
    as_usual = {"suits": {"learning_rate": 1e-3, "optimizer": "adam", "epochs": 5}}
    assert [f.cause for f in examine(run_facts(flat, record=as_usual, **known))] == ["underfit"]


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_an_unusual_rate_is_not_to_blame_for_what_few_images_do_not_show(factor):
    few = {"train": 40, "val": 10, "learning_rate": 1e-3 * factor}
    # Eight of ten: no more than luck, and no less than good.
    good = rows(np.full(20, 0.3), np.full(20, 0.85), np.full(20, 0.3), np.full(20, 0.8))
    assert examine(run_facts(good, probes=linear_probe(0.85, images=40), **few)) == []
    cause = "lr-too-high" if factor > 1 else "lr-too-low"
    guessing = stuck(np.random.default_rng(0))
    assert told(run_facts(guessing, probes=linear_probe(0.95), learning_rate=1e-3 * factor), cause) == ["problem"]


def test_accuracy_while_training_is_no_measure_of_the_fit():
    """Dropout and mixup hold it down; only what was measured in inference mode can be too low."""
    held = rows(np.full(30, 0.6), np.full(30, 0.6), np.full(30, 0.3), np.full(30, 0.95))
    assert told(run_facts(held, probes=linear_probe(0.95)), "underfit") == []
    low = {"training_after_last_epoch": {"accuracy": 0.6, "images": 400}}
    assert told(run_facts(held, probes=linear_probe(0.95), metrics=low), "underfit") == ["warning"]


def test_data_that_plain_features_only_guess_are_not_said_to_be_learnable():
    history = stuck(np.random.default_rng(0))
    clear = next(f for f in examine(run_facts(history, probes=linear_probe(0.95))) if f.cause == "stuck-at-chance")
    assert "can be learned" in clear.title
    unclear = next(
        f for f in examine(run_facts(history, probes=linear_probe(0.6, images=30))) if f.cause == "stuck-at-chance"
    )
    assert "can be learned" not in unclear.title


def test_a_swing_is_more_than_answers_drawn_anew_give(rng):
    alarms = 0
    for _ in range(40):
        history = healthy(rng, 30, images=60, top=0.8)
        for row in history:
            row["val_accuracy"] = float(rng.binomial(60, 0.8) / 60)
        alarms += bool(told(run_facts(history, val=60, train=240), "noisy-validation"))
    # Once in a thousand each.
    assert alarms <= 2
    for epoch, row in enumerate(history):
        row["val_accuracy"] = 0.8 + (0.15 if epoch % 2 else -0.15)
    assert told(run_facts(history, val=60, train=240), "noisy-validation") == ["warning"]
