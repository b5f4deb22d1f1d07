"""The class that applications embed: one image, many, endless ones, and from several threads."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeclf.runtime import Classifier
from edgeclf.runtime.batch.jobs import Job
from edgeclf.runtime.batch.pipeline import classify_jobs
from edgeclf.runtime.batch.strategies import BATCHES_AHEAD
from edgeclf.runtime.errors import ImageError, UsageError

from ..randomness import fresh_rng

COLOURS_BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def colour_image(label, size_hw=(40, 56)):
    noise = fresh_rng().integers(0, 60, (*size_hw, 3))
    return np.clip(np.array(COLOURS_BGR[label]) * 0.5 + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier(colour_model):
    return Classifier(colour_model)


@pytest.fixture
def files(tmp_path):
    paths = []
    for number in range(23):
        path = tmp_path / f"{number:02d}-{tuple(COLOURS_BGR)[number % 3]}.png"
        cv2.imwrite(str(path), colour_image(path.stem[3:]))
        paths.append(path)
    return paths


@pytest.mark.parametrize("label", COLOURS_BGR)
def test_a_frame_and_its_file_are_the_same(classifier, tmp_path, label):
    frame = colour_image(label)
    prediction = classifier.predict(frame)
    assert prediction.label == label
    assert prediction.labels[prediction.index] == label
    assert prediction.confidence == pytest.approx(prediction.probabilities.max())
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    cv2.imwrite(str(tmp_path / "x.png"), frame)
    for path in (tmp_path / "x.png", str(tmp_path / "x.png")):
        np.testing.assert_array_equal(classifier.predict(path).probabilities, prediction.probabilities)


def test_batches_of_any_size_give_the_same_rows(classifier):
    frames = [fresh_rng().integers(0, 256, (30 + i, 50, 3), dtype=np.uint8) for i in range(24)]
    alone = np.stack([classifier.predict(frame).probabilities for frame in frames])
    for size in (1, 3, 8):
        rows = [p.probabilities for i in range(0, 24, size) for p in classifier.predict_batch(frames[i : i + size])]
        np.testing.assert_allclose(np.stack(rows), alone, atol=1e-6)
    assert classifier.predict_batch([]) == []


def test_a_prediction_stays_what_it_was(classifier):
    predictions = [classifier.predict(colour_image(label)) for label in COLOURS_BGR]
    kept = [prediction.probabilities.copy() for prediction in predictions]
    for label in COLOURS_BGR:
        classifier.predict(colour_image(label))
    assert [prediction.label for prediction in predictions] == list(COLOURS_BGR)
    np.testing.assert_array_equal([prediction.probabilities for prediction in predictions], kept)


def test_top_k_is_sorted_and_complete(classifier):
    top = classifier.predict(colour_image("green")).top_k(10)
    assert top[0].label == "green"
    assert len(top) == 3
    confidences = [entry.confidence for entry in top]
    assert confidences == sorted(confidences, reverse=True)


def test_doubtful_images_are_unknown_where_the_model_has_a_threshold(make_colour_model, tmp_path):
    strict = Classifier(make_colour_model(tmp_path / "m.onnx", spec_changes={"rejection_threshold": 0.9}))
    assert strict.predict(colour_image("red")).label == "red"
    grey = strict.predict(np.full((32, 32, 3), 100, np.uint8))
    assert grey.label == "unknown"
    assert grey.confidence == pytest.approx(1 / 3, abs=1e-3)
    assert grey.rejected


def test_a_class_called_unknown_is_told_apart_from_a_rejection(make_colour_model, tmp_path):
    changes = {"rejection_threshold": 0.9, "labels": ("unknown", "green", "blue")}
    classifier = Classifier(make_colour_model(tmp_path / "m.onnx", spec_changes=changes))
    red, grey = classifier.predict(colour_image("red")), classifier.predict(np.full((32, 32, 3), 100, np.uint8))
    assert (red.label, red.rejected) == ("unknown", False)
    assert (grey.label, grey.rejected) == ("unknown", True)


def test_stream_keeps_order_and_gives_paths_back_as_they_came(classifier, files):
    results = list(classifier.stream(iter(files), batch_size=4))
    assert [path for path, _ in results] == files
    assert all(isinstance(path, Path) for path, _ in results)
    assert [prediction.label for _, prediction in results] == [path.stem[3:] for path in files]


def test_stream_raises_or_yields_errors_as_asked(classifier, files):
    files[5].write_bytes(b"")
    with pytest.raises(ImageError, match="0 bytes"):
        list(classifier.stream(files))
    results = list(classifier.stream(files, on_error="yield"))
    assert [isinstance(result, ImageError) for _, result in results] == [i == 5 for i in range(len(files))]
    with pytest.raises(UsageError, match="on_error"):
        classifier.stream(files, on_error="ignore")
    with pytest.raises(UsageError, match="batch size"):
        classifier.stream(files, batch_size=0)


def test_stream_pulls_no_more_than_it_can_hold(classifier, files):
    pulled = []

    def endless():
        while True:
            pulled.append(files[len(pulled) % len(files)])
            yield pulled[-1]

    stream = classifier.stream(endless(), batch_size=4, workers=2)
    for _ in range(40):
        next(stream)
    # Groups that wait behind a slow one, and what is pulled to share the last jobs evenly.
    assert len(pulled) <= 40 + (BATCHES_AHEAD + 1) * 4 * 2
    stream.close()


def test_a_bug_in_a_loader_is_raised_and_not_made_a_record(classifier):
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(classify_jobs(classifier.session, [Job("x", broken)]))


def test_one_classifier_serves_many_threads(classifier):
    frames = {label: colour_image(label) for label in COLOURS_BGR}
    wrong = []

    def work(label):
        wrong.extend(label for _ in range(50) if classifier.predict(frames[label]).label != label)

    threads = [threading.Thread(target=work, args=(label,)) for label in [*frames] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_arrays_that_are_no_frames_are_refused(classifier, image):
    with pytest.raises(ImageError, match=r"\(H, W, 3\) uint8"):
        classifier.predict(image)
