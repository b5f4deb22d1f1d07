"""What is found in a foreign file and beside it, where it comes from, and what contradicts it."""

import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeclf.runtime.errors import EdgeclfError, ModelFileError, UsageError
from edgeclf.runtime.session.foreign.given import PRESET_NAMES, ForeignModel, PixelScaling
from edgeclf.runtime.session.foreign.presets import PRESETS
from edgeclf.runtime.session.foreign.resolution import resolve_foreign
from edgeclf.runtime.session.graph_outline import read_graph_outline
from edgeclf.runtime.session.session import ModelSession

from .tiny import SIZE_HW, Tiny, write_model

ULTRALYTICS = {"task": "classify", "names": "{0: 'tench', 1: 'hen', 2: 'tench'}", "imgsz": "[12, 16]", "stride": "1"}
TIMM = {
    "architecture": "resnet18",
    "num_classes": 3,
    "pretrained_cfg": {
        "input_size": [3, 12, 16], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    },
}  # fmt: skip
VIT = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 12, "width": 16}, "resample": 2,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def resolve(path, **given):
    return resolve_foreign(path, read_graph_outline(path), ForeignModel(**given))


def close(scaling, mean, std):
    np.testing.assert_allclose(scaling.mean, np.resize(mean, len(scaling.mean)), rtol=1e-4)
    np.testing.assert_allclose(scaling.std, np.resize(std, len(scaling.std)), rtol=1e-4)


@pytest.fixture
def model(tmp_path):
    return Tiny().write(tmp_path / "m.onnx")


def test_what_is_not_known_is_assumed_or_missing_and_said(model):
    use = resolve(model)
    assert (use.fit, use.channels, use.labels, use.activation) == ("stretch", "rgb", ("0", "1", "2"), "softmax")
    assert use.origins == {
        "image size": "found in the graph", "channels": "assumed", "scaling": "", "fit": "assumed",
        "interpolation": "assumed", "output": "found in the graph", "activation": "found in the graph", "labels": "assumed",
    }  # fmt: skip
    (missing,) = use.missing
    assert "--mean" in missing.options
    with pytest.raises(ModelFileError, match="does not say how they are scaled"):
        ModelSession(model, foreign=ForeignModel())
    with pytest.raises(ModelFileError, match="has no edgeclf spec"):
        ModelSession(model)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_says_all_of_its_parts_and_the_user_wins_over_it(model, name):
    use = resolve(model, preset=name)
    said = PRESETS[name].findings
    assert (use.scaling, use.channels, use.fit) == (said.scaling, said.channels, said.fit)
    assert use.origins["scaling"] == use.origins["fit"] == f"preset {name}"
    assert not use.missing
    other = resolve(model, preset=name, scaling=PixelScaling((1, 2, 3), (4, 5, 6)), channels="rgb", fit="letterbox")
    assert (other.scaling, other.channels, other.fit) == (PixelScaling((1, 2, 3), (4, 5, 6)), "rgb", "letterbox")
    assert other.origins["scaling"] == other.origins["fit"] == "given"
    assert set(PRESET_NAMES) == {*PRESETS, "timm"}


def test_presets_have_the_numbers_of_their_trainers(model):
    close(resolve(model, preset="imagenet").scaling, [255 * 0.485, 255 * 0.456, 255 * 0.406], [58.395, 57.12, 57.375])
    assert resolve(model, preset="imagenet").crop_fraction == 224 / 256
    caffe = resolve(model, preset="keras-caffe")
    # The mean is in the order R, G, B whatever the input's.
    assert (caffe.scaling.mean, caffe.channels) == ((123.68, 116.779, 103.939), "bgr")
    close(resolve(model, preset="keras-tf").scaling, [127.5], [127.5])


def test_ultralytics_metadata_say_everything(tmp_path):
    use = resolve(Tiny(size_hw=("h", "w")).write(tmp_path / "m.onnx", ULTRALYTICS))
    assert use.labels == ("tench (0)", "hen", "tench (2)")
    assert (use.size_hw, use.fit, use.crop_fraction, use.interpolation) == ((12, 16), "crop", 1.0, "bilinear")
    close(use.scaling, [0], [255])
    assert {use.origins[part] for part in ("labels", "scaling", "fit", "image size")} == {"found in the metadata"}
    assert not use.missing
    with pytest.raises(ModelFileError, match="for the task 'detect'"):
        resolve(Tiny().write(tmp_path / "d.onnx", {**ULTRALYTICS, "task": "detect"}))


