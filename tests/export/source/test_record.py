"""The record of the original: how it was used is read back as it was said."""

import json

import pytest

from edgeclf.export.source.record import architecture_of, recorded_use, source_record
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.foreign.resolution import resolve_foreign
from edgeclf.runtime.session.graph_outline import read_graph_outline
from edgeclf.runtime.session.session import ModelSession

GIVEN = {
    "labels": ("red", "green", "blue"),
    "scaling": PixelScaling((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
    "fit": "crop",
    "crop_fraction": 0.875,
    "interpolation": "bicubic",
    "channels": "bgr",
    "activation": "sigmoid-logits",
}


LETTERBOX = {"fit": "letterbox", "crop_fraction": None}


@pytest.mark.parametrize("changes", [{}, LETTERBOX, {**LETTERBOX, "pad_value": 7}, {"channels": "rgb"}])
def test_the_use_that_is_recorded_is_the_use_that_was_made(make_foreign, tmp_path, changes):
    path = make_foreign(tmp_path / "other.onnx")
    use = ModelSession(path, device="cpu", foreign=ForeignModel(**{**GIVEN, **changes})).use
    spec = use.spec.with_changes(source=source_record(path, producer="", used_as=use.to_json()))
    said = recorded_use(spec, path)
    again = resolve_foreign(path, read_graph_outline(path), said)
    for part in ("size_hw", "channels", "scaling", "crop_fraction", "activation", "labels"):
        assert getattr(again, part) == getattr(use, part), part
    # Fit, padding and interpolation too.
    assert again.spec.preprocess == use.spec.preprocess


def test_a_padding_that_the_config_beside_the_file_says_is_recorded(make_foreign, tmp_path):
    path = make_foreign(tmp_path / "other.onnx")
    config = {"crop_mode": "border", "crop_pct": 1.0, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    use = ModelSession(path, device="cpu", foreign=ForeignModel()).use
    assert (use.fit, use.pad_value) == ("letterbox", 128)
    spec = use.spec.with_changes(source=source_record(path, producer="", used_as=use.to_json()))
    # The original may lie elsewhere by then, without that config.
    moved = tmp_path / "moved" / "other.onnx"
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    said = recorded_use(spec, moved)
    assert ModelSession(moved, device="cpu", foreign=said).spec.preprocess == use.spec.preprocess


def test_another_file_and_a_damaged_record_say_nothing(make_foreign, tmp_path):
    path = make_foreign(tmp_path / "other.onnx")
    use = ModelSession(path, device="cpu", foreign=ForeignModel(**GIVEN)).use
    record = source_record(path, producer="", used_as=use.to_json())
    assert record["bytes"] == path.stat().st_size
    spec = use.spec.with_changes(source=record)
    other = tmp_path / "another.onnx"
    other.write_bytes(path.read_bytes() + b"\0")
    assert recorded_use(spec, other) is None
    assert recorded_use(use.spec, path) is None
    for damaged in ({**record, "used_as": {}}, {**record, "used_as": None}, {"digest": record["digest"]}):
        assert recorded_use(spec.with_changes(source=damaged), path) is None


def test_a_folder_is_digested_by_what_is_in_it_and_where(tmp_path):
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "data").write_bytes(b"weights")
    first = source_record(folder, producer="", used_as=None)
    assert (first["file"], first["bytes"], first["producer"]) == ("saved", 12, None)
    folder.rename(tmp_path / "elsewhere")
    second = source_record(tmp_path / "elsewhere", producer="", used_as=None)
    assert second["digest"] == first["digest"]
    (tmp_path / "elsewhere" / "variables").rename(tmp_path / "elsewhere" / "other")
    assert source_record(tmp_path / "elsewhere", producer="", used_as=None)["digest"] != first["digest"]
    with pytest.raises(ModelFileError, match="cannot read"):
        source_record(tmp_path / "nothing", producer="", used_as=None)


def test_names_that_every_file_has_are_no_architecture():
    assert architecture_of("resnet18-v1", "pytorch 2.9") == "resnet18-v1"
    assert architecture_of("model", "pytorch 2.9") == "of pytorch 2.9"
    assert architecture_of("Model", "") == "of an unknown producer"
