"""What the doctor says of trainings, on histories of known kinds: the cause first, and nothing where nothing is wrong."""

import json
import math
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclf.toolkit.doctor.checks.training import failures, fit, reliability
from edgeclf.toolkit.doctor.checks.training.curves import read_curves
from edgeclf.toolkit.doctor.checks.training.fit import overfit_begin
from edgeclf.toolkit.doctor.facts import Facts
from edgeclf.toolkit.doctor.findings import most_important_first
from edgeclf.training.options import TrainOptions

from .histories import healthy, learned_by_heart, linear_probe, network_probe, rows, run_facts, stuck

CHECKS = (*failures.CHECKS, *fit.CHECKS, *reliability.CHECKS)


def examine(run):
    return most_important_first([finding for check in CHECKS for finding in check.find(Facts(run=run))])


def causes(run, *, notes=False):
    return [finding.cause for finding in examine(run) if notes or finding.severity != "note"]


@settings(derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    epochs=st.integers(15, 120),
    classes=st.integers(2, 20),
    images=st.sampled_from([200, 640, 2000]),
)
def test_a_healthy_training_has_no_problem(seed, epochs, classes, images):
    history = healthy(np.random.default_rng(seed), epochs, classes, images)
    found = examine(
        run_facts(history, classes=classes, train=4 * images, val=images, probes=linear_probe(0.98, 1 / classes))
    )
    assert [finding for finding in found if finding.severity == "problem"] == []


@settings(derandomize=True)
@given(seed=st.integers(0, 1 << 30), epochs=st.integers(6, 60), classes=st.integers(2, 20))
def test_a_network_that_guesses_is_stuck_whatever_the_number_of_classes(seed, epochs, classes):
    history = stuck(np.random.default_rng(seed), epochs, classes)
    assert causes(run_facts(history, classes=classes))[0] == "stuck-at-chance"
    assert causes(run_facts(history, classes=classes, probes=linear_probe(0.95, 1 / classes)))[0] == "stuck-at-chance"


@settings(derandomize=True)
@given(seed=st.integers(0, 1 << 30), factor=st.floats(10, 1e5))
def test_the_same_curves_with_a_strange_learning_rate_are_put_down_to_it(seed, factor):
    history = stuck(np.random.default_rng(seed))
    assert causes(run_facts(history, learning_rate=1e-3 * factor, probes=linear_probe(0.95)))[0] == "lr-too-high"
    assert causes(run_facts(history, learning_rate=1e-3 / factor, probes=linear_probe(0.95)))[0] == "lr-too-low"
    # A rate that works is no problem, however strange; that noise looks like a trend is left to happen now and then.
    well = healthy(np.random.default_rng(seed))
    for rate in (1e-3 * factor, 1e-3 / factor):
        assert not [f for f in examine(run_facts(well, learning_rate=rate)) if f.severity == "problem"]


def test_a_high_rate_that_only_blows_the_logits_up_is_a_warning():
    well = healthy(np.random.default_rng(0))
    hot = {"calibration": {"temperature": 4.5}}
    found = examine(run_facts(well, learning_rate=0.1, metrics=hot, probes=linear_probe(0.97)))
    assert [(f.cause, f.severity) for f in found] == [("lr-too-high", "warning")]
    assert "4.5 times too large" in found[0].title
    assert causes(run_facts(well, learning_rate=0.1, metrics={"calibration": {"temperature": 1.2}})) == []
    assert causes(run_facts(well, metrics=hot)) == []


@settings(derandomize=True)
@given(seed=st.integers(0, 1 << 30), memorized=st.booleans())
def test_labels_that_plain_features_cannot_tell_either_are_the_cause(seed, memorized):
    rng = np.random.default_rng(seed)
    history = stuck(rng)
    if memorized:
        history = [
            row | {"accuracy": 0.5 + 0.04 * epoch, "loss": 0.7 - 0.05 * epoch} for epoch, row in enumerate(history)
        ]
    assert causes(run_facts(history, probes=linear_probe(0.5 + rng.uniform(-0.05, 0.05))))[0] == "label-noise"
    assert "label-noise" not in causes(run_facts(history, probes=linear_probe(0.9)))
    # Too few images to say so.
    few = linear_probe(0.5, images=40)
    assert "label-noise" not in causes(run_facts(history, probes=few, train=40, val=20))


