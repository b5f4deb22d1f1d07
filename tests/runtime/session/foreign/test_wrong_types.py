"""Files beside a model with values of other types: what can be used is, the rest is passed over, and nothing ends in a traceback."""

import json

import pytest

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.given import ForeignModel
from edgeclf.runtime.session.foreign.labels import labels_from, read_labels
from edgeclf.runtime.session.foreign.resolution import resolve_foreign
from edgeclf.runtime.session.graph_outline import read_graph_outline

from .tiny import Tiny

TIMM = {
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 12, 16], "crop_pct": 0.95, "crop_mode": "center",
    "interpolation": "bicubic",
}  # fmt: skip
VIT = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 12, "width": 16}, "resample": 2,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "do_center_crop": True, "crop_size": {"height": 12, "width": 16}, "crop_pct": 0.9, "do_flip_channel_order": False,
}  # fmt: skip
WRONG = [
    None, True, False, 0, -1, 10**400, -1e308, 5e-324, float("nan"), float("inf"), "", "false", "\ud800", [], [[]], [None], [True] * 3,
    [-1, -1, -1], [1e308] * 3, [0, 12, 16], [3, 1 << 40, 16], {}, {"height": True, "width": "12"}, {"shortest_edge": 10**9},
]  # fmt: skip


def use_of(folder):
    path = Tiny().write(folder / "m.onnx")
    use = resolve_foreign(path, read_graph_outline(path), ForeignModel())
    use.sentence()
    json.dumps(use.to_json(), allow_nan=False)
    if not use.missing and use.labels is not None:
        assert use.spec.preprocess.size_hw == use.size_hw
    return use


@pytest.mark.parametrize("key", TIMM)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_any_value_in_the_config_of_timm(tmp_path, key, wrong):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": TIMM | {key: wrong}}))
    use = use_of(tmp_path)
    assert use.origins["channels"] == "found in config.json"
    assert 0 < use.crop_fraction <= 1


@pytest.mark.parametrize("key", VIT)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_any_value_in_the_config_of_an_image_processor(tmp_path, key, wrong):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT | {key: wrong}))
    use = use_of(tmp_path)
    assert 0 < use.crop_fraction <= 1
    if key == "do_flip_channel_order":
        assert use.channels == ("bgr" if wrong is True else "rgb")


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("key", ["architectures", "id2label", "image_size"])
def test_any_value_in_the_config_of_hugging_face(tmp_path, key, wrong):
    config = {
        "architectures": ["ViTForImageClassification"],
        "id2label": {"0": "a", "1": "b", "2": "c"},
        "image_size": 12,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {key: wrong}))
    use = use_of(tmp_path)
    assert use.labels == (("0", "1", "2") if key == "id2label" else ("a", "b", "c"))


@pytest.mark.parametrize("name", ["names", "imgsz"])
@pytest.mark.parametrize(
    "text",
    [
        "{True: 'a'}",
        "{1e400: 'a'}",
        "[True, True]",
        "-" * 9999 + "1",
        "(" * 9999,
        "{0: '\\ud800'}",
        "1e999",
        "[12.0, 16]",
    ],
)
def test_any_literal_in_the_properties(tmp_path, name, text):
    properties = {"task": "classify", "names": "{0: 'a', 1: 'b', 2: 'c'}", "imgsz": "[12, 16]", name: text}
    path = Tiny().write(tmp_path / "m.onnx", properties)
    use = resolve_foreign(path, read_graph_outline(path), ForeignModel())
    assert use.labels == (("0", "1", "2") if name == "names" else ("a", "b", "c"))
    assert use.size_hw == (12, 16)


def test_lines_numbered_beyond_any_index_are_names(tmp_path):
    (tmp_path / "labels.txt").write_text(f"{'0' * 5000} cat\n{'9' * 5000} dog\n")
    assert read_labels(tmp_path / "labels.txt").labels[1].endswith("9 dog")


@pytest.mark.parametrize("document", [["a", "\ud800"], {"\udfff": 0}, {"0": "\ud83d"}, {"a": True, "b": False}])
def test_half_of_a_character_is_no_name_and_true_is_no_index(document):
    assert labels_from(document) is None


def test_a_graph_for_images_that_no_memory_holds_is_refused(tmp_path):
    path = Tiny(size_hw=(1 << 20, 16)).write(tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="takes images of another size than there are: got 1048576 x 16"):
        resolve_foreign(path, read_graph_outline(path), ForeignModel())
