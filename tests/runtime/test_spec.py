import json
import math
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.spec import FIT_MODES, INTERPOLATIONS, SCHEMA_VERSION, ModelSpec, Preprocess, spec_from_json

finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
# Keys that no program reads, whose values have types of their own.
facts = st.dictionaries(st.text(string.ascii_lowercase, min_size=1).map("x {}".format), json_values, max_size=4)
preprocesses = st.builds(
    Preprocess,
    size_hw=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    fit=st.sampled_from(FIT_MODES),
    crop_fraction=st.floats(0.01, 1.0),
    pad_value=st.integers(0, 255),
    interpolation=st.sampled_from(INTERPOLATIONS),
)
specs = st.builds(
    ModelSpec,
    labels=st.lists(st.text(), min_size=1, max_size=5, unique=True).map(tuple),
    preprocess=preprocesses,
    temperature=st.floats(0.01, 100),
    rejection_threshold=st.none() | st.floats(0, 1),
    architecture=st.text(),
    precision=st.sampled_from(["fp32", "int8"]),
    quantization=st.none() | facts,
    training=facts,
    dataset_fingerprint=st.none() | st.text(),
    seen_images=st.none() | st.dictionaries(st.sampled_from(["train", "val"]), st.text()),
    package_versions=st.dictionaries(st.text(), st.text(), max_size=3),
    parity=st.none() | facts,
    latency=st.none() | facts,
    self_test=st.none() | facts,
)
SPEC = ModelSpec(labels=("a", "b"), preprocess=Preprocess((3, 4)))


@given(specs)
def test_a_spec_survives_the_round_trip(spec):
    text = spec.to_json()
    read = spec_from_json(text, "test")
    assert read == spec
    assert read.to_json() == text


# Pairs that differ in one field, by as little as a float can.
@given(
    preprocesses.flatmap(
        lambda item: st.tuples(
            st.just(item),
            st.just(item)
            | st.just(replace(item, crop_fraction=math.nextafter(item.crop_fraction, 0)))
            | st.just(replace(item, pad_value=(item.pad_value + 1) % 256))
            | st.just(replace(item, size_hw=item.size_hw[::-1]))
            | st.sampled_from(FIT_MODES).map(lambda fit: replace(item, fit=fit))
            | st.sampled_from(INTERPOLATIONS).map(lambda name: replace(item, interpolation=name))
            | preprocesses,
        )
    )
)
def test_keys_differ_whenever_a_field_does_that_the_fit_mode_uses(pair):
    first, second = pair

    def what_matters(item):
        return (
            item.size_hw,
            item.fit,
            item.crop_fraction if item.fit == "crop" else None,
            item.pad_value if item.fit == "letterbox" else None,
            item.interpolation,
        )

    assert (first.key == second.key) == (what_matters(first) == what_matters(second))


@pytest.mark.parametrize(
    ("preprocess", "key"),
    [
        (Preprocess((224, 192)), "224x192-stretch-area-down-linear-up"),
        (Preprocess((224, 224), "crop", 0.875), "224x224-crop0.875-area-down-linear-up"),
        (Preprocess((8, 8), "letterbox"), "8x8-letterbox114-area-down-linear-up"),
        (Preprocess((224, 224), "crop", 0.875, interpolation="bicubic"), "224x224-crop0.875-bicubic"),
    ],
)
def test_keys_stay_what_caches_are_named_by(preprocess, key):
    assert preprocess.key == key


def changed(**changes):
    document = json.loads(SPEC.to_json())
    for name, value in changes.items():
        document[name] = value
    return json.dumps(document)


def test_unknown_keys_of_the_same_schema_are_ignored():
    assert spec_from_json(changed(something_new={"a": 1}), "test") == SPEC


def test_missing_optional_keys_take_their_defaults():
    document = json.loads(SPEC.to_json())
    kept = {key: document[key] for key in ("labels", "preprocess", "schema_version")}
    assert spec_from_json(json.dumps(kept), "test") == SPEC


