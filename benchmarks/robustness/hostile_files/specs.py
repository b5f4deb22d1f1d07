"""Documents changed at random: values of wrong types in any field, keys that come and go, text that is no JSON; a full spec."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**400, -(10**18), 1.5, float("nan"), float("inf"), 1e308, 5e-324, -0.0),
    *("", "x", "\x00\x1b[2J\u202e", "a" * 5000, "\ud800", "../../etc/passwd", "[bold]x[/bold]", "%s%n{0}", "nan", "1"),
    *([], [1, "x"], [[]], [None], [{}], [[["deep"]]], list(range(3000)), ["a", "a"], [0, 0], [-1, 5]),
    *({}, {"a": 1}, {"*": []}, {"cpu": "x"}, {"train": 1}, {"": None}, {"\x1b[2J": {"\x1b[2J": 1}}),
)
# Of the good files.
LABELS = ("brick", "grass", "gravel")
_TEXTS = (
    "",
    " ",
    "a",
    "é",
    "é",
    "猫",
    "\x00",
    "\x1b]0;owned\x07",
    "\u202eabc",
    "\udcff",
    "=1+1",
    "-x",
    "a\nb",
    "z" * 3000,
    "{x}",
)


def any_text(rng: np.random.Generator) -> str:
    """Text that is hard to show or to store."""
    return str(_TEXTS[int(rng.integers(len(_TEXTS)))])


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """The place of every value in a document: keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def draw_change(document: Any, rng: np.random.Generator) -> Any:  # noqa: ANN401 - JSON
    """A copy of a document with up to three changes: a value of another type, a key gone or new, two values exchanged."""
    changed = copy.deepcopy(document)
    for _ in range(int(rng.integers(1, 4))):
        found = list(places(changed))
        if not found:
            break
        *above, last = found[int(rng.integers(len(found)))]
        parent = changed
        for key in above:
            parent = parent[key]
        other = found[int(rng.integers(len(found)))]
        match int(rng.integers(6)):
            case 0:
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[any_text(rng)] = copy.deepcopy(WRONG[int(rng.integers(len(WRONG)))])
            case 2:
                value = changed
                for key in other:
                    value = value[key]
                parent[last] = copy.deepcopy(value)
            case 3 if isinstance(parent[last], str):
                parent[last] = any_text(rng)
            case _:
                parent[last] = copy.deepcopy(WRONG[int(rng.integers(len(WRONG)))])
    return changed


def draw_document_text(document: Any, rng: np.random.Generator) -> str:  # noqa: ANN401 - JSON
    """A document as text: four in five changed, the others damaged as text."""
    if rng.random() < 0.8:
        return json.dumps(draw_change(document, rng))
    return damage_text(json.dumps(document), rng)


def damage_text(text: str, rng: np.random.Generator) -> str:
    """A text cut off, with a part gone, put in or there twice, deep, with long numbers, or of a newer version."""
    at, length = int(rng.integers(len(text))), int(rng.integers(1, 50))
    depth = int(rng.integers(10, 100_000))
    return str(
        (
            text[:at],
            text[:at] + text[at + length :],
            text[:at] + any_text(rng) + text[at:],
            text[:at] + chr(int(rng.integers(32, 127))) + text[at + 1 :],
            text + text,
            "\ufeff" + text,
            "[" * depth,
            '{"a":' * depth + "1" + "}" * depth,
            text.replace("1", "1" * int(rng.integers(2, 6000))),
            text.replace(":", ": ", 1).replace("{", '{"labels": ["a"], "schema_version": 99,', 1),
        )[int(rng.integers(10))]
    )


def full_spec() -> str:
    """A spec of three classes in which every field is filled as an export fills it."""
    cpu = {"model": "any", "architecture": "x86_64", "isa_flags": ["avx", "avx2"], "usable_cpus": 2}
    document = {
        "labels": list(LABELS),
        "preprocess": {
            "size_hw": [32, 32],
            "fit": "letterbox",
            "crop_fraction": 1.0,
            "pad_value": 114,
            "interpolation": "bilinear",
        },
        "temperature": 1.2,
        "rejection_threshold": 0.01,
        "architecture": "mean-colour",
        "precision": "fp32",
        "quantization": {
            "target": "any",
            "portable": True,
            "portable_reason": "",
            "equalized_streams": 0,
            "keep_float": [],
            "float_entrance": ["a"],
            "saturation": {"holds": True, "largest_pair": 128, "violating": []},
            "unsettled_sums": [],
        },
        "training": {
            "images": {"train": 5, "val": 2, "test": 2},
            "weights": "imagenet",
            "epochs": 3,
            "val_accuracy": 0.9,
            "fine_tune": None,
            "calibration": {
                "temperature": 1.0,
                "false_rejection_rate": 0.1,
                "test_negative_log_likelihood": {"before": 1.0, "after": 0.9},
            },
            "classes_before": {"kept": [], "renamed": [{"from": "stone", "to": "brick"}], "new": ["grass"], "gone": []},
            "quantization_aware": False,
        },
        "source": {"file": "theirs.onnx", "digest": "00", "used_as": None},
        "dataset_fingerprint": "blake2b:00",
        "seen_images": {"train": "AAtOUwALhpY=", "val": "AIJwhw=="},
        "package_versions": {"numpy": "2"},
        "parity": {
            "cpu": cpu,
            "limits": {"rule": "evidence", "max_accuracy_drop": 0.01, "min_sure_agreement": 0.995, "sure_margin": 0.3},
            "parts": [{"split": "validation", "agreement": 1.0, "accuracy_drop_interval": [-0.1, 0.1]}],
            "reference": "keras",
            "rejection": None,
            "verdict": {"outcome": "passed", "failures": [], "doubts": []},
        },
        "latency": {"cpu": cpu, "fp32": {"median_ms": 9.0, "ratio": 1.0, "threads": 1}},
        "portable": True,
        "portable_reason": "",
        "self_test": {
            "version": 1,
            "class_step": 1,
            "tolerance": {"cpu": 1e-4, "other": 0.3},
            "inputs": [{"grids": [2], "label_index": 0}],
        },
        "schema_version": 1,
    }
    return json.dumps(document)
