"""The gate: what is written matches the trained network, and what does not match is not written."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgeclf.export.graph.convert as convert_module
from edgeclf.export import (
    ExportImages,
    ExportOptions,
    LabelledImages,
    ParityGateError,
    ParityLimits,
    TrainedClassifier,
    export_classifier,
)
from edgeclf.runtime import Classifier
from edgeclf.runtime.errors import InputError, ModelFileError, OutputError, UsageError
from edgeclf.runtime.spec import ModelSpec, Preprocess

from .conftest import LABELS, SIZE_HW, build_network

pytestmark = pytest.mark.slow

SPEC = ModelSpec(labels=LABELS, preprocess=Preprocess(SIZE_HW), architecture="tiny", package_versions={"keras": "3"})


LIMITS = ParityLimits(0.95, max_accuracy_drop=0.05)


# An error that rounding to 8 bits cannot reach, and neither can its steps towards float.
NOTHING_PASSES = ParityLimits(min_agreement=0.0, max_error=1e-9)


def export(trained, out, precision="fp32", *, limits=LIMITS, test_indices=None, **more):
    indices = trained.held_out_indices
    images = ExportImages(
        validation=LabelledImages(trained.held_out_rgb[::2], indices[::2]),
        test=LabelledImages(trained.held_out_rgb[1::2], indices[1::2] if test_indices is None else test_indices),
        training_rgb=trained.train_rgb,
    )
    options = ExportOptions(precision, limits=limits, calibration_images=72, **more)
    return export_classifier(TrainedClassifier(trained.model, SPEC), images, out, options)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_written_file_is_verified_described_and_decides_like_keras(trained, tmp_path, precision):
    out = tmp_path / "new" / "model.onnx"
    report = export(trained, out, precision)
    assert report.written
    assert [c.name for c in report.candidates] == ["fp32", "int8"][: 1 + (precision == "int8")]
    assert all(c.latency is not None and not c.failures for c in report.candidates)
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(onnx.load(out), full_check=True)

    classifier = Classifier(out)
    spec = classifier.spec
    assert (spec.precision, spec.labels, spec.architecture) == (precision, LABELS, "tiny")
    assert (spec.quantization is None) == (precision == "fp32")
    assert [part["part"] for part in spec.parity["parts"]] == ["validation", "test"]
    assert spec.parity["parts"][0]["agreement"] == report.candidates[-1].parity[0].agreement
    assert spec.latency["cpu"]["isa_flags"] == spec.parity["cpu"]["isa_flags"]
    assert {"keras", "onnxruntime", "tf2onnx"} <= set(spec.package_versions)
    json.loads(spec.to_json())

    wanted = trained.model.predict_on_batch(trained.held_out_rgb)
    got = classifier.session.run(trained.held_out_rgb)
    agreement = (wanted.argmax(1) == got.argmax(1)).mean()
    if precision == "fp32":
        assert np.abs(wanted - got).max() <= 1e-4
        assert agreement == 1.0
    else:
        assert agreement >= 0.95
        for batch in (1, 3, 8):
            rows = [classifier.session.run(trained.held_out_rgb[i : i + batch]) for i in range(0, 24, batch)]
            np.testing.assert_allclose(np.concatenate(rows), got[:24], atol=1e-6)


def test_the_size_reported_is_that_of_a_file_without_the_scales_of_its_training(trained, tmp_path):
    weights = {"conv": {"scales": [0.1] * 5000, "norm": None}}
    spec = SPEC.with_changes(training={"epochs": 3, "ranges_8bit": {}, "weights_8bit": weights})
    images = ExportImages(LabelledImages(trained.held_out_rgb[::2], trained.held_out_indices[::2]))
    out = tmp_path / "model.onnx"
    report = export_classifier(TrainedClassifier(trained.model, spec), images, out)
    assert Classifier(out).spec.training == {"epochs": 3, "ranges_8bit": {}}
    # The figures are added at the end.
    assert 0 < out.stat().st_size - report.candidates[0].file_bytes < 5000


def swap_channels(model):
    """BGR for RGB: the first convolution's input channels reversed."""
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    (weights,) = [t for t in model.graph.initializer if t.name == first.input[1]]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[:, ::-1].copy(), weights.name))


