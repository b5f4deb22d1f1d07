"""Histories of trainings of known kinds, and what else is known of such a run."""

import math
from pathlib import Path

import numpy as np

from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.training.options import TrainOptions

SUITS = {"learning_rate": 1e-3, "optimizer": "adam", "epochs": 50}


def rows(loss, accuracy, val_loss, val_accuracy):
    """A history of equally long columns."""
    columns = np.broadcast_arrays(*(np.asarray(column, float) for column in (loss, accuracy, val_loss, val_accuracy)))
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


def run_facts(history, *, classes=2, train=400, val=200, learning_rate=1e-3, record=None, **more):
    names = tuple(f"class{number}" for number in range(classes))
    record = {
        "architecture": "small-cnn",
        "pretrained": False,
        "goes_on": False,
        "fit": {"learning_rate": learning_rate, "optimizer": "adam", "epochs": len(history)},
        "suits": SUITS,
        "ending": "finished",
        "monitor": "val_loss",
        **(record or {}),
    }
    values = {
        "folder": Path("runs/first"),
        "data": "photographs",
        "options": TrainOptions(architecture="small-cnn").to_json(),
        "metrics": {},
        "probes": {},
        **more,
    }
    counts = {part: dict.fromkeys(names, images // classes) for part, images in (("train", train), ("val", val))}
    return RunFacts(history=history, record=record, classes=names, counts=counts, **values)


def linear_probe(accuracy, chance=0.5, images=400, **more):
    return {
        "linear_probe": {
            "training_images": images,
            "training_accuracy": accuracy,
            "training_chance": chance,
            "validation_images": images // 2,
            "validation_accuracy": accuracy,
            "validation_chance": chance,
            "network": "efficientnet-lite0",
        },
        **more,
    }


def network_probe(**changes):
    return {
        "network": {
            "images": 96,
            "first_layer": "conv1",
            "input_min": -1.0,
            "input_max": 1.0,
            "input_mean": 0.0,
            "input_std": 0.5,
            "pixel_min": 0,
            "pixel_max": 255,
            "batch_norm_log10_ratio": None,
            "relu_layers": [{"name": "conv1", "units": 16, "dead": 0}],
            "dropout": {},
            "bias_to_kernel": 0.3,
            **changes,
        }
    }


def healthy(rng, epochs=30, classes=2, images=200, top=0.97):
    """Loss falls and levels off, validation with it, both as noisy as their number of images makes them."""
    t = np.arange(1, epochs + 1)
    chance = 1 / classes
    accuracy = top - (top - chance) * np.exp(-t / 3.0)
    noise = rng.normal(0, 1, (2, epochs))
    val_accuracy = np.clip(accuracy - 0.01 + noise[0] * np.sqrt(accuracy * (1 - accuracy) / images), 0, 1)
    loss = math.log(classes) * (0.08 + 0.92 * np.exp(-t / 3.0))
    return rows(loss, accuracy, loss * 1.05 + 0.002 * np.abs(noise[1]), val_accuracy)


def stuck(rng, epochs=12, classes=2):
    noise = rng.normal(0, 1, (4, epochs))
    level, chance = math.log(classes), 1 / classes
    return rows(
        level * (1 + 0.005 * np.abs(noise[0])),
        chance + 0.015 * noise[1] * chance,
        level * (1 + 0.002 * np.abs(noise[2])),
        np.clip(chance + 0.02 * noise[3] * chance, 0, 1),
    )


def learned_by_heart(epochs=25, top=0.65):
    t = np.arange(epochs)
    turn = 4
    val_loss = np.where(t <= turn, 0.69 - 0.02 * t, 0.61 + 0.06 * (t - turn))
    return rows(0.69 * np.exp(-t / 4), np.minimum(1, 0.55 + 0.05 * t), val_loss, np.minimum(top, 0.5 + 0.05 * t))