@pytest.mark.parametrize(
    "names", ["[" * 100_000, "{0: 'a', 0: 'b'}", "{'a': [1]}", "__import__('os')", "{0: 'a', 5: 'b'}", ""]
)
def test_names_that_are_no_list_of_names_are_passed_over(tmp_path, names):
    use = resolve(Tiny().write(tmp_path / "m.onnx", {**ULTRALYTICS, "names": names}))
    assert use.labels == ("0", "1", "2")


def test_windows_ml_metadata_say_the_order_and_the_range(tmp_path):
    metadata = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    use = resolve(Tiny().write(tmp_path / "m.onnx", metadata))
    assert (use.channels, use.scaling, use.missing) == ("bgr", PixelScaling((0.0,), (1.0,)), ())
    unit = resolve(Tiny().write(tmp_path / "u.onnx", {"Image.NominalPixelRange": "Normalized_0_1"}))
    close(unit.scaling, [0], [255])


def test_timm_config_says_everything(tmp_path, model):
    with pytest.raises(UsageError, match=r"timm needs the model's config\.json"):
        resolve(model, preset="timm")
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    for given in ({}, {"preset": "timm"}):
        use = resolve(model, **given)
        assert (use.fit, use.crop_fraction, use.interpolation, use.missing) == ("crop", 0.95, "bicubic", ())
        close(use.scaling, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
        assert use.origins["scaling"] == "found in config.json"
    assert resolve(model, fit="stretch").origins["fit"] == "given"


@pytest.mark.parametrize(
    ("changes", "fit", "interpolation", "note"),
    [
        ({"crop_mode": "squash", "crop_pct": 1.0}, "stretch", "bicubic", None),
        ({"crop_mode": "border", "crop_pct": 0.9}, "letterbox", "bicubic", "crop_mode border"),
        ({"interpolation": "lanczos"}, "crop", "bicubic", "lanczos"),
        ({"interpolation": "bilinear"}, "crop", "bilinear", None),
    ],
)
def test_timm_crop_modes_and_filters(tmp_path, model, changes, fit, interpolation, note):
    config = {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], **changes}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    use = resolve(model)
    assert (use.fit, use.interpolation) == (fit, interpolation)
    assert any(note in text for text in use.notes) if note else not use.notes


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        # MobileViT's: pixels of 0..1, nothing subtracted, nothing divided.
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], ([0], [255])),
        ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0], ([127.5], [255])),
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])),
        ([123.675, 116.28, 103.53], [0.229, 0.224, 0.225], None),
        ([0.485, 0.456, 0.406], [58.395, 57.12, 57.375], None),
    ],
)
def test_mean_and_std_of_timm_are_of_pixels_from_0_to_1(tmp_path, model, mean, std, expected):
    config = {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "mean": mean, "std": std}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    use = resolve(model)
    if expected is not None:
        close(use.scaling, *expected)
    else:
        (missing,) = use.missing
        assert re.search(r"mean .* and std .* in config\.json, which contradict each other", missing.got)


def test_the_grey_of_the_padding_is_the_users_else_the_configs(tmp_path, model):
    plain = {"fit": "letterbox", "preset": "ultralytics"}
    assert resolve(model, **plain).spec.preprocess.pad_value == 114
    assert resolve(model, **plain, pad_value=0).spec.preprocess.pad_value == 0
    # Whoever names a padding means a letterbox.
    assert resolve(model, preset="ultralytics", pad_value=9).fit == "letterbox"
    config = {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "crop_mode": "border", "crop_pct": 1.0}}
    config["pretrained_cfg"]["mean"] = [0.8, 0.5, 0.3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    use = resolve(model)
    assert (use.fit, use.spec.preprocess.pad_value) == ("letterbox", round(255 * (0.8 + 0.5 + 0.3) / 3))
    assert any("pads with the colour (204, " in text and ": grey 136 is used" in text for text in use.notes)
    assert resolve(model, pad_value=0).spec.preprocess.pad_value == 0


def test_a_description_of_another_model_is_left_out_and_said(tmp_path, model):
    (tmp_path / "config.json").write_text(json.dumps({**TIMM, "num_classes": 1000}))
    use = resolve(model)
    assert use.missing
    assert any("of 1000 classes, the file has 3" in text for text in use.notes)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"name": "app"}', '{"pretrained_cfg": 3}', "[" * 100_000, "\xff"])