def scale_twice(model):
    """The pixels divided by 255 once more than the network was trained with."""
    cast = next(n for n in model.graph.node if n.op_type == "Cast")
    position = [n.name for n in model.graph.node].index(cast.name) + 1
    for node in model.graph.node:
        node.input[:] = ["again" if name == cast.output[0] else name for name in node.input]
    model.graph.node.insert(position, helper.make_node("Div", [cast.output[0], "n255"], ["again"], "divide_again"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "n255"))


def drop_layer(model):
    """The residual addition replaced by one of its two inputs."""
    constants = {t.name for t in model.graph.initializer}
    add = next(n for n in model.graph.node if n.op_type == "Add" and not constants & set(n.input))
    replacement = helper.make_node("Identity", [add.input[1]], list(add.output), "dropped")
    add.CopyFrom(replacement)


def poison(model):
    """One weight that is not a number."""
    last = next(n for n in model.graph.node if n.op_type in {"MatMul", "Gemm"})
    (weights,) = [t for t in model.graph.initializer if t.name == last.input[1]]
    values = numpy_helper.to_array(weights).copy()
    values[0, 0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))


@pytest.mark.parametrize("fault", [swap_channels, scale_twice, drop_layer, poison])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_fault_of_the_conversion_is_caught_and_nothing_is_written(trained, tmp_path, monkeypatch, fault, precision):
    convert = convert_module.onnx_from_keras

    def faulty(model):
        converted = convert(model)
        fault(converted)
        return converted

    monkeypatch.setattr(convert_module, "onnx_from_keras", faulty)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the model of yesterday")
    with pytest.raises(ParityGateError, match="does not match the Keras model") as caught:
        export(trained, out, precision)
    assert caught.value.exit_code == 4
    assert not caught.value.report.written
    assert caught.value.report.candidates[0].failures
    assert out.read_bytes() == b"the model of yesterday"
    assert list(tmp_path.iterdir()) == [out]


def test_an_int8_model_below_the_limits_is_refused_and_fp32_recommended(trained, tmp_path):
    # An error that rounding to 8 bits cannot reach.
    with pytest.raises(ParityGateError) as caught:
        export(trained, tmp_path / "m.onnx", "int8", limits=ParityLimits(min_agreement=0.0, max_error=1e-5))
    assert "largest probability error" in str(caught.value)
    assert caught.value.report.recommendation.precision == "fp32"
    assert not list(tmp_path.iterdir())


def test_where_nothing_passes_the_best_row_the_headline_and_the_error_are_of_one_recipe(trained, tmp_path):
    with pytest.raises(ParityGateError) as caught:
        export(trained, tmp_path / "m.onnx", "int8", limits=NOTHING_PASSES)
    report, said = caught.value.report, str(caught.value)
    best, headline = report.recipes[0], report.candidates[-1]
    assert best.parity[0] == headline.parity[0]
    assert best.verdict == headline.verdict
    assert (best.portable, best.portable_reason) == (headline.portable, headline.portable_reason)
    assert all(phrase in said for phrase in best.failures)
    assert len(report.recipes) > 3
    # Fixed point stays portable, float does not, and says why.
    by_name = {item.name: item for item in report.recipes}
    portable = {name: item.portable for name, item in by_name.items()}
    assert all(is_portable == ("in float" not in name) for name, is_portable in portable.items())
    assert set(portable.values()) == {True, False}
    assert all((item.portable_reason == "") == item.portable for item in report.recipes)
    assert all(item.latency is not None for item in report.candidates)
    assert "--or-fp32" in said
    assert f"--min-agreement {report.closest.parity[0].agreement:g}"[:20] in said
    assert report.written_precision is None


def test_or_fp32_writes_the_float_file_and_its_spec_says_what_failed(trained, tmp_path):
    out = tmp_path / "m.onnx"
    report = export(trained, out, "int8", limits=NOTHING_PASSES, or_fp32=True, effort="quick")
    assert (report.written, report.precision, report.written_precision) == (True, "int8", "fp32")
    spec = Classifier(out).spec
    assert (spec.precision, spec.quantization) == ("fp32", None)
    assert spec.parity["refused"] == {"precision": "int8", "failures": list(report.candidates[-1].failures)}
    assert spec.parity["refused"]["failures"]
    assert spec.parity["parts"][0]["agreement"] == 1.0
    # Where int8 passes, nothing changes.
    kept = export(trained, out, "int8", or_fp32=True, effort="quick")
    assert (kept.written_precision, Classifier(out).spec.precision) == ("int8", "int8")
    assert "refused" not in Classifier(out).spec.parity
    assert Classifier(out).spec.quantization["portable"] is True


