"""The library as an application uses it: export a trained network, and verify the file on images, by public names alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeclf.export
from edgeclf.export import (
    FP32_LIMITS,
    ExportImages,
    ExportOptions,
    LabelledImages,
    ParityLimits,
    TrainedClassifier,
    export_classifier,
    verify_classifier,
)
from edgeclf.runtime import ModelSession, ModelSpec, Preprocess
from edgeclf.runtime.errors import InputError, ModelFileError

from .conftest import LABELS, SIZE_HW


@pytest.fixture(scope="module")
def classifier(trained):
    return TrainedClassifier(trained.model, ModelSpec(LABELS, Preprocess(SIZE_HW), architecture="tiny"))


@pytest.fixture(scope="module")
def image_paths(trained, tmp_path_factory):
    """The held-out images as files, which have the same pixels when they are read."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number:03d}.png" for number in range(len(trained.held_out_rgb))]
    for path, image_rgb in zip(paths, trained.held_out_rgb, strict=True):
        cv2.imwrite(str(path), image_rgb[:, :, ::-1])
    return paths


@pytest.fixture(scope="module")
def files(classifier, trained, tmp_path_factory):
    """An fp32 and an int8 file of the classifier, with their reports."""
    images = ExportImages(
        LabelledImages(trained.held_out_rgb, trained.held_out_indices), training_rgb=trained.train_rgb
    )
    folder = tmp_path_factory.mktemp("files")
    written = {}
    for precision in ("fp32", "int8"):
        options = ExportOptions(precision, effort="quick", limits=ParityLimits(0.9, max_accuracy_drop=0.1))
        written[precision] = export_classifier(classifier, images, folder / f"{precision}.onnx", options)
    return written


def test_every_public_name_is_there_and_in_the_readme_and_no_other():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name in edgeclf.export.__all__:
        assert getattr(edgeclf.export, name).__doc__ or name.isupper()
        assert name in dir(edgeclf.export)
        assert f"`{name}`" in readme or f"{name}(" in readme, name
    with pytest.raises(AttributeError, match="has no attribute 'verify_everything'"):
        _ = edgeclf.export.verify_everything


def test_an_exported_file_is_verified_with_the_figures_of_its_export(files, classifier, image_paths, trained):
    for report in files.values():
        assert report.written
        model = ModelSession(report.out)
        verified = verify_classifier(model, classifier, image_paths, trained.held_out_indices.tolist())
        exported = report.candidates[-1].parity[0]
        assert verified.parity.images == len(image_paths)
        assert verified.parity.agreement == pytest.approx(exported.agreement)
        assert verified.parity.reference_accuracy == pytest.approx(exported.reference_accuracy)
        assert verified.unreadable == ()
        assert len(verified.differing) == round((1 - verified.parity.agreement) * len(image_paths))
        assert set(verified.differing) <= set(image_paths)


def test_the_quick_effort_compares_on_a_sample(files, trained):
    # 120 images are fewer than the sample.
    assert files["int8"].candidates[0].parity[0].images == len(trained.held_out_rgb)
    images = LabelledImages(trained.held_out_rgb, trained.held_out_indices)
    few = images.sample(9)
    assert len(few) == 9
    positions = [np.flatnonzero((trained.held_out_rgb == image).all(axis=(1, 2, 3)))[0] for image in few.images_rgb[:]]
    assert positions == sorted(set(positions))
    np.testing.assert_array_equal(few.true_indices, trained.held_out_indices[positions])
    np.testing.assert_array_equal(few.sample(9).images_rgb[2:4], few.images_rgb[2:4])
    assert len(images.sample(10_000)) == len(images)


def test_a_file_of_another_network_fails_and_says_on_which_images(files, classifier, image_paths):
    from .conftest import build_network

    other = TrainedClassifier(build_network(seed=1), classifier.spec)
    report = verify_classifier(ModelSession(files["fp32"].out), other, image_paths)
    assert not report.passed
    assert report.parity.agreement < FP32_LIMITS.min_agreement
    assert report.differing[0] in image_paths
    assert report.parity.reference_accuracy is None


def test_limits_are_those_of_the_less_exact_side(files, image_paths):
    fp32, int8 = (ModelSession(files[precision].out) for precision in ("fp32", "int8"))
    loose, strict = ParityLimits(0.0), ParityLimits(0.0, max_error=0.0)
    assert verify_classifier(int8, fp32, image_paths, limits=loose).passed
    assert not verify_classifier(int8, fp32, image_paths, limits=strict).passed
    # Between float files those limits do not count.
    assert verify_classifier(fp32, fp32, image_paths, limits=strict).passed


def test_layers_are_compared_with_the_network_or_with_its_float_file(files, classifier, image_paths):
    model = ModelSession(files["int8"].out)
    limits = ParityLimits(0.0)
    ours = verify_classifier(model, classifier, image_paths, limits=limits, with_layers=True).layers
    against_file = ModelSession(files["fp32"].out)
    theirs = verify_classifier(model, against_file, image_paths, limits=limits, with_layers=True).layers
    assert [layer.name for layer in ours] == [layer.name for layer in theirs]
    assert len(ours) == 8
    assert verify_classifier(model, classifier, image_paths, limits=limits).layers == ()


def test_unreadable_images_are_left_out_and_listed(files, classifier, image_paths, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [tmp_path / "broken.jpg", *image_paths[:3]]
    report = verify_classifier(ModelSession(files["fp32"].out), classifier, paths, [0, 0, 0, 0])
    assert report.parity.images == 3
    assert [path for path, _ in report.unreadable] == [tmp_path / "broken.jpg"]
    with pytest.raises(InputError, match="none of the images can be read"):
        verify_classifier(ModelSession(files["fp32"].out), classifier, paths[:1])


def test_classifiers_of_other_labels_are_not_compared(files, classifier, image_paths, colour_model):
    with pytest.raises(ModelFileError, match="are different classifiers"):
        verify_classifier(ModelSession(colour_model), classifier, image_paths)