def test_a_config_of_something_else_is_passed_over(tmp_path, model, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    (tmp_path / "preprocessor_config.json").write_text(text, encoding="latin-1")
    assert resolve(model).missing


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("stretch", None, "bilinear", 127.5, 127.5)),
        ({"resample": 3, "do_rescale": False, "image_mean": [128] * 3, "image_std": [64] * 3},
         ("stretch", None, "bicubic", 128, 64)),
        ({"do_normalize": False}, ("stretch", None, "bilinear", 0, 255)),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
         ("stretch", None, "bilinear", 127.5, 127.5)),
        ({"size": {"shortest_edge": 16}, "do_center_crop": True, "crop_size": {"height": 12, "width": 12}},
         ("crop", 12 / 16, "bilinear", 127.5, 127.5)),
        ({"size": 16, "do_center_crop": True, "crop_size": 12}, ("crop", 12 / 16, "bilinear", 127.5, 127.5)),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.9},
         ("crop", 0.9, "bilinear", 127.5, 127.5)),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
         ("stretch", None, "bilinear", 127.5, 127.5)),
        # Images of 0..1 are given to it.
        ({"do_rescale": False}, ("stretch", None, "bilinear", 127.5, 127.5)),
        ({"do_rescale": False, "image_mean": [0] * 3, "image_std": [1] * 3}, ("stretch", None, "bilinear", 0, 1)),
    ],
)  # fmt: skip
def test_image_processors_of_hugging_face(tmp_path, model, changes, expected):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**VIT, **changes}))
    labels = {"id2label": {"0": "cat", "1": "dog", "2": "cow"}, "architectures": ["ViTForImageClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(labels))
    use = resolve(model)
    fit, fraction, interpolation, mean, std = expected
    assert (use.fit, use.interpolation, use.labels) == (fit, interpolation, ("cat", "dog", "cow"))
    assert fraction is None or use.crop_fraction == pytest.approx(fraction)
    close(use.scaling, [mean], [std])
    assert use.origins["scaling"] == "found in preprocessor_config.json"
    assert use.origins["labels"] == "found in config.json"


@pytest.mark.parametrize(
    ("activation", "problem_type", "expected"),
    [
        ("logits", "multi_label_classification", ("sigmoid-logits", "found in config.json")),
        ("logits", "single_label_classification", ("logits", "found in the graph")),
        ("sigmoid", "multi_label_classification", ("sigmoid", "found in the graph")),
        ("softmax", None, ("softmax", "found in the graph")),
    ],
)
def test_several_labels_of_an_image_make_a_sigmoid_follow(tmp_path, activation, problem_type, expected):
    config = {"architectures": ["ViTForImageClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "problem_type": problem_type}))
    path = Tiny(activation=activation).write(tmp_path / "m.onnx")
    use = resolve(path)
    assert (use.activation, use.origins["activation"]) == expected
    assert resolve(path, activation="none").activation == "logits"


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_damaged_config_is_told_and_a_byte_order_mark_is_none(tmp_path, model, name):
    document = json.dumps(TIMM if name == "config.json" else VIT).encode()
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + document)
    assert (resolve(model).missing, resolve(model).notes) == ((), ())
    (tmp_path / name).write_bytes(document[:40])
    (note,) = resolve(model).notes
    assert note.startswith(f"the {name} beside the file cannot be read")


@pytest.mark.parametrize(
    ("is_training", "ratio", "is_refused"), [(True, 0.5, True), (True, 0.0, False), (False, 0.5, False)]
)
def test_a_graph_that_draws_random_numbers_is_refused(tmp_path, is_training, ratio, is_refused):
    nodes, values = Tiny().nodes()
    nodes[-1].input[0] = "dropped"
    nodes.insert(-1, helper.make_node("Dropout", ["logits", "ratio", "mode"], ["dropped"]))
    values |= {"ratio": np.array(ratio, np.float32), "mode": np.array(is_training)}
    outputs = [("y", TensorProto.FLOAT, ["N", 3])]
    path = write_model(tmp_path / "m.onnx", nodes, values, TensorProto.FLOAT, ["N", 3, *SIZE_HW], outputs)
    if is_refused:
        with pytest.raises(ModelFileError, match="got a Dropout in its graph that is in training mode"):
            resolve(path)
    else:
        assert resolve(path).activation == "softmax"


def test_the_image_processor_of_mobilevit_has_no_mean_and_std(tmp_path, model):
    processor = {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 16}, "do_rescale": True}
    processor |= {"do_center_crop": True, "crop_size": {"height": 12, "width": 16}, "do_flip_channel_order": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    use = resolve(model)
    close(use.scaling, [0], [255])
    assert (use.channels, use.missing) == ("bgr", ())
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({**processor, "image_processor_type": "ViTImageProcessor"})
    )
    assert resolve(model).missing


def test_a_mean_beyond_the_rescaled_pixels_is_told_and_not_used(tmp_path, model):
    processor = {**VIT, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (missing,) = resolve(model).missing
    assert "mean 123.675,116.28,103.53" in missing.got
    assert "rescaling by 0.00392157" in missing.got
    assert not resolve(model, preset="imagenet").missing


def test_files_above_an_onnx_folder_are_found_as_on_the_hub(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT))
    assert not resolve(Tiny().write(tmp_path / "onnx" / "model.onnx")).missing
    (tmp_path / "other").mkdir()
    assert resolve(Tiny().write(tmp_path / "other" / "model.onnx")).missing


def test_a_detector_of_hugging_face_is_none(tmp_path, model):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["DetrForObjectDetection"]}))
    with pytest.raises(ModelFileError, match="DetrForObjectDetection"):
        resolve(model)


