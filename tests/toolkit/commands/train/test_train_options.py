"""`edgeclf train`: classes that change, classes that are uneven, unknown images, looks before training."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edgeclf.runtime import load_image, preprocess_bgr
from edgeclf.training import load_run
from edgeclf.training.options import training_options

from ...conftest import CLASSES, SEED_CNN, write_photographs

pytestmark = pytest.mark.slow

# The pretrained network at its smallest: features are computed once for all tests of this file.
FROZEN = ("--image-size", "64", "--epochs", "20")


@pytest.fixture(scope="module")
def frozen_run(run_edgeclf, photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen") / "run"
    done = run_edgeclf("train", photographs, "--run", folder, *FROZEN, "--false-rejection-rate", "0.2")
    assert done.returncode == 0, done.stderr
    return folder


def test_fine_tuning_goes_on_from_the_head_and_is_never_worse(call_edgeclf, photographs, tmp_path):
    arguments = ("train", photographs, "--run", tmp_path / "run", "--image-size", 64, "--epochs", 5, "--json")
    tuning = ("--fine-tune", "--fine-tune-blocks", 3, "--fine-tune-epochs", 2)
    done = call_edgeclf(*arguments, *tuning, "--fine-tune-learning-rate", "0.5")
    assert done.code == 0, done.err
    document = done.json()
    assert [row["stage"] for row in document["history"]] == ["head"] * 5 + ["fine-tune"] * 2
    # Such a learning rate ruins the network, so the head's own weights are kept.
    head = min(row["val_loss"] for row in document["history"][:5])
    assert min(row["val_loss"] for row in document["history"][5:]) > head
    assert document["training"]["best_epoch"] <= 5
    gentle = call_edgeclf(*arguments, *tuning, "--overwrite").json()
    assert gentle["history"][:5] == document["history"][:5]
    assert gentle["history"][5:] != document["history"][5:]
    assert gentle["training"]["fine_tune"]["blocks"] == 3


def test_options_that_both_fits_share_reach_fine_tuning(call_edgeclf, photographs, tmp_path):
    shared = (
        "--batch-size",
        7,
        "--optimizer",
        "sgd",
        "--weight-decay",
        "0.01",
        "--patience",
        1,
        "--schedule",
        "constant",
    )
    arguments = ("train", photographs, "--run", tmp_path / "run", "--image-size", 64, "--epochs", 1, "--fine-tune")
    done = call_edgeclf(*arguments, *shared, "--fine-tune-epochs", 9, "--fine-tune-learning-rate", "1e-30", "--json")
    assert done.code == 0, done.err
    training = done.json()["training"]
    for options in (training, training["fine_tune"]):
        assert (options["batch_size"], options["optimizer"], options["weight_decay"]) == (7, "sgd", 0.01)
        assert (options["patience"], options["schedule"], options["warmup_epochs"]) == (1, "constant", 0.0)
    # A learning rate that changes no weight in float32, so that nothing gets better: the second fit ends after one patient epoch, of nine.
    rates = [row["learning_rate"] for row in done.json()["history"] if row["stage"] == "fine-tune"]
    assert len(rates) < 9
    assert rates == pytest.approx([1e-30] * len(rates), rel=1e-6, abs=0)


def test_every_option_of_the_table_is_one_of_the_command(call_edgeclf):
    shown = call_edgeclf("train", "--help").out
    for row in training_options():
        assert row.flag in shown
        assert row.negative_flag is None or row.negative_flag in shown


def test_new_gone_and_renamed_classes_are_told_and_old_rows_kept(call_edgeclf, frozen_run, photographs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    (data / "coffee").rename(data / "espresso")
    shutil.rmtree(data / "astronaut")
    (data / "noise").mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(data / "noise" / f"{number}.png"), cv2.resize(image, (80, 80)))
    done = call_edgeclf("train", data, "--run", tmp_path / "run", "--from", frozen_run, "--epochs", 20, "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert document["classes"] == {
        "kept": ["chelsea"],
        "renamed": [{"from": "coffee", "to": "espresso"}],
        "new": ["noise"],
        "gone": ["astronaut"],
    }
    assert document["labels"] == ["chelsea", "espresso", "noise"]
    assert document["test"]["accuracy"] >= 0.8
    # Three test images of each class, as the earlier run had them; the new class is not among the old ones.
    old = document["old_classes"]
    assert [(item["label"], item["images"]) for item in old["classes"]] == [("chelsea", 3), ("espresso", 3)]
    assert (old["images"], old["worse"]) == (6, False)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["old_classes"] == old
    assert "old classes were lost" not in done.err
    compared = call_edgeclf("compare", frozen_run, tmp_path / "run", data, "--json").json()
    assert [compared[key] for key in ("images", "both", "lost", "won")] == [
        old[key] for key in ("images", "both", "lost", "won")
    ]
    # Images keep their part: what the first run trained on is not tested on.
    before = {sample.digest: sample.split for sample in load_run(frozen_run).split}
    after = [sample for sample in load_run(tmp_path / "run").split if sample.digest in before]
    assert len(after) == 40
    assert all(before[sample.digest] == sample.split for sample in after)
    shown = call_edgeclf("train", data, "--run", tmp_path / "run", "--from", frozen_run, "--epochs", 1, "--overwrite")
    assert "kept chelsea; new noise; coffee is now espresso; gone astronaut" in shown.out
    assert f"neither trained nor validated {frozen_run}" in shown.out


def test_going_on_from_a_network_trained_from_scratch(call_edgeclf, trained_run, photographs, tmp_path):
    done = call_edgeclf(
        "train", photographs, "--run", tmp_path / "run", "--from", trained_run.folder, "--epochs", 1, "--json"
    )
    assert done.code == 0, done.err
    assert done.json()["architecture"] == "seed-cnn"
    assert load_run(tmp_path / "run").spec.preprocess.size_hw == (89, 89)


@pytest.mark.parametrize(("name", "rate"), [("trained_run", "0.5"), ("frozen_run", "300")])
def test_a_network_that_goes_on_never_ends_worse_than_it_began(
    call_edgeclf, request, name, rate, photographs, tmp_path
):
    given = request.getfixturevalue(name)
    earlier = load_run(getattr(given, "folder", given))
    arguments = ("--learning-rate", rate, "--warmup-epochs", 0, "--epochs", 2)
    done = call_edgeclf("train", photographs, "--run", tmp_path / "run", "--from", earlier.folder, *arguments)
    assert done.code == 0, done.err
    assert "the weights that it began with kept" in " ".join(done.out.split())
    run = load_run(tmp_path / "run")
    assert run.spec.training["best_epoch"] == 0
    assert run.spec.training["epochs_run"] >= 1
    for before, after in zip(earlier.load_model().get_weights(), run.load_model().get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert run.spec.training["val_accuracy"] == earlier.spec.training["val_accuracy"]


def test_a_class_all_of_whose_images_trained_before_gets_validation_images(
    call_edgeclf, frozen_run, photographs, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    before = load_run(frozen_run).split
    kept = [sample for sample in before if sample.label == "coffee" and sample.split == "train"]
    for sample in before:
        if sample.label == "coffee" and sample.split != "train":
            (data / sample.path).unlink()
    done = call_edgeclf("train", data, "--run", tmp_path / "run", "--from", frozen_run, "--epochs", 1, "--json")
    assert done.code == 0, done.err
    after = {sample.path: sample.split for sample in load_run(tmp_path / "run").split}
    moved = [sample.path for sample in kept if after[sample.path] == "val"]
    assert moved
    assert {after[sample.path] for sample in kept} == {"train", "val"}
    # The others stay where they were.
    assert all(
        after[sample.path] == sample.split for sample in before if sample.path in after and sample.label != "coffee"
    )
    text = f"of {frozen_run}, all that there are of 'coffee': the validation figures are too good"
    assert any(
        note.startswith(f"{len(moved)} validation image") and note.endswith(text) for note in done.json()["notes"]
    )
    assert text in done.err


def test_an_interpolation_is_recorded_and_kept_by_what_goes_on_from_the_run(call_edgeclf, photographs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ("--epochs", 1, "--json")
    done = call_edgeclf("train", photographs, "--run", first, *SEED_CNN, "--interpolation", "bicubic", *arguments)
    assert done.code == 0, done.err
    run = load_run(first)
    assert run.spec.preprocess.interpolation == "bicubic"
    # What an export calibrates and is verified on: the run's test images, in this interpolation.
    path, images = photographs / next(item.path for item in run.split if item.split == "test"), run.load_images()
    resized = preprocess_bgr(load_image(path), run.spec.preprocess)
    by_area = preprocess_bgr(load_image(path), replace(run.spec.preprocess, interpolation="area-down-linear-up"))
    kept = images.test.images_rgb[: len(images.test)]
    assert (kept == resized).all(axis=(1, 2, 3)).any()
    assert not (kept == by_area).all(axis=(1, 2, 3)).any()
    done = call_edgeclf("train", photographs, "--run", second, "--from", first, *arguments)
    assert done.code == 0, done.err
    assert load_run(second).spec.preprocess == run.spec.preprocess


def test_options_that_a_run_decides_are_refused(call_edgeclf, trained_run, photographs, tmp_path):
    for arguments, words in (
        (("--image-size", "96"), "--image-size does not go with --from: got 96, expected 89"),
        (("--arch", "resnet8"), "--arch does not go with --from"),
        (("--weights", "none"), "--weights does not go with --from"),
        (("--interpolation", "bicubic"), "--interpolation does not go with --from: got bicubic, expected area"),
    ):
        done = call_edgeclf("train", photographs, "--run", tmp_path / "r", "--from", trained_run.folder, *arguments)
        assert done.code == 2
        assert words in " ".join(done.err.split())
    done = call_edgeclf("train", photographs, "--run", tmp_path / "r", "--from", tmp_path / "nowhere")
    assert done.code == 3
    assert "is not a run folder" in done.err
    folder = trained_run.folder
    done = call_edgeclf("train", photographs, "--run", folder, "--from", folder, "--overwrite")
    assert done.code == 2
    assert "expected two folders" in done.err


def test_the_rejection_threshold_is_in_the_model_and_says_unknown(call_edgeclf, frozen_run, photographs, tmp_path):
    spec = load_run(frozen_run).spec
    metrics = json.loads((frozen_run / "metrics.json").read_text())["calibration"]
    assert spec.rejection_threshold == metrics["rejection_threshold"] > 1 / 3
    assert spec.temperature == metrics["temperature"]
    assert metrics["rejected"]["val"] <= 0.2
    model = tmp_path / "model.onnx"
    assert call_edgeclf("export", frozen_run, "--out", model).code == 0
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), np.full((90, 90, 3), 127, np.uint8))
    known = next((photographs / "coffee").iterdir())
    done = call_edgeclf("infer", model, grey, known, "--format", "jsonl")
    records = {record["source"].rsplit("/", 1)[1]: record for record in map(json.loads, done.out.splitlines())}
    for record in records.values():
        assert (record["label"] == "unknown") == (record["confidence"] < spec.rejection_threshold)
    assert records[known.name]["label"] == "coffee"


def test_the_temperature_is_inside_model_and_file(call_edgeclf, frozen_run, photographs, tmp_path):
    model = tmp_path / "model.onnx"
    assert call_edgeclf("export", frozen_run, "--out", model, "--json").code == 0
    keras_report = call_edgeclf("evaluate", frozen_run, photographs, "--json").json()
    onnx_report = call_edgeclf("evaluate", model, photographs, "--json").json()
    assert onnx_report["expected_calibration_error"] == pytest.approx(
        keras_report["expected_calibration_error"], abs=1e-4
    )
    layer = load_run(frozen_run).load_model().get_layer("temperature")
    assert float(layer.scale) == pytest.approx(1 / load_run(frozen_run).spec.temperature)


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balance_changes_training_and_is_recorded(call_edgeclf, photographs, tmp_path, balance):
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    for path in sorted((data / "coffee").iterdir())[4:]:
        path.unlink()
    plain = call_edgeclf("train", data, "--run", tmp_path / "plain", *FROZEN, "--json").json()
    done = call_edgeclf(
        "train", data, "--run", tmp_path / "run", *FROZEN, "--balance", balance, "--monitor", "val_macro_f1", "--json"
    )
    assert done.code == 0, done.err
    assert done.json()["history"][0] != plain["history"][0]
    assert done.json()["training"]["balance"] == balance
    figures = [row["val_macro_f1"] for row in done.json()["history"]]
    assert done.json()["training"]["best_epoch"] == int(np.argmax(figures)) + 1
    assert [entry["label"] for entry in done.json()["test"]["per_class"]] == list(CLASSES)


def test_augmentation_is_shown(call_edgeclf, photographs, tmp_path):
    picture = tmp_path / "augmentation.png"
    done = call_edgeclf("train", photographs, *SEED_CNN, "--augment", "strong", "--show-augmentation", picture)
    assert (done.code, done.out) == (0, ""), done.err
    assert min(cv2.imread(str(picture)).shape[:2]) > 300
    done = call_edgeclf("train", photographs, "--show-augmentation", picture)
    assert done.code == 2
    assert "nothing is augmented" in done.err
    done = call_edgeclf("train", photographs, *SEED_CNN, "--show-augmentation", tmp_path / "grid.txt")
    assert done.code == 2
    assert "ends in .png" in done.err


def test_the_learning_rate_is_swept(call_edgeclf, photographs, tmp_path):
    picture = tmp_path / "sweep.png"
    done = call_edgeclf("train", photographs, *FROZEN, "--find-lr", picture, "--json")
    assert done.code == 0, done.err
    assert 1e-5 < done.json()["sweep"]["suggestion"] < 1
    assert min(cv2.imread(str(picture)).shape[:2]) > 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--augment", "light"), "nothing to augment"),
        (("--mixup", "0.2"), "nothing to augment"),
        (("--fine-tune-epochs", "3"), "--fine-tune-epochs without --fine-tune"),
        (("--arch", "seed-cnn", "--fine-tune"), "nothing to fine-tune"),
        (("--arch", "seed-cnn", "--weights", "imagenet"), "seed-cnn has no pretrained weights"),
        (("--arch", "seed-cnn", "--progressive"), "--progressive does not go with seed-cnn"),
        (("--progressive",), "--progressive does not go with efficientnet-lite0"),
        (("--arch", "small-cnn", "--dropout-scale", "0.5"), "--dropout-scale does not go with small-cnn"),
        (("--arch", "small-cnn", "--batch-norm"), "--batch-norm does not go with small-cnn"),
        (("--batch-norm",), "--batch-norm does not go with efficientnet-lite0"),
        (("--arch", "seed-cnn", "--dropout-scale", "1.5"), "bad dropout scale: got 1.5, expected 0 to 1"),
        (("--false-rejection-rate", "1"), "bad false-rejection rate"),
        (("--warmup-epochs", "1"), "a warm-up without a schedule"),
        (("--monitor", "loss"), "unknown monitor"),
        (("--balance", "both"), "unknown balance"),
        (("--augment", "heavy"), "unknown augmentation"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(call_edgeclf, photographs, tmp_path, arguments, words):
    done = call_edgeclf("train", photographs, "--run", tmp_path / "run", *arguments)
    assert (done.code, done.out) == (2, ""), done.err
    assert words in " ".join(done.err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "rates", "batch_norm"),
    [((), {0.0}, True), (("--dropout-scale", "0.5", "--no-batch-norm"), {0.1, 0.25}, False)],
)
def test_a_run_keeps_the_dropout_it_was_trained_with_and_no_batch_norm(
    call_edgeclf, photographs, tmp_path, options, rates, batch_norm
):
    import keras

    run = tmp_path / "run"
    done = call_edgeclf("train", photographs, "--run", run, *SEED_CNN, "--epochs", "1", *options, "--json")
    assert done.code == 0, done.err
    assert done.json()["training"]["batch_norm"] is batch_norm
    saved = keras.saving.load_model(run / "model.keras")
    assert {float(layer.rate) for layer in saved.layers if isinstance(layer, keras.layers.Dropout)} == rates
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in saved.layers)
    # The figures of the fit, where batch normalisation was there, are those of what is saved.
    assert done.json()["history"][0]["val_accuracy"] == done.json()["validation"]["accuracy"]


def test_tensorboard_that_is_not_there_is_said(call_edgeclf, photographs, tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        done = call_edgeclf("train", photographs, "--run", tmp_path / "run", *SEED_CNN, "--tensorboard")
        assert done.code == 5
        assert "TensorBoard is not installed" in done.err
        assert list(tmp_path.iterdir()) == []
    else:
        done = call_edgeclf(
            "train", photographs, "--run", tmp_path / "run", *SEED_CNN, "--epochs", "1", "--tensorboard"
        )
        assert done.code == 0, done.err
        assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_images_of_an_earlier_training_in_the_test_part_are_pointed_out(call_edgeclf, frozen_run, tmp_path):
    data = tmp_path / "data"
    write_photographs(data / "train", seed=5, per_class=6)
    write_photographs(data / "test", seed=0)  # the images of the earlier run
    done = call_edgeclf("train", data, "--run", tmp_path / "run", "--from", frozen_run, "--epochs", 1)
    assert done.code == 0, done.err
    assert "51 test images were training or validation images of" in done.err
