"""The warning about a file that was made for, or verified on, another CPU."""

import pytest

from edgeclf.runtime.cpus import CpuInfo
from edgeclf.runtime.spec import ModelSpec, Preprocess
from edgeclf.toolkit.reports.cpu_warning import warn_of_other_cpu

OLD = CpuInfo("an old CPU", "x86_64", ("avx2", "fma"), 2)
NEW = CpuInfo("a new CPU", "x86_64", ("avx2", "avx512_vnni", "fma"), 2)
ARM = CpuInfo("an ARM core", "aarch64", ("asimd",), 4)


def spec(target, cpu):
    return ModelSpec(
        labels=("a", "b"),
        preprocess=Preprocess((8, 8)),
        precision="int8",
        quantization={"target": target},
        parity={"cpu": cpu.to_json()},
    )


@pytest.mark.parametrize("target", ["x86-vnni", "arm64"])
def test_full_range_weights_on_a_cpu_that_saturates_may_be_wrong(tmp_path, capsys, target):
    assert warn_of_other_cpu(tmp_path / "m.onnx", spec(target, NEW), OLD)
    said = " ".join(capsys.readouterr().err.split())
    assert f"was made for {target}, and an old CPU adds products in 16 bits" in said


@pytest.mark.parametrize(("target", "cpu"), [("any", OLD), ("x86-vnni", NEW), ("arm64", ARM)])
def test_where_it_was_verified_nothing_is_said(tmp_path, capsys, target, cpu):
    assert warn_of_other_cpu(tmp_path / "m.onnx", spec(target, cpu), cpu) is None
    assert capsys.readouterr().err == ""


def test_a_file_for_every_cpu_is_only_said_to_be_timed_elsewhere(tmp_path, capsys):
    assert warn_of_other_cpu(tmp_path / "m.onnx", spec("any", NEW), OLD)
    assert "was verified and timed on another CPU" in " ".join(capsys.readouterr().err.split())