def test_an_entrance_in_8_bits_leaves_only_portable_recipes(trained, tmp_path):
    with pytest.raises(ParityGateError) as caught:
        export(trained, tmp_path / "m.onnx", "int8", limits=NOTHING_PASSES, float_prefix=False, effort="quick")
    recipes = caught.value.report.recipes
    assert len(recipes) > 2
    assert all(item.portable for item in recipes)


def test_targets_behind_the_first_are_tried_last(trained, tmp_path):
    with pytest.raises(ParityGateError) as caught:
        export(
            trained,
            tmp_path / "m.onnx",
            "int8",
            limits=NOTHING_PASSES,
            float_prefix=False,
            effort="quick",
            target="any, arm64",
        )
    (for_arm,) = [item for item in caught.value.report.recipes if item.name.endswith("for arm64")]
    assert (for_arm.portable, for_arm.portable_reason) == (False, "made for arm64 alone")
    with pytest.raises(UsageError, match="no target"):
        ExportOptions("int8", target=" , ")


def test_test_images_report_but_do_not_decide_about_int8(trained, tmp_path):
    # Wrong labels on the test images make their accuracy drop meaningless, and must not matter.
    shifted = (trained.model.predict_on_batch(trained.held_out_rgb[1::2]).argmax(1) + 1) % 3
    report = export(trained, tmp_path / "m.onnx", "int8", test_indices=shifted)
    assert report.written
    assert report.candidates[-1].parity[1].reference_accuracy == 0.0


def test_bad_requests_are_refused_before_any_work(trained, tmp_path):
    with pytest.raises(UsageError, match="fp32, int8, fp16"):
        export(trained, tmp_path / "m.onnx", "int4")
    with pytest.raises(UsageError, match="quick or normal or max"):
        ExportOptions(effort="huge")
    with pytest.raises(UsageError, match="unknown target 'mips'"):
        ExportOptions(target="mips")
    nothing = LabelledImages(trained.held_out_rgb[:0], trained.held_out_indices[:0])
    with pytest.raises(InputError, match="no validation images"):
        export_classifier(TrainedClassifier(trained.model, SPEC), ExportImages(nothing), tmp_path / "m.onnx")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match="existing folder"):
        export(trained, folder)


def test_a_network_must_keep_the_accuracy_of_the_one_whose_place_it_takes(trained, tmp_path):
    images = ExportImages(
        LabelledImages(trained.held_out_rgb, trained.held_out_indices), training_rgb=trained.train_rgb
    )
    options = ExportOptions(
        "int8",
        effort="quick",
        limits=ParityLimits(0.0),
        replaced_limits=ParityLimits(0.0, max_accuracy_drop=0.05),
    )
    before, untrained = TrainedClassifier(trained.model, SPEC), TrainedClassifier(build_network(seed=5), SPEC)
    # Faithful to itself, and yet no replacement.
    with pytest.raises(ParityGateError, match="against the network before it was trained for 8 bits: acc") as caught:
        export_classifier(untrained, images, tmp_path / "m.onnx", options, replaces=before)
    fp32, int8 = caught.value.report.candidates
    assert (fp32.replaced, fp32.failures) == ((), ())
    assert int8.replaced[0].accuracy_drop > 0.05
    assert not list(tmp_path.iterdir())
    report = export_classifier(before, images, tmp_path / "m.onnx", options, replaces=before)
    assert report.candidates[-1].replaced == report.candidates[-1].parity
    assert len(Classifier(tmp_path / "m.onnx").spec.parity["replaced"]["parts"]) == 1
    other = TrainedClassifier(trained.model, SPEC.with_changes(labels=LABELS[::-1]))
    with pytest.raises(ModelFileError, match="different classifiers"):
        export_classifier(before, images, tmp_path / "m.onnx", options, replaces=other)


def test_int8_without_training_images_is_refused(trained, tmp_path):
    images = ExportImages(LabelledImages(trained.held_out_rgb, trained.held_out_indices))
    with pytest.raises(InputError, match="no calibration images"):
        export_classifier(TrainedClassifier(trained.model, SPEC), images, tmp_path / "m.onnx", ExportOptions("int8"))
    assert not list(tmp_path.iterdir())