def test_a_spec_without_an_interpolation_means_the_area():
    read = spec_from_json(changed(preprocess={"size_hw": [3, 4]}), "test")
    assert read.preprocess.interpolation == "area-down-linear-up"


def test_an_interpolation_of_a_newer_program_is_refused_by_its_name():
    with pytest.raises(ModelFileError, match=r"m\.onnx.*interpolation must be one of .*bicubic, got 'lanczos'"):
        spec_from_json(changed(preprocess={"size_hw": [3, 4], "interpolation": "lanczos"}), "m.onnx")


def test_a_newer_schema_asks_for_an_update():
    with pytest.raises(ModelFileError, match=r"schema version 2.*expected at most 1; update edgeclf"):
        spec_from_json(changed(schema_version=SCHEMA_VERSION + 1), "m.onnx")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"spec"',
        "{}",
        SPEC.to_json()[:-10],
        changed(schema_version=None),
        changed(schema_version="1"),
        changed(labels=[]),
        changed(labels=["a", "a"]),
        changed(labels=None),
        changed(preprocess=None),
        changed(preprocess={}),
        changed(preprocess={"size_hw": [3]}),
        changed(preprocess={"size_hw": ["x", 4]}),
        changed(preprocess={"size_hw": [0, 4]}),
        changed(preprocess={"size_hw": [3, 4], "fit": "squash"}),
        changed(preprocess={"size_hw": [3, 4], "interpolation": "lanczos"}),
        changed(preprocess={"size_hw": [3, 4], "colour": "BGR"}),
        changed(temperature=0),
        changed(temperature="warm"),
        changed(rejection_threshold=1.5),
    ],
)
def test_a_damaged_document_is_a_model_file_error_that_names_the_file(text):
    with pytest.raises(ModelFileError, match=r"cannot read the spec of m\.onnx"):
        spec_from_json(text, "m.onnx")


@given(st.text() | json_values.map(json.dumps))
def test_a_text_that_is_no_spec_is_refused(text):
    with pytest.raises(ModelFileError):
        spec_from_json(text, "test")


@st.composite
def nearly_specs(draw):
    """A spec's document with a value exchanged or removed, at the top or in the preprocessing, or its text damaged."""
    document = json.loads(draw(specs).to_json())
    inner = draw(st.sampled_from([document, document["preprocess"]]))
    name = draw(st.sampled_from(sorted(inner)))
    if draw(st.booleans()):
        inner[name] = draw(json_values | st.just([3, 4.5]) | st.just(10**400))
    else:
        del inner[name]
    text = json.dumps(document)
    if draw(st.booleans()):
        start, length = draw(st.integers(0, len(text) - 1)), draw(st.integers(0, 9))
        text = text[:start] + draw(st.text(max_size=9)) + text[start + length :]
    return text


@given(nearly_specs())
def test_a_changed_document_is_refused_or_read_as_a_spec(text):
    try:
        spec = spec_from_json(text, "test")
    except ModelFileError:
        return
    assert spec_from_json(spec.to_json(), "test") == spec
    assert all(isinstance(label, str) for label in spec.labels)
    assert all(isinstance(side, int) and side > 0 for side in spec.preprocess.size_hw)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5_000, changed(preprocess={"size_hw": [1e300 * 1e300, 4]})])
def test_a_document_beyond_what_python_reads_is_refused(text):
    with pytest.raises(ModelFileError):
        spec_from_json(text, "test")


@pytest.mark.parametrize(
    "arguments",
    [
        {"size_hw": (0, 1)},
        {"size_hw": (1, 2, 3)},
        {"size_hw": (1, 1), "fit": "squash"},
        {"size_hw": (1, 1), "crop_fraction": 0.0},
        {"size_hw": (1, 1), "crop_fraction": 1.1},
        {"size_hw": (1, 1), "pad_value": 256},
        {"size_hw": (1, 1), "interpolation": "cubic"},
    ],
)
def test_preprocessing_that_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        Preprocess(**arguments)