def test_overfitting_says_when_it_began_and_how_large_it_is():
    run = run_facts(learned_by_heart(), train=200, val=50, probes=linear_probe(0.95, images=200))
    first = examine(run)[0]
    assert (first.cause, first.severity) == ("overfit", "problem")
    assert abs(first.evidence["from_epoch"] - 6) <= 1
    assert first.evidence["gap"] == pytest.approx(0.35, abs=0.02)
    assert first.evidence["validation_loss_rise"] > 1
    assert f"from epoch {first.evidence['from_epoch']}" in first.title
    assert "--arch efficientnet-lite0" in first.fix
    assert overfit_begin(read_curves(run_facts(healthy(np.random.default_rng(1))))) is None


def test_the_training_accuracy_that_counts_is_the_one_without_dropout():
    """Dropout and augmentation hold training figures down, which is neither underfitting nor the absence of overfitting."""
    t = np.arange(30)
    held = rows(0.69 - 0.01 * t, 0.5 + 0.008 * t, 0.59 * np.exp(-t / 3) + 0.1, np.minimum(0.93, 0.5 + 0.04 * t))
    after = {"training_after_last_epoch": {"epoch": 30, "images": 400, "accuracy": 0.95, "loss": 0.2}}
    assert causes(run_facts(held, metrics=after, probes=linear_probe(0.96), train=2000, val=400)) == []
    low = {"training_after_last_epoch": {"epoch": 30, "images": 400, "accuracy": 0.74, "loss": 0.5}}
    flat = rows(np.full(30, 0.55), np.full(30, 0.72), np.full(30, 0.56), np.full(30, 0.73))
    assert causes(run_facts(flat, metrics=low, probes=linear_probe(0.96), train=2000, val=400)) == ["underfit"]
    dropout = linear_probe(0.96, **network_probe(dropout={"drop": 0.8}))
    held_down = rows(np.full(30, 0.66), np.full(30, 0.58), np.full(30, 0.6), np.full(30, 0.73))
    found = examine(run_facts(held_down, metrics=low, probes=dropout, train=2000, val=400))
    assert [finding.cause for finding in found] == ["over-regularized"]
    assert "--dropout-scale 0" in found[0].fix


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_few_epochs_that_came_to_nothing_are_too_few(epochs):
    history = stuck(np.random.default_rng(0), epochs)
    first = examine(run_facts(history, probes=linear_probe(0.95)))[0]
    assert (first.cause, first.severity) == ("stopped-early", "problem")
    assert f"{epochs} epoch" in first.title
    assert "of the 50" in first.title
    resumed = examine(run_facts(history, record={"ending": "interrupted"}))[0]
    assert resumed.fix == "Try edgeclf train --resume runs/first"


def test_a_loss_that_still_falls_is_a_warning_and_one_that_has_levelled_off_is_none():
    t = np.arange(20)
    falling = rows(0.69 * 0.96**t, 0.5 + 0.02 * t, 0.69 * 0.965**t, 0.5 + 0.018 * t)
    found = [f for f in examine(run_facts(falling)) if f.cause == "stopped-early"]
    assert [f.severity for f in found] == ["warning"]
    assert found[0].evidence["still_falling"]
    assert "stopped-early" not in causes(run_facts(falling, record={"ending": "early"}), notes=True)
    # As good as plain features already: little is left to gain.
    assert "stopped-early" not in causes(run_facts(falling, probes=linear_probe(0.8)))
    assert "stopped-early" not in causes(run_facts(healthy(np.random.default_rng(2), 40)))


