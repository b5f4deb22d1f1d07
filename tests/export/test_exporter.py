"""The gate: what is written matches the trained network, and what does not match is not written."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgeclf.export.exporter as exporter_module
from edgeclf.export.exporter import ParityGateError, export_classifier
from edgeclf.export.verify.gate import HeldOutImages
from edgeclf.export.verify.parity import ParityLimits, int8_limits
from edgeclf.runtime import Classifier
from edgeclf.runtime.errors import InputError, OutputError, UsageError
from edgeclf.runtime.spec import ModelSpec, Preprocess

from .conftest import LABELS, SIZE_HW

SPEC = ModelSpec(labels=LABELS, preprocess=Preprocess(SIZE_HW), architecture="tiny", package_versions={"keras": "3"})


def export(trained, out, precision="fp32", **changes):
    parts = [
        HeldOutImages("validation", trained.held_out_rgb[::2], trained.held_out_indices[::2], decides=True),
        HeldOutImages("test", trained.held_out_rgb[1::2], trained.held_out_indices[1::2], decides=False),
    ]
    arguments = {
        "precision": precision,
        "held_out": parts,
        "calibration_rgb": trained.train_rgb[::4],
        "int8_limits": int8_limits(min_agreement=0.95, max_accuracy_drop=0.05),
        **changes,
    }
    return export_classifier(trained.model, SPEC, out, **arguments)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_written_file_is_verified_described_and_decides_like_keras(trained, tmp_path, precision):
    out = tmp_path / "new" / "model.onnx"
    report = export(trained, out, precision)
    assert report.written
    assert [c.precision for c in report.candidates] == ["fp32", "int8"][: 1 + (precision == "int8")]
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
    convert = exporter_module.onnx_from_keras

    def faulty(model):
        converted = convert(model)
        fault(converted)
        return converted

    monkeypatch.setattr(exporter_module, "onnx_from_keras", faulty)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the model of yesterday")
    with pytest.raises(ParityGateError, match="does not match the trained one") as caught:
        export(trained, out, precision)
    assert caught.value.exit_code == 4
    assert not caught.value.report.written
    assert caught.value.report.candidates[0].failures
    assert out.read_bytes() == b"the model of yesterday"
    assert list(tmp_path.iterdir()) == [out]


def test_an_int8_model_below_the_limits_is_refused_and_fp32_recommended(trained, tmp_path):
    # An error that rounding to 8 bits cannot reach.
    with pytest.raises(ParityGateError) as caught:
        export(
            trained,
            tmp_path / "m.onnx",
            "int8",
            int8_limits=ParityLimits(min_agreement=0.0, max_error=1e-5),
        )
    assert "largest probability error" in str(caught.value)
    assert caught.value.report.recommendation.precision == "fp32"
    assert not list(tmp_path.iterdir())


def test_test_images_report_but_do_not_decide_about_int8(trained, tmp_path):
    # Wrong labels on the test part make its accuracy drop meaningless, and must not matter.
    shifted = (trained.model.predict_on_batch(trained.held_out_rgb).argmax(1) + 1) % 3
    parts = [
        HeldOutImages("validation", trained.held_out_rgb, trained.held_out_indices, decides=True),
        HeldOutImages("test", trained.held_out_rgb, shifted, decides=False),
    ]
    report = export(trained, tmp_path / "m.onnx", "int8", held_out=parts)
    assert report.written
    assert report.candidates[-1].parity[1].reference_accuracy == 0.0


def test_bad_requests_are_refused_before_any_work(trained, tmp_path):
    with pytest.raises(UsageError, match="fp32, int8, fp16"):
        export(trained, tmp_path / "m.onnx", "int4")
    with pytest.raises(InputError, match="no validation images"):
        export(trained, tmp_path / "m.onnx", held_out=[])
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match="existing folder"):
        export(trained, folder)
