"""Draws of data, trainings and models with which nothing is wrong: what the doctor's checks get, without images or networks."""

import math
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import FloatArray, IntArray
from edgeclf.toolkit.doctor.facts import (
    SPLITS,
    THUMBNAIL,
    DataFacts,
    Features,
    ImageTable,
    ModelFacts,
    RunFacts,
    Trial,
    UseFacts,
)
from edgeclf.toolkit.doctor.gather.probes import PERTURBATIONS
from edgeclf.toolkit.doctor.gather.run import ACCURACY_IMAGES, ACTIVATION_IMAGES, LINEAR_PROBE_IMAGES
from edgeclf.training.options import TrainOptions

# Share of the images whose answer a change, the int8 file and another use draw anew.
_DRAWN_AGAIN = 0.05
# Other ways of use that the doctor usually tries, and photographs that it shows to each.
_WAYS, _SHOWN = 17, 300
# What they change, in turn.
_CHANGES = ({"--mean": "0", "--std": "1"}, {"--channels": "bgr"}, {"--fit": "crop"})
_FEATURES = 32
_TEST_SHARE = 0.2


def healthy_model(rng: np.random.Generator, classes: int, images: int) -> ModelFacts:
    """Answers of a model that is as good at every class, says how sure it is, and bears every change.

    Args:
        rng: Draws it.
        classes: Number of classes.
        images: Held-out images of each class.
    """
    true: IntArray = np.repeat(np.arange(classes), images)
    accuracy = rng.uniform(0.6, 0.99)
    # Around the accuracy, and always above what another class can have.
    sure = accuracy + (1 - accuracy) * rng.uniform(-0.2, 0.8, len(true))

    def draw_labels() -> IntArray:
        others = (true + rng.integers(1, classes, len(true))) % classes
        return np.where(rng.random(len(true)) < sure, true, others)

    def answers(labels: IntArray) -> FloatArray:
        found = np.repeat(((1 - sure) / (classes - 1)).astype(np.float32)[:, None], classes, axis=1)
        found[np.arange(len(true)), labels] = sure
        return found

    said = draw_labels()

    def others() -> FloatArray:
        return answers(np.where(rng.random(len(true)) < _DRAWN_AGAIN, draw_labels(), said))

    paths = tuple(map(str, range(len(true))))
    return ModelFacts("test", paths, true, answers(said), {name: others() for name in PERTURBATIONS}, others())


def healthy_use(rng: np.random.Generator, classes: int, images: int) -> UseFacts:
    """A model file in its right use, and in ways that change some answers as often for better as for worse."""
    model = healthy_model(rng, classes, images)
    order = rng.permutation(len(model.true))[:_SHOWN]
    true, probabilities = model.true[order], model.probabilities[order]
    answers, names = probabilities.argmax(axis=1), tuple(f"class {number}" for number in range(classes))
    trials = [Trial({}, probabilities)]
    for number in range(_WAYS):
        again = rng.random(len(true)) < _DRAWN_AGAIN
        right = rng.random(len(true)) < float((answers == true).mean())
        drawn = np.where(right, true, (true + rng.integers(1, classes, len(true))) % classes)
        given = np.zeros_like(probabilities)
        given[np.arange(len(true)), np.where(again, drawn, answers)] = 1.0
        trials.append(Trial(_CHANGES[number % len(_CHANGES)], given))
    return UseFacts(
        model="model.onnx",
        data="photographs",
        given={},
        is_foreign=True,
        is_scaling_unsaid=False,
        scales_itself=False,
        labels=names,
        has_names=True,
        activation="softmax",
        is_one_value=False,
        paths=tuple(map(str, range(len(true)))),
        folders=names,
        true=true,
        trials=tuple(trials),
        raw=probabilities,
    )