def test_a_loss_that_is_no_number_is_divergence_and_a_high_rate_its_cause():
    history = [*stuck(np.random.default_rng(0), 4), *rows([math.nan], [0.5], [math.nan], [0.5])]
    assert causes(run_facts(history))[0] == "diverged"
    assert "--learning-rate 0.0001" in examine(run_facts(history))[0].fix
    found = examine(run_facts(history, learning_rate=0.5))
    assert [f.cause for f in found][:2] == ["lr-too-high", "diverged"]
    # Nothing at all was finished.
    at_once = {"diverged": {"stage": "fit", "steps": 3, "epoch_steps": 10, "loss": 812.0}, "ending": "diverged"}
    assert examine(run_facts([], record=at_once))[0].title.endswith("after 3 of 10 steps of its first epoch")
    assert causes(run_facts([], record=at_once, learning_rate=1.0)) == ["lr-too-high", "diverged"]


def test_a_history_of_another_program_without_options_is_judged_by_its_curves():
    anywhere = {"fit": {}, "suits": {}, "ending": "finished"}
    exploded = rows([3.2, 0.8, 0.7, 356.0, 0.69, 0.69], 0.5, 0.6931, 0.5)
    assert causes(run_facts(exploded, record=anywhere))[0] == "lr-too-high"
    t = np.arange(20)
    creeping = rows(0.6931 - 0.001 * t, 0.5, 0.6931 - 0.0008 * t, 0.5)
    assert causes(run_facts(creeping, record=anywhere))[0] == "lr-too-low"
    renamed = [{"acc": row["accuracy"], "val_acc": row["val_accuracy"], "lr": 1e-3} | row for row in creeping]
    for row in renamed:
        del row["accuracy"], row["val_accuracy"]
    assert np.isfinite(read_curves(run_facts(renamed)).val_accuracy).all()


def test_pixels_on_a_wrong_scale_come_before_everything_they_cause():
    history = stuck(np.random.default_rng(0))
    doubled = linear_probe(0.95, **network_probe(input_min=-2.0, input_max=1014.0, input_std=260.0))
    first = examine(run_facts(history, learning_rate=0.1, probes=doubled))[0]
    assert (first.cause, first.severity) == ("input-scale", "problem")
    assert "1.01e+03" in first.title
    dark = linear_probe(0.95, **network_probe(input_min=-2.0, input_max=120.0, input_std=20.0, pixel_max=30))
    assert causes(run_facts(healthy(np.random.default_rng(0)), probes=dark))[0] == "input-scale"
    tiny = linear_probe(0.95, **network_probe(input_min=0.0, input_max=0.004, input_std=0.001))
    assert causes(run_facts(history, probes=tiny))[0] == "input-scale"
    # What a network bore is no problem, and pretrained networks have conventions of their own.
    good = healthy(np.random.default_rng(0))
    assert causes(run_facts(good, probes=tiny)) == []
    caffe = linear_probe(0.95, **network_probe(input_min=-124.0, input_max=151.0, input_std=60.0))
    assert "input-scale" not in causes(run_facts(history, probes=caffe, record={"pretrained": True}))
    assert "input-scale" in causes(run_facts(history, probes=caffe))
    other = linear_probe(0.95, **network_probe(batch_norm_log10_ratio=4.8))
    assert "input-scale" in causes(run_facts(history, probes=other, record={"pretrained": True}))


def test_weights_that_have_not_moved_are_a_rate_that_is_too_low():
    unmoved = linear_probe(0.95, **network_probe(bias_to_kernel=0.002))
    history = stuck(np.random.default_rng(0))
    assert causes(run_facts(history, probes=unmoved))[0] == "lr-too-low"
    assert causes(run_facts(history, probes=linear_probe(0.95, **network_probe())))[0] == "stuck-at-chance"


