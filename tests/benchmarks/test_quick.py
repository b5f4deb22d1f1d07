"""Every benchmark runs with `--quick`, prints finite figures, and stands in the benchmarks' README."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# Those that start no TensorFlow and train nothing: seconds each.
FAST = {
    "camera/idle_connections.py",
    "doctor/copies.py",
    "doctor/false_alarms.py",
    "int8/foreign.py",
    "int8/gate.py",
    "int8/memory.py",
    "int8/operators.py",
    "robustness/damaged_pictures.py",
    "robustness/documents.py",
    "robustness/layouts.py",
    "robustness/tables.py",
    "runtime/predict.py",
    "runtime/reduced_jpeg.py",
    "runtime/startup.py",
    "training/rejection.py",
}
# In the folders of their subjects; what stands beside those makes inputs.
SCRIPTS = sorted(
    path.relative_to(BENCHMARKS).as_posix()
    for path in BENCHMARKS.glob("*/*.py")
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
)


def run(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def numbers(document: object) -> Iterator[float]:
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        for value in document:
            yield from numbers(value)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield document


@pytest.mark.parametrize(
    "script", [script if script in FAST else pytest.param(script, marks=pytest.mark.slow) for script in SCRIPTS]
)
def test_quick_runs_end_well_and_print_finite_figures(script):
    done = run(script, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    figures = list(numbers(json.loads(done.stdout)))
    assert figures
    assert all(map(math.isfinite, figures))
    assert "do not quote these figures" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_stands_in_the_readme_with_its_command(script):
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\|.*`(\.venv/bin/)?python benchmarks/{re.escape(script)}\b.*\|$", readme, flags=re.MULTILINE)


def test_the_readme_names_no_script_that_is_not_there():
    for document in (ROOT / "README.md", BENCHMARKS / "README.md"):
        named = re.findall(r"benchmarks/(\w+/\w+\.py)", document.read_text(encoding="utf-8"))
        assert set(named) <= set(SCRIPTS), document


def test_a_module_is_found_from_the_checkout_too():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.runtime.predict", "--quick", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_inputs_are_required_without_quick():
    done = run("runtime/predict.py")
    assert done.returncode == 2
    assert "the following arguments are required: MODEL" in done.stderr


def test_only_makes_the_files_that_the_chosen_ones_run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.int8.recipes import Entry, Files

    made = []

    def make(name: str) -> bytes:
        made.append(name)
        return name.encode()

    entries = [
        Entry("fp32", lambda: make("fp32"), lambda _: None),
        Entry("edgeclf", lambda: make("edgeclf"), lambda _: None),
        Entry("another", lambda: make("another"), lambda _: None),
        Entry("OpenVINO, edgeclf's file", "edgeclf", lambda _: None),
    ]
    files = Files(entries)
    assert files.get("OpenVINO, edgeclf's file") == (b"edgeclf", 0.0)
    assert made == ["edgeclf"]
    files.get("edgeclf")
    assert made == ["edgeclf"]
