"""Specs that nobody should trust: whatever stands in a field, commands read the file or refuse it with a sentence."""

import copy
import json

import cv2
import numpy as np
import onnx
import pytest

from edgeclf.runtime.spec import SPEC_KEY

CPU = {"model": "any", "architecture": "x86_64", "isa_flags": ["avx", "avx2"], "usable_cpus": 2}
FULL = {
    "quantization": {
        "target": "any", "portable": True, "portable_reason": "", "equalized_streams": 0, "keep_float": [], "float_entrance": ["a"],
        "saturation": {"holds": True, "largest_pair": 128, "violating": []}, "unsettled_sums": [],
    },
    "training": {
        "images": {"train": 5, "val": 2, "test": 2}, "weights": "imagenet", "epochs": 3, "val_accuracy": 0.9, "fine_tune": None,
        "calibration": {"temperature": 1.0, "false_rejection_rate": 0.1, "test_negative_log_likelihood": {"before": 1.0, "after": 0.9}},
        "classes_before": {"kept": [], "renamed": [{"from": "rot", "to": "red"}], "new": ["blue"], "gone": []}, "quantization_aware": False,
    },
    "source": {"file": "theirs.onnx", "digest": "00", "used_as": None},
    "dataset_fingerprint": "blake2b:00",
    "seen_images": {"train": "AAtOUwALhpY=", "val": "AIJwhw=="},
    "package_versions": {"numpy": "2"},
    "parity": {
        "cpu": CPU, "limits": {"rule": "evidence", "max_accuracy_drop": 0.01, "min_sure_agreement": 0.995, "sure_margin": 0.3},
        "parts": [{"split": "validation", "agreement": 1.0, "accuracy_drop_interval": [-0.1, 0.1]}], "reference": "keras", "rejection": None,
        "verdict": {"outcome": "passed", "failures": [], "doubts": []},
    },
    "latency": {"cpu": CPU, "fp32": {"median_ms": 9.0, "ratio": 1.0, "threads": 1}},
    "portable": True,
    "portable_reason": "",
    "self_test": {"version": 1, "class_step": 1, "tolerance": {"cpu": 1e-4, "other": 0.3}, "inputs": [{"grids": [2], "label_index": 0}]},
}  # fmt: skip
WRONG = [
    None, True, False, 0, -1, 3, 10**400, 1.5, float("nan"), float("inf"), 1e308, "", "x", "\x00\x1b[2J\u202e", "a" * 5000, [], [1, "x"], [[]],
    [None], {}, {"a": 1}, {"*": []}, {"cpu": "x"}, [{}], {"train": 1}, [[["deep"]]],
]  # fmt: skip


@pytest.fixture(scope="module")
def model(colour_model):
    return onnx.load(colour_model)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "red.png"
    cv2.imwrite(str(path), np.full((32, 32, 3), (0, 0, 200), np.uint8))
    return path


def document_of(model):
    (entry,) = [entry for entry in model.metadata_props if entry.key == SPEC_KEY]
    return json.loads(entry.value) | copy.deepcopy(FULL)


def write(model, path, text):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for entry in changed.metadata_props:
        if entry.key == SPEC_KEY:
            entry.value = text
    onnx.save(changed, path)
    return path


def places(value, place=()):
    """The place of every value in a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*place, key)
            yield from places(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield (*place, number)
            yield from places(item, (*place, number))


def put(document, place, value):
    *above, last = place
    for key in above:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize("command", ["info", "info --json", "infer"])
def test_any_value_in_any_field_is_read_or_refused(call_edgeclf, model, picture, tmp_path, rng, command):
    name, *options = command.split()
    arguments = [picture, *options] if name == "infer" else options
    whole = document_of(model)
    path = write(model, tmp_path / "whole.onnx", json.dumps(whole))
    done = call_edgeclf(name, path, *arguments)
    assert done.code == 0, done.err
    every = list(places(whole))
    codes = set()
    for _ in range(60):
        document = copy.deepcopy(whole)
        for number in rng.choice(len(every), rng.integers(1, 3)):
            try:
                put(document, every[number], WRONG[rng.integers(len(WRONG))])
            except (TypeError, KeyError, IndexError):
                # Another value stands above it by now.
                continue
        done = call_edgeclf(name, write(model, tmp_path / "changed.onnx", json.dumps(document)), *arguments)
        assert done.code in {0, 3}, (document, done.err)
        assert "Traceback" not in done.err
        assert "\x1b[2J" not in done.out + done.err
        if done.code:
            assert done.err.count("\n") == 1
            assert "cannot read the spec of" in done.err or "does not match its own spec" in done.err
        codes.add(done.code)
    assert codes == {0, 3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency": "x"}, "got latency: expected a record, got 'x'"),
        ({"latency": {"cpu": [1]}}, "got latency.cpu: expected a record, got [1]"),
        ({"latency": {"cpu": {"isa_flags": ["avx", 2]}}}, "got latency.cpu.isa_flags[1]: expected a text, got 2"),
        ({"labels": "red"}, "got labels: expected a list, got 'red'"),
        ({"labels": ["red", None, "blue"]}, "got labels[1]: expected a text, got null"),
        ({"temperature": True}, "got temperature: expected a number, got True"),
        ({"temperature": float("nan")}, "got the number NaN"),
        # A whole number that no float holds.
        ({"temperature": 10**400}, "got the number 1000"),
        ({"latency": {"fp32": {"median_ms": -(10**400)}}}, "got the number -1000"),
        ({"preprocess": {"size_hw": [32.5, 32]}}, "got preprocess.size_hw[0]: expected a whole number, got 32.5"),
        ({"quantization": {"target": ["any"]}}, "got quantization.target: expected a text, got ['any']"),
    ],
)
def test_the_sentence_says_which_field(call_edgeclf, model, tmp_path, changes, words):
    done = call_edgeclf("info", write(model, tmp_path / "m.onnx", json.dumps(document_of(model) | changes)))
    assert (done.code, words in done.err) == (3, True), done.err
