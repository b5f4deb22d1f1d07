"""`edgeclf verify MODEL`: the self-test on this machine, and what another language needs to know for it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeclf.export.emulation import comparison

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[3] / "docs" / "self-test.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tampered(exported, tmp_path_factory):
    """The exported file with one weight of its last layer changed."""
    model = onnx.load(exported)
    last = next(node for node in reversed(model.graph.node) if node.op_type in {"MatMul", "Gemm"})
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == last.input[1]]
    values = numpy_helper.to_array(weights).copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= -1
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    path = tmp_path_factory.mktemp("tampered") / "tampered.onnx"
    onnx.save(model, path)
    return path


def test_a_file_says_of_itself_whether_it_computes_what_it_did(call_edgeclf, exported, tampered):
    done = call_edgeclf("verify", exported)
    assert done.code == 0, done.err
    assert done.out.count("passed") == 8
    assert "self-test passed: on 8 golden inputs" in done.err
    done = call_edgeclf("verify", exported, "--threads", 1, "--device", "cpu", "--json")
    document = done.json()
    assert (done.code, document["passed"], document["provider"]) == (0, True, "CPUExecutionProvider")
    assert len(document["inputs"]) == 8
    assert document["error"] <= document["tolerance"]

    done = call_edgeclf("verify", tampered)
    assert done.code == 4
    assert "failed" in done.out
    assert "does not compute here what it computed where it was made" in done.err
    done = call_edgeclf("verify", tampered, "--json")
    assert (done.code, done.json()["passed"]) == (4, False)


def test_with_images_it_is_one_line_and_counts(call_edgeclf, exported, tampered, trained_run, photographs):
    done = call_edgeclf("verify", exported, photographs, "--against", trained_run.folder, "--json")
    assert done.code == 0, done.err
    assert done.json()["self_test"]["passed"] is True
    assert done.err.count("self-test passed") == 1
    done = call_edgeclf("verify", tampered, photographs, "--against", tampered)
    assert done.code == 4
    assert "golden inputs" in done.err


def test_a_file_without_one_and_options_that_need_images_are_refused(call_edgeclf, colour_model, exported, tmp_path):
    done = call_edgeclf("verify", colour_model)
    assert (done.code, done.out) == (3, "")
    assert "has no self-test" in done.err
    for options in (["--against", exported], ["--layers"], ["--min-agreement", "0.9"]):
        done = call_edgeclf("verify", exported, *options)
        assert (done.code, done.out) == (2, "")
        assert f"{options[0]}" in done.err
        assert "needs images" in done.err


def test_on_emulated_cores_it_is_judged_by_the_same_tolerance(call_edgeclf, exported, monkeypatch):
    """The emulator is replaced by this machine, and on one core by another computation."""

    def run_here(model, images_rgb, core, sysroot, progress):
        rows = model.run(images_rgb)
        return rows if core.name == "cortex-a53" else rows[:, ::-1]

    monkeypatch.setattr(comparison, "prepare_sysroot", lambda cache_folder, progress: None)
    monkeypatch.setattr(comparison, "run_emulated", run_here)
    done = call_edgeclf("verify", exported, "--emulate", "arm64", "--core", "cortex-a53")
    assert done.code == 0, done.err
    assert "cortex-a53: self-test passed" in done.err
    done = call_edgeclf("verify", exported, "--emulate", "arm64", "--core", "cortex-a53", "--core", "max", "--json")
    assert (done.code, done.json()["passed"]) == (4, False)
    assert [item["passed"] for item in done.json()["cores"]] == [True, False]
    for options, words in ((("--emulate", "riscv"), "cannot emulate"), (("--core", "max"), "--core without --emulate")):
        done = call_edgeclf("verify", exported, *options)
        assert done.code == 2
        assert words in done.err


def test_info_says_whether_there_is_one(call_edgeclf, colour_model, exported):
    (line,) = [line for line in call_edgeclf("info", exported).out.splitlines() if "self-test" in line]
    assert "8 inputs" in line
    (line,) = [line for line in call_edgeclf("info", colour_model).out.splitlines() if "self-test" in line]
    assert "none" in line


def test_the_program_of_the_page_finds_the_same(exported, tampered, tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(program.splitlines()) <= 30
    assert "edgeclf.runtime" not in program
    (tmp_path / "self_test.py").write_text(program)
    for model, verdict in ((exported, "passed"), (tampered, "failed")):
        command = [sys.executable, tmp_path / "self_test.py", model]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        lines = done.stdout.splitlines()
        assert (len(lines), lines[-1]) == (9, verdict)
