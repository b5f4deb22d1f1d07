"""Files of the kinds that common tools export: what has to be said of each, as docs/foreign.md has it, and nothing more."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession

from .tiny import SIZE_HW, Tiny

ULTRALYTICS = {
    "task": "classify",
    "names": "{0: 'ant', 1: 'bee', 2: 'fly'}",
    "imgsz": "[12, 16]",
    "stride": "1",
    "batch": "1",
}
TIMM = {
    "architecture": "resnet18",
    "num_classes": 3,
    "label_names": ["ant", "bee", "fly"],
    "pretrained_cfg": {
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_pct": 0.95, "interpolation": "bicubic",
        "input_size": [3, 12, 16], "num_classes": 3, "crop_mode": "center",
    },
}  # fmt: skip
CUSTOM_VISION = {"Image.BitmapPixelFormat": "Bgr8", "Image.ColorSpaceGamma": "SRGB"}


@pytest.mark.parametrize("kind", ["ultralytics", "timm", "teachable-machine", "custom-vision", "custom-vision-unit"])
def test_a_common_export_needs_what_the_document_says(tmp_path, kind):
    given, path = ForeignModel(), tmp_path / "model.onnx"
    if kind == "ultralytics":
        Tiny().write(path, ULTRALYTICS)
        wanted = ("rgb", "crop", (0.0,), (255.0,))
    elif kind == "timm":
        Tiny(activation="logits").write(path)
        (tmp_path / "config.json").write_text(json.dumps(TIMM))
        wanted = ("rgb", "crop", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    elif kind == "teachable-machine":
        # tf2onnx keeps the channels last.
        Tiny(layout="NHWC").write(path)
        (tmp_path / "labels.txt").write_text("0 ant\n1 bee\n2 fly\n")
        given = ForeignModel(preset="teachable-machine")
        wanted = ("rgb", "crop", (127.5,), (127.5,))
    elif kind == "custom-vision":
        Tiny().write(path, {**CUSTOM_VISION, "Image.NominalPixelRange": "NominalRange_0_255"})
        (tmp_path / "labels.txt").write_text("ant\nbee\nfly\n")
        wanted = ("bgr", "stretch", (0.0,), (1.0,))
    else:
        Tiny().write(path, CUSTOM_VISION)
        (tmp_path / "labels.txt").write_text("ant\nbee\nfly\n")
        given = ForeignModel(scaling=PixelScaling((0.0,), (255.0,)))
        wanted = ("bgr", "stretch", (0.0,), (255.0,))
    use = ModelSession(path, foreign=given).use
    assert use.labels == ("ant", "bee", "fly")
    assert (use.channels, use.fit) == wanted[:2]
    assert use.scaling.mean == pytest.approx(wanted[2])
    assert use.scaling.std == pytest.approx(wanted[3])
    assert use.missing == ()


def test_without_what_the_document_says_the_option_is_named(tmp_path):
    # A timm export alone, Teachable Machine's and Custom Vision's without a range: nothing says the scaling.
    for number, metadata in enumerate(({}, CUSTOM_VISION)):
        path = Tiny().write(tmp_path / f"{number}.onnx", metadata)
        with pytest.raises(ModelFileError, match="--mean and --std"):
            ModelSession(path, foreign=ForeignModel())


def scikit_learn(path, outputs, names=("ant", "bee", "fly"), bias=0.5):
    """A linear classifier of mean colours as skl2onnx writes it, of uint8 images, with the named ones of its three outputs."""
    kind = TensorProto.STRING if isinstance(names[0], str) else TensorProto.INT64
    rng = np.random.default_rng(len(names))
    weights, biases = 0.03 * rng.normal(size=(len(names), 3)), bias * rng.normal(size=len(names))
    means = [
        helper.make_node("Cast", ["x"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
    ]
    key = "classlabels_strings" if kind == TensorProto.STRING else "classlabels_ints"
    linear = helper.make_node(
        "LinearClassifier", ["means"], ["label", "probabilities"], domain="ai.onnx.ml", post_transform="SOFTMAX",
        coefficients=weights.ravel().tolist(), intercepts=biases.tolist(), multi_class=0, **{key: list(names)},
    )  # fmt: skip
    keys = {key.replace("_ints", "_int64s"): list(names)}
    maps = helper.make_node("ZipMap", ["probabilities"], ["output_probability"], domain="ai.onnx.ml", **keys)
    scores = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    values = {
        "label": helper.make_tensor_value_info("label", kind, ["N"]),
        "probabilities": helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(names)]),
        "output_probability": helper.make_value_info(
            "output_probability", helper.make_sequence_type_proto(helper.make_map_type_proto(kind, scores))
        ),
    }
    nodes = [*means, linear, *([maps] if "output_probability" in outputs else [])]
    images = helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 3, *SIZE_HW])
    graph = helper.make_graph(nodes, "scikit-learn", [images], [values[name] for name in outputs])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("names", [("ant", "bee", "fly"), (3, 5, 8), (0, 1, 2), ("no", "yes")])
@pytest.mark.parametrize(
    "outputs",
    [("label", "probabilities"), ("probabilities", "label"), ("label", "output_probability", "probabilities")],
)
def test_of_scikit_learns_outputs_the_probabilities_are_taken_and_told(rng, tmp_path, outputs, names):
    path = scikit_learn(tmp_path / "m.onnx", outputs, names)
    session = ModelSession(path, foreign=ForeignModel())
    images = rng.integers(0, 256, (4, *SIZE_HW, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (3, 1, 1, 3), dtype=np.uint8)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    label, wanted = plain.run(["label", "probabilities"], {"x": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    np.testing.assert_allclose(session.run(images), wanted, atol=1e-6)
    # The names are in the order of the probabilities.
    assert session.spec.labels == tuple(map(str, names))
    found = [session.spec.labels[index] for index in session.run(images).argmax(axis=1)]
    assert found == [str(item) for item in label]
    assert session.use.origins["labels"] == ("assumed" if names == (0, 1, 2) else "found in the graph")
    assert any("probabilities is taken for the classes" in text for text in session.use.notes)
    # What the user says wins.
    said = tuple(f"class {name}" for name in names)
    assert ModelSession(path, foreign=ForeignModel(labels=said)).spec.labels == said


@pytest.mark.parametrize("outputs", [("output_probability",), ("label", "output_probability")])
def test_maps_alone_are_refused_with_the_way_to_export_without_them(tmp_path, outputs):
    path = scikit_learn(tmp_path / "m.onnx", outputs)
    with pytest.raises(ModelFileError) as caught:
        ModelSession(path, foreign=ForeignModel())
    text = str(caught.value)
    assert "output_probability sequence of maps from classes to probabilities" in text
    assert '"zipmap": False' in text
    assert "unknown rank" not in text
    assert text.count(". ") == 0


def test_a_sequence_of_tensors_is_not_called_maps(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("SequenceConstruct", ["pixels"], ["list"]),
    ]
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    images = helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 3, *SIZE_HW])
    graph = helper.make_graph(nodes, "list", [images], [helper.make_value_info("list", kind)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="got output list sequence, expected one row"):
        ModelSession(tmp_path / "m.onnx", foreign=ForeignModel())