def test_labels_txt_beside_the_file_is_taken_where_it_fits(tmp_path, model):
    (tmp_path / "labels.txt").write_text("0 Class 1\n1 Class 2\n2 cat\n")
    use = resolve(model)
    assert (use.labels, use.origins["labels"]) == (("Class 1", "Class 2", "cat"), "found in labels.txt")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert resolve(model).labels == ("0", "1", "2")


def test_a_std_of_the_unit_range_is_scaled_and_said(model):
    use = resolve(model, scaling=PixelScaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    close(use.scaling, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert any("58.395" in text for text in use.notes)
    with pytest.raises(UsageError, match="different units"):
        resolve(model, scaling=PixelScaling((123.675, 116.28, 103.53), (0.229, 0.224, 0.225)))
    assert not resolve(model, scaling=PixelScaling((0, 0, 0), (1, 1, 1))).notes


@pytest.mark.parametrize(
    ("mean", "std", "remedy"),
    [
        ((0.485, 0.456, 0.406), (58.395, 57.12, 57.375), "pass --mean 123.675,116.28,103.53."),
        ((0.5, 0.4, 0.3), (1, 1, 1), "pass --mean 127.5,102,76.5 --std 255."),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 1), "pass those of the training."),
        ((127.5, 127.5, 127.5), (0.5, 0.5, 127.5), "pass those of the training."),
    ],
)
def test_numbers_of_two_units_are_refused_with_those_of_one(model, mean, std, remedy):
    with pytest.raises(UsageError, match="different units") as caught:
        resolve(model, scaling=PixelScaling(mean, std))
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,), (255.0,)), ((1.0,), (127.5,)), ((127.5,), (1.0,)), ((-103.9, 0, 9), (1, 2, 3))]
)
def test_numbers_of_bytes_are_left_as_they_are(model, mean, std):
    assert resolve(model, scaling=PixelScaling(mean, std)).scaling == PixelScaling(mean, std)


def test_a_normalisation_inside_is_found_in_the_graph(tmp_path):
    tiny = Tiny(layout="NHWC")
    nodes, values = tiny.nodes()
    nodes[0].output[0] = "raw"
    nodes.insert(1, helper.make_node("Mul", ["raw", "factor"], ["pixels"]))
    values["factor"] = np.float32(1 / 255)
    shape, outputs = ["N", *SIZE_HW, 3], [("y", TensorProto.FLOAT, ["N", 3])]
    path = write_model(tmp_path / "m.onnx", nodes, values, TensorProto.FLOAT, shape, outputs)
    use = resolve(path)
    assert (use.scaling, use.origins["scaling"]) == (PixelScaling((0.0,), (1.0,)), "found in the graph")
    assert any("begins with a normalisation" in text for text in resolve(path, preset="keras-tf").notes)


@pytest.mark.parametrize(
    ("tiny", "given", "error", "words"),
    [
        (Tiny(dtype="uint8"), {"scaling": PixelScaling((0,), (255,))}, UsageError, "takes uint8 pixels"),
        (Tiny(), {"image_size": (99, 99)}, UsageError, r"another size: got 99 x 99, expected \(N, 3, 12, 16\)"),
        (Tiny(channels=1), {"channels": "bgr"}, UsageError, "takes grey images"),
        (Tiny(channels=1), {"preset": "imagenet"}, UsageError, "expected one number each"),
        (Tiny(), {"output": "z"}, UsageError, "no output 'z'"),
        (Tiny(), {"labels": ("a", "b")}, ModelFileError, "got 2 labels, expected 3"),
        (Tiny(classes=1, activation="softmax"), {}, ModelFileError, "which is always 1"),
        (Tiny(channels=4), {}, ModelFileError, "not an image classifier"),
    ],
)
def test_what_contradicts_the_file_is_refused(tmp_path, tiny, given, error, words):
    with pytest.raises(error, match=words):
        resolve(tiny.write(tmp_path / "m.onnx"), **given)


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "torch"}, {"fit": "cover"}, {"interpolation": "lanczos"}, {"channels": "grb"}, {"activation": "relu"},
        {"crop_fraction": 0.0}, {"crop_fraction": 1.5}, {"image_size": (0, 3)}, {"fit": "stretch", "crop_fraction": 0.5},
        {"pad_value": -1}, {"pad_value": 256}, {"fit": "crop", "pad_value": 0},
        {"crop_fraction": 0.9, "pad_value": 0},
    ],
)  # fmt: skip
def test_values_that_do_not_exist_are_usage_errors(given):
    with pytest.raises(UsageError):
        ForeignModel(**given)