def healthy_data(
    rng: np.random.Generator, classes: int, images: int, *, features: int = _FEATURES, thumbnails: bool = True
) -> DataFacts:
    """Images of a data set whose properties are those of a few cameras, whatever their class and split.

    Splits are drawn for each image by itself, but every class is in both. Features lie around their class with the tails of a t distribution, classes
    overlapping more or less.

    Args:
        rng: Draws it.
        classes: Number of classes.
        images: Images of each class.
        features: Dimensions of the features; 0 for none.
        thumbnails: Whether thumbnails are drawn; else they are of one colour.
    """
    labels: IntArray = np.repeat(np.arange(classes), images)
    count = len(labels)
    names = tuple(f"class {number}" for number in range(classes))
    table = ImageTable(
        paths=tuple(f"{names[label]}/{number}.jpg" for number, label in enumerate(labels.tolist())),
        labels=labels,
        splits=_splits(rng, classes, images),
        digests=tuple(map(str, range(count))),
        formats=tuple(np.where(rng.random(count) < 0.1, "png", "jpeg").tolist()),
        properties=_properties(rng, count),
        thumbnails=_thumbnails(rng, count) if thumbnails else np.zeros((count, THUMBNAIL, THUMBNAIL, 3), np.uint8),
    )
    drawn = None
    if features:
        vectors = features_of(rng, labels, features, rng.uniform(1.0, 4.0))
        drawn = Features(np.arange(count), vectors, "drawn")
    return DataFacts(
        given="photographs",
        root=Path("photographs"),
        classes=names,
        images=table,
        unreadable=(),
        refusal=None,
        features=drawn,
        has_splits=True,
    )


def _splits(rng: np.random.Generator, classes: int, images: int) -> IntArray:
    """(N,) a split for each image, drawn by itself; the first two of a class are one in either."""
    test = rng.random((classes, images)) < _TEST_SHARE
    test[:, :2] = (True, False)
    return np.where(test.ravel(), SPLITS.index("test"), SPLITS.index("train"))


def features_of(rng: np.random.Generator, labels: IntArray, dimensions: int, spread: float) -> FloatArray:
    """(N, dimensions) float32 features around the middles of their classes, a `spread` of standard deviations from the origin."""
    middles = rng.normal(size=(int(labels.max()) + 1, dimensions))
    middles *= spread / np.linalg.norm(middles, axis=1, keepdims=True)
    tails = np.sqrt(rng.chisquare(8, len(labels)) / 8)
    return np.asarray(middles[labels] + rng.normal(size=(len(labels), dimensions)) / tails[:, None], np.float32)


def _properties(rng: np.random.Generator, count: int) -> dict[str, "np.ndarray[tuple[int], np.dtype[np.float64]]"]:
    """Properties as a few cameras give them; values are unlike a normal distribution where those of images are."""
    cameras = np.array([[640, 480], [1280, 960], [4000, 3000], [3000, 4000]], np.float64)
    size = cameras[rng.choice(4, count, p=(0.2, 0.3, 0.4, 0.1))]
    brightness = np.clip(rng.normal(120, 30, count), 5, 250)
    contrast = np.clip(rng.gamma(9, 6, count), 2.5, 110)
    tint = rng.normal(0, 8, (3, count))
    bytes_ = size.prod(axis=1) * rng.lognormal(-1.5, 0.4, count)
    return {
        "file_bytes": bytes_,
        "bytes_per_pixel": bytes_ / size.prod(axis=1),
        "width": size[:, 0],
        "height": size[:, 1],
        "megapixels": size.prod(axis=1) / 1e6,
        "aspect": size[:, 0] / size[:, 1],
        "orientation": rng.choice([1.0, 6.0], count, p=(0.9, 0.1)),
        "jpeg_quality": np.where(rng.random(count) < 0.1, np.nan, rng.choice([75.0, 85.0, 92.0, 95.0], count)),
        "brightness": brightness,
        "contrast": contrast,
        "dark_share": rng.beta(0.6, 6, count),
        "bright_share": rng.beta(0.4, 8, count),
        "saturation": np.clip(rng.normal(90, 30, count), 0, 255),
        "red": np.clip(brightness + tint[0], 0, 255),
        "green": np.clip(brightness + tint[1], 0, 255),
        "blue": np.clip(brightness + tint[2], 0, 255),
        "channel_spread": np.where(rng.random(count) < 0.03, 0.0, rng.gamma(4, 10, count) + 1.5),
        "sharpness": rng.normal(2.6, 0.35, count) + np.log10(contrast**2 + 1.0) - 3.3,
        "fine_sharpness": rng.normal(-1.0, 0.5, count),
        "high_frequency": rng.beta(2, 60, count),
        "blockiness": rng.lognormal(0.1, 0.1, count),
        "edge_sharpness": rng.normal(-0.4, 0.2, count),
        "noise": rng.gamma(3, 0.5, count),
        "border": np.where(rng.random(count) < 0.03, rng.uniform(0.05, 0.3, count), 0.0),
        "corner_spread": rng.gamma(3, 8, count),
    }


