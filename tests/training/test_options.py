"""The table of options, and options of a fit out of range."""

from dataclasses import fields

import pytest

from edgeclf.runtime.errors import UsageError
from edgeclf.training.options import (
    FitOptions,
    TrainOptions,
    options_from_json,
    training_options,
)
from edgeclf.training.recipes import FINE_TUNING


def options(**changes):
    values = {"epochs": 3, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.01, "patience": 10}
    return FitOptions(**{**values, **changes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "bad epochs"),
        ({"batch_size": 0}, "bad batch size"),
        ({"patience": 0}, "bad patience"),
        ({"learning_rate": 0.0}, "bad learning rate"),
        ({"learning_rate": -1.0}, "bad learning rate"),
        ({"learning_rate": float("nan")}, "bad learning rate"),
        ({"learning_rate": float("inf")}, "bad learning rate"),
        ({"weight_decay": -0.1}, "bad weight decay"),
        ({"weight_decay": float("nan")}, "bad weight decay"),
        ({"mixup": -1.0}, "bad mixup"),
        ({"label_smoothing": 1.0}, "bad label smoothing"),
        ({"schedule": "cosine", "warmup_epochs": 3}, "bad warmup epochs"),
        ({"warmup_epochs": 1}, "warm-up without a schedule"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion': expected adam or"),
        ({"schedule": "step"}, "unknown schedule 'step': expected constant or cosine"),
        ({"balance": "focal"}, "unknown balance 'focal': expected none or weights or sampling"),
        ({"monitor": "loss"}, "unknown monitor 'loss': expected val_loss or"),
        ({"augment": "heavy"}, "unknown augmentation 'heavy'"),
    ],
)
def test_options_out_of_range(change, words):
    options()
    with pytest.raises(UsageError, match=words):
        options(**change)


def test_the_fine_tuning_recipe_is_one():
    assert FitOptions(**vars(FINE_TUNING)).schedule == "cosine"


def test_every_field_of_a_fit_is_set_by_a_row_of_the_table_and_no_row_sets_another():
    assert {row.sets for row in training_options() if row.stages} == {item.name for item in fields(FitOptions)}


def test_options_travel_through_json(tmp_path):
    options = TrainOptions(fine_tune=True, batch_size=3, from_run="runs/before")
    assert options_from_json(options.to_json(), tmp_path) == options