def test_a_free_size_is_missing_until_it_is_named(tmp_path):
    path = Tiny(dtype="uint8", size_hw=("H", 16)).write(tmp_path / "m.onnx")
    use = resolve(path)
    assert [item.what for item in use.missing] == ["leaves the size of its images free"]
    assert resolve(path, image_size=(12, 16)).size_hw == (12, 16)
    with pytest.raises(UsageError, match="another size"):
        resolve(path, image_size=(12, 17))
    with pytest.raises(ModelFileError, match="--image-size 224"):
        ModelSession(path, foreign=ForeignModel())


def several_outputs(path, more):
    """A softmax `y` of three classes beside other outputs."""
    nodes, values = Tiny(dtype="uint8").nodes()
    outputs = [("y", TensorProto.FLOAT, ["N", 3])]
    for name, (node, kind, shape, extra) in more.items():
        nodes.append(node)
        values |= extra
        outputs.insert(0, (name, kind, shape))
    return write_model(path, nodes, values, TensorProto.UINT8, ["N", 3, *SIZE_HW], outputs)


def test_of_several_outputs_the_one_that_fits_is_taken(tmp_path):
    features = helper.make_node("Identity", ["means"], ["features"])
    path = several_outputs(tmp_path / "m.onnx", {"features": (features, TensorProto.FLOAT, ["N", 3], {})})
    use = resolve(path)
    assert use.output == "y"  # it alone comes out of a softmax
    assert any("y is taken for the classes" in text for text in use.notes)
    assert resolve(path, output="features").output == "features"
    twice = helper.make_node("Softmax", ["logits"], ["other"], axis=1)
    path = several_outputs(tmp_path / "n.onnx", {"other": (twice, TensorProto.FLOAT, ["N", 3], {})})
    assert [item.what for item in resolve(path).missing] == ["has several outputs that could be the classes"]


def test_class_numbers_sequences_and_boxes_are_no_classes(tmp_path):
    nodes, values = Tiny(dtype="uint8").nodes()
    shape = ["N", 3, *SIZE_HW]
    argmax = [*nodes, helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0)]
    path = write_model(
        tmp_path / "a.onnx", argmax, values, TensorProto.UINT8, shape, [("label", TensorProto.INT64, ["N"])]
    )
    with pytest.raises(ModelFileError, match="without the ArgMax"):
        resolve(path)
    boxes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    for dims in (["N", 84, 8400], ["N", 21, 12, 16]):
        path = write_model(tmp_path / "b.onnx", boxes, {}, TensorProto.UINT8, shape, [("y", TensorProto.FLOAT, dims)])
        with pytest.raises(ModelFileError, match="detectors, segmenters"):
            resolve(path)
    model = onnx.load(tmp_path / "a.onnx")
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output[0].CopyFrom(helper.make_value_info("p", helper.make_sequence_type_proto(kind)))
    (tmp_path / "z.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="ZipMap"):
        resolve(tmp_path / "z.onnx")


def test_a_text_model_is_no_image_classifier(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    path = write_model(
        tmp_path / "t.onnx", nodes, {}, TensorProto.INT64, ["N", "T"], [("y", TensorProto.FLOAT, ["N", "T"])]
    )
    with pytest.raises(ModelFileError, match=re.escape("got input x int64 (N, T)")):
        resolve(path)


def test_every_error_is_one_sentence_and_the_use_is_json(model):
    use = resolve(model, preset="imagenet", labels=("a", "b", "a"))
    document = json.loads(json.dumps(use.to_json()))
    assert document["labels"] == {"value": ["a (0)", "b", "a (2)"], "origin": "given"}
    assert document["scaling"]["origin"] == "preset imagenet"
    with pytest.raises(EdgeclfError) as caught:
        resolve(model, labels=("a",))
    assert "\n" not in str(caught.value)
