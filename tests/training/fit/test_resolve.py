"""Options resolved: every option reaches every fit that it is meant for, or is refused with a sentence."""

from dataclasses import replace

import pytest

from edgeclf.runtime.errors import UsageError
from edgeclf.training.fit.resolve import resolve_options
from edgeclf.training.options import FINE_TUNE, HEAD, QAT, WHOLE, TrainOptions, training_option, training_options
from edgeclf.training.recipes import FINE_TUNING

# Trainings with every combination of fits that there is.
TRAININGS = {
    "head": ({}, (HEAD,)),
    "fine-tuning": ({"fine_tune": True}, (HEAD, FINE_TUNE)),
    "whole": ({"architecture": "seed-cnn"}, (WHOLE,)),
    "qat": ({"qat": True, "from_run": "runs/before"}, (QAT,)),
}
# For every option of a fit a value that no recipe has.
VALUES = {
    "epochs": 7,
    "batch_size": 5,
    "optimizer": "rmsprop",
    "learning_rate": 0.123,
    "schedule": "cosine",
    "warmup_epochs": 0.25,
    "weight_decay": 0.07,
    "label_smoothing": 0.03,
    "augment": "strong",
    "mixup": 0.3,
    "dropout_scale": 0.4,
    "batch_norm": True,
    "progressive": True,
    "average_epochs": 2.0,
    "patience": 2,
    "monitor": "val_accuracy",
    "balance": "sampling",
    "fine_tune_epochs": 6,
    "fine_tune_learning_rate": 0.01,
    "seed": 4,
}
REFUSED = {
    "head": {"augment", "mixup", "batch_norm", "progressive", "fine_tune_epochs", "fine_tune_learning_rate"},
    "fine-tuning": {"batch_norm", "progressive"},
    "whole": {"fine_tune_epochs", "fine_tune_learning_rate"},
    "qat": {"dropout_scale", "batch_norm", "progressive", "fine_tune_epochs", "fine_tune_learning_rate"},
}


def fits(**given):
    """The options of each fit of a training, by stage."""
    resolved = resolve_options(TrainOptions(**given))
    return {resolved.first_stage: resolved.first} | ({FINE_TUNE: resolved.fine_tune} if resolved.fine_tune else {})


@pytest.mark.parametrize(
    ("name", "recorded"),
    [(None, "area-down-linear-up"), ("area", "area-down-linear-up"), ("bilinear", "bilinear"), ("bicubic", "bicubic")],
)
def test_an_interpolation_is_that_of_the_preprocessing(name, recorded):
    assert resolve_options(TrainOptions(interpolation=name)).preprocess.interpolation == recorded


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(UsageError, match=r"unknown interpolation 'lanczos': expected area or bilinear or bicubic"):
        resolve_options(TrainOptions(interpolation="lanczos"))


def test_every_option_of_a_fit_has_a_value_here():
    assert {row.name for row in training_options() if row.stages} == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("training", TRAININGS)
def test_an_option_reaches_every_fit_it_is_meant_for_or_is_refused(training, name):
    given, stages = TRAININGS[training]
    row = training_option(name)
    changes = {name: VALUES[name]}
    if name == "progressive" and training == "whole":
        given = {"architecture": "small-cnn"}
    if name == "warmup_epochs":
        # A warm-up needs a schedule, which a head has not by itself.
        changes["schedule"] = "cosine"
    if name in REFUSED[training]:
        with pytest.raises(UsageError, match=f"{row.flag}|nothing to augment"):
            resolve_options(TrainOptions(**given, **changes))
        return
    options = fits(**given, **changes)
    assert tuple(options) == stages
    reached = [stage for stage in stages if stage in row.stages]
    assert reached
    for stage in stages:
        assert (getattr(options[stage], row.sets) == VALUES[name]) == (stage in reached)


@pytest.mark.parametrize("training", TRAININGS)
def test_a_constant_learning_rate_has_no_warm_up_in_any_fit(training):
    given, _ = TRAININGS[training]
    for options in fits(**given, schedule="constant").values():
        assert (options.schedule, options.warmup_epochs) == ("constant", 0.0)


@pytest.mark.parametrize(
    "given", [{"architecture": name} for name in ("small-cnn", "seed-cnn", "resnet8")] + [{"weights": "none"}]
)
def test_a_whole_network_goes_on_at_a_lower_rate_on_images_of_its_size(given):
    scratch, on = fits(**given)[WHOLE], fits(**given, from_run="runs/before")[WHOLE]
    assert 0 < on.learning_rate <= scratch.learning_rate / 4
    assert (on.progressive, on.batch_norm) == (False, False)
    same = {
        "learning_rate": scratch.learning_rate,
        "progressive": scratch.progressive,
        "batch_norm": scratch.batch_norm,
    }
    assert replace(on, **same) == scratch
    assert fits(**given, from_run="runs/before", learning_rate=0.123)[WHOLE].learning_rate == 0.123


def test_a_head_goes_on_as_it_began():
    assert fits(from_run="runs/before") == fits()


def test_a_recipe_s_warm_up_is_shortened_with_its_epochs():
    assert FINE_TUNING.warmup_epochs == 0.5
    shorter = fits(fine_tune=True, fine_tune_epochs=1)[FINE_TUNE]
    assert shorter.warmup_epochs == pytest.approx(0.5 / FINE_TUNING.epochs)
    assert fits(fine_tune=True, fine_tune_epochs=9)[FINE_TUNE].warmup_epochs == 0.5


def test_a_warm_up_as_long_as_fine_tuning_is_refused_by_name():
    with pytest.raises(UsageError, match=r"warm-up is longer than fine-tuning.*below its 3 epochs"):
        fits(fine_tune=True, schedule="cosine", warmup_epochs=3)
    assert fits(fine_tune=True, schedule="cosine", warmup_epochs=3, fine_tune_epochs=4)[FINE_TUNE].warmup_epochs == 3
