"""The battery that injects faults: what it counts, and one run of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.doctor.faults import base

    return base


def run_battery(*arguments):
    command = [sys.executable, ROOT / "benchmarks" / "doctor" / "battery.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def finding(cause, severity="problem", evidence=(), items=()):
    return {"cause": cause, "severity": severity, "evidence": dict(evidence), "items": list(items)}


def test_a_fault_is_found_by_cause_severity_and_evidence(faults):
    truth = faults.Truth(("split-shift",), {"property": ("blur", "noise")})
    right = finding("split-shift", evidence={"property": "blur"})
    assert faults.judge([finding("blank"), right], truth) == faults.Verdict(
        found=True, rank=2, recall=None, precision=None
    )
    for wrong in (
        [],
        [finding("split-shift", evidence={"property": "brightness"})],
        [finding("split-shift", "note", {"property": "blur"})],
        [finding("shortcut", evidence={"property": "blur"})],
    ):
        assert not faults.judge(wrong, truth).found


def test_recall_and_precision_are_those_of_the_named_images(faults):
    truth = faults.Truth(("leakage",), items=frozenset("abcd"))
    verdict = faults.judge([finding("leakage", items="ab"), finding("leakage", "warning", items="bcx")], truth)
    assert (verdict.recall, verdict.precision) == (0.75, 0.75)
    assert faults.judge([finding("blank", items="abcd")], truth).recall == 0.0


def test_thinning_out_leaves_the_ratio_in_every_part(faults, write_folder, rng):
    from benchmarks.doctor.faults.classes import FAULTS

    root = write_folder({"train/cat": 50, "train/dog": 50, "test/cat": 30, "test/dog": 30})
    (fault,) = [fault for fault in FAULTS if fault.name == "imbalance 10:1"]
    truth = fault.inject(root, rng)
    rare = truth.evidence["rarest"]
    counts = {part: {c: len(list((root / part / c).iterdir())) for c in ("cat", "dog")} for part in ("train", "test")}
    assert {part: counts[part][rare] for part in counts} == {"train": 5, "test": 3}
    assert sum(counts["train"].values()) == 55


def test_the_same_generator_injects_the_same(faults, write_folder):
    from benchmarks.doctor.faults.classes import FAULTS

    left = []
    for name in ("one", "two"):
        root = write_folder({"train/cat": 20, "train/dog": 20}, name=name)
        FAULTS[1].inject(root, np.random.default_rng(3))
        left.append(sorted(path.relative_to(root) for path in root.rglob("*.jpg")))
    assert left[0] == left[1]


def test_the_battery_counts_what_is_found(write_folder, tmp_path):
    root = write_folder({"train/cat": 30, "train/dog": 30, "test/cat": 10, "test/dog": 10})
    before = sorted(path.stat().st_mtime_ns for path in root.rglob("*.jpg"))
    done = run_battery(root, "--seeds", 5, "--faults", "imbalance 10:1", "--cache-folder", tmp_path / "cache", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["faults"]
    assert (row["fault"], row["runs"], row["found"]) == ("imbalance 10:1", 1, 1.0)
    (clean,) = document["clean"]
    assert clean["images"] == 80
    assert "imbalance" not in clean["problems"]
    # The data itself was left alone.
    assert sorted(path.stat().st_mtime_ns for path in root.rglob("*.jpg")) == before


def test_the_battery_refuses_what_it_cannot_use(tmp_path):
    done = run_battery(tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{tmp_path} has no train/ and test/ folders\n")
    assert "imbalance 10:1" in run_battery("--list").stdout