def test_dead_units_are_named_by_their_layer():
    layers = [{"name": "conv1", "units": 16, "dead": 1}, {"name": "dense1", "units": 64, "dead": 64}]
    found = examine(run_facts(stuck(np.random.default_rng(0)), probes=network_probe(relu_layers=layers)))
    dead = next(finding for finding in found if finding.cause == "dead-units")
    assert (dead.severity, dead.evidence["layer"], dead.evidence["share"]) == ("problem", "dense1", 1.0)
    # Where what kills units is named, they are only a sign of it.
    named = run_facts(stuck(np.random.default_rng(0)), probes=network_probe(relu_layers=layers), learning_rate=1.0)
    assert causes(named) == ["lr-too-high"]
    few = network_probe(relu_layers=[*layers[:1], {"name": "dense1", "units": 64, "dead": 34}])
    assert "dead-units" not in causes(run_facts(healthy(np.random.default_rng(0)), probes=few), notes=True)


def test_weights_of_another_epoch_than_the_best_are_noticed():
    history = healthy(np.random.default_rng(0), 20)
    best = int(np.argmin([row["val_loss"] for row in history]))
    kept = {"validation": {"accuracy": history[best]["val_accuracy"]}}
    assert "not-best-weights" not in causes(run_facts(history, metrics=kept))
    worse = {"validation": {"accuracy": history[best]["val_accuracy"] - 0.1}}
    assert "not-best-weights" in causes(run_facts(history, metrics=worse))
    # Of a network that goes on, those from before the first epoch may be the best.
    assert "not-best-weights" not in causes(run_facts(history, metrics=worse, record={"best_epoch": 0}))


def test_validation_that_swings_more_than_its_images_explain():
    rng = np.random.default_rng(0)
    history = healthy(rng, 40, images=2000, top=0.9)
    assert "noisy-validation" not in causes(run_facts(history, val=2000, train=8000))
    for epoch, row in enumerate(history):
        row["val_accuracy"] = 0.85 + (0.06 if epoch % 2 else -0.06)
    assert "noisy-validation" in causes(run_facts(history, val=2000, train=8000))
    # A small validation part explains as much by itself, and is said to be small.
    few = run_facts(history, val=20, train=80)
    assert "noisy-validation" not in causes(few)
    assert "noisy-validation" in causes(few, notes=True)


NUMBERS = st.one_of(st.floats(), st.none(), st.integers(-3, 3))


@settings(derandomize=True)
@given(
    history=st.lists(
        st.dictionaries(st.sampled_from(["loss", "accuracy", "val_loss", "val_accuracy", "lr", "stage"]), NUMBERS),
        max_size=12,
    ),
    known=st.booleans(),
)
def test_whatever_the_history_there_are_findings_and_no_crash(history, known):
    run = run_facts(history) if known else run_facts(history, record={"fit": {}, "suits": {}, "ending": "unfinished"})
    for finding in examine(run):
        json.dumps(finding.to_json(), allow_nan=False)


def test_without_a_run_nothing_is_said():
    assert [finding for check in CHECKS for finding in check.find(Facts())] == []


def test_every_command_that_is_suggested_is_one():
    """The options are those of `edgeclf train`, and those of the run are kept."""
    from edgeclf.toolkit.doctor.remedies import sweep_learning_rate, train_again, train_pretrained

    options = TrainOptions(architecture="seed-cnn", image_size=96, balance="weights", progressive=False, fine_tune=True)
    run = run_facts(healthy(np.random.default_rng(0)), options=options.to_json(), data="my photos")
    again = shlex.split(train_again(run, epochs=70, learning_rate=1e-4, balance="none"))
    assert again[:3] == ["edgeclf", "train", "my photos"]
    assert again[3:] == [
        *("--arch", "seed-cnn", "--image-size", "96", "--epochs", "70", "--learning-rate", "0.0001"),
        *("--no-progressive", "--fine-tune", "--run", "runs/first-again"),
    ]
    assert shlex.split(sweep_learning_rate(run))[-2:] == ["--find-lr", "runs/first-rates.png"]
    assert "--run runs/first-again" in train_pretrained(run)
    onwards = TrainOptions(
        architecture="seed-cnn", image_size=96, weights="none", interpolation="area", from_run="runs/zero"
    )
    command = train_again(run_facts([], options=onwards.to_json()))
    assert command == "edgeclf train photographs --from runs/zero --run runs/first-again"