def _thumbnails(rng: np.random.Generator, count: int) -> "np.ndarray[tuple[int, int, int, int], np.dtype[np.uint8]]":
    """(count, THUMBNAIL, THUMBNAIL, 3) uint8 of coarse random patterns with noise, whatever the class."""
    coarse = rng.integers(0, 220, (count, 8, 8, 3), np.uint8).repeat(THUMBNAIL // 8, axis=1)
    fine = rng.integers(0, 36, (64, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    return np.asarray(coarse.repeat(THUMBNAIL // 8, axis=2) + fine[rng.integers(0, 64, count)], np.uint8)


def healthy_run(rng: np.random.Generator, classes: int, images: int) -> RunFacts:
    """A training that learned what there is to learn in its usual epochs: plain features are as good, validation as good as training.

    Answers for the validation images are drawn anew in every epoch, as far apart as the number of images lets them be. One in three
    has a learning rate that is unusual and works, one in eight pixels on an unusual scale.

    Args:
        rng: Draws it.
        classes: Number of classes.
        images: Validation images of each class; four times as many are trained on.
    """
    chance = 1 / classes
    top = rng.uniform(max(0.6, chance + 0.3 * (1 - chance)), 0.99)
    # As fast as a head on pretrained features, or slower in as many epochs as that takes.
    epochs, pace = (3, 0.3) if rng.random() < 0.25 else (int(rng.integers(20, 50)), rng.uniform(0.5, 1.5))
    training, validation = 4 * images * classes, images * classes
    true = top - (top - chance) * np.exp(-np.arange(1, epochs + 1) / pace)
    losses = math.log(classes) * (0.1 + 0.9 * np.exp(-np.arange(1, epochs + 1) / pace))
    measured = rng.binomial(validation, true) / validation
    # The same images in every epoch: most of what they are harder or easier than others is common to all.
    accidents = rng.normal(0, 0.3 / math.sqrt(validation)) + rng.normal(0, 0.1 / math.sqrt(validation), epochs)
    val_losses = losses * (1 + accidents)
    best = int(val_losses.argmin())
    history = [
        {"loss": float(loss), "accuracy": float(seen), "val_loss": float(val_loss), "val_accuracy": float(accuracy)}
        for loss, seen, val_loss, accuracy in zip(
            losses, rng.binomial(training, true) / training, val_losses, measured, strict=True
        )
    ]
    probed, checked = min(LINEAR_PROBE_IMAGES * 2 // 3, training), min(LINEAR_PROBE_IMAGES // 3, validation)
    recalled = min(ACCURACY_IMAGES, training)
    names = tuple(f"class {number}" for number in range(classes))
    rate = 1e-3 * (10 ** rng.uniform(-3, 3) if rng.random() < 1 / 3 else 1.0)
    input_std = 0.001 if rng.random() < 1 / 8 else 0.5
    return RunFacts(
        folder=Path("run"),
        data="photographs",
        options=TrainOptions(architecture="small-cnn").to_json(),
        history=history,
        metrics={
            "validation": {"accuracy": float(measured[best]), "count": validation},
            "training_after_last_epoch": {"accuracy": float(rng.binomial(training, true[-1]) / training)},
        },
        record={
            "architecture": "small-cnn",
            "pretrained": False,
            "goes_on": False,
            "fit": {"learning_rate": rate, "optimizer": "adam", "epochs": epochs},
            "suits": {"learning_rate": 1e-3, "optimizer": "adam", "epochs": epochs},
            "ending": "finished",
            "monitor": "val_loss",
            "best_epoch": best + 1,
        },
        classes=names,
        counts={"train": dict.fromkeys(names, 4 * images), "val": dict.fromkeys(names, images)},
        probes={
            "training": {"accuracy": rng.binomial(recalled, true[best]) / recalled},
            "linear_probe": {
                "training_images": probed,
                "training_accuracy": rng.binomial(probed, top) / probed,
                "training_chance": chance,
                "validation_images": checked,
                "validation_accuracy": rng.binomial(checked, top) / checked,
                "validation_chance": chance,
                "network": "drawn",
            },
            "network": {
                "images": ACTIVATION_IMAGES,
                "first_layer": "conv",
                "input_min": -1.0,
                "input_max": 1.0,
                "input_mean": 0.0,
                "input_std": input_std,
                "pixel_min": 0,
                "pixel_max": 255,
                "batch_norm_log10_ratio": None,
                # By the sign of a random sum alone, which is the most that an untrained layer has.
                "relu_layers": [
                    {"name": f"layer {number}", "units": 64, "dead": int(rng.binomial(64, 0.5))} for number in range(20)
                ],
                "dropout": {},
                "bias_to_kernel": 0.3,
            },
        },
    )
