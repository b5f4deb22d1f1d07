import os

import pytest

from edgeclf.runtime.cpus import CpuInfo, cpu_info, isa_difference, usable_cpus

AFFINITY = len(os.sched_getaffinity(0))


def test_without_a_quota_the_affinity_counts(tmp_path):
    assert usable_cpus(tmp_path) == AFFINITY


@pytest.mark.parametrize("text", ["max 100000\n", "", "nonsense", "100000 0\n", "-1 100000"])
def test_a_v2_file_without_a_limit_changes_nothing(tmp_path, text):
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cpus(tmp_path) == AFFINITY


@pytest.mark.parametrize(("quota", "cpus"), [(10_000, 1), (100_000, 1), (100_001, 2), (150_000, 2), (10_000_000, 99)])
def test_a_v2_quota_limits_and_rounds_up(tmp_path, quota, cpus):
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_cpus(tmp_path) == min(cpus, AFFINITY)


def test_a_v1_quota_limits(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(tmp_path) == 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cpus(tmp_path) == AFFINITY


def test_this_cpu_is_described():
    info = cpu_info()
    assert info.model
    assert info.usable_cpus >= 1
    assert list(info.isa_flags) == sorted(set(info.isa_flags))
    assert info.to_json()["isa_flags"] == list(info.isa_flags)
    if info.architecture == "x86_64":
        assert "sse4_2" in info.isa_flags


HERE = CpuInfo("here", "x86_64", ("avx", "avx2"), 2)


def test_the_same_flags_differ_in_nothing():
    assert isa_difference({"model": "there", "isa_flags": ["avx2", "avx"]}, HERE) is None


@pytest.mark.parametrize("record", [None, {}, {"isa_flags": None}, {"isa_flags": "avx"}])
def test_without_a_record_nothing_is_said(record):
    assert isa_difference(record, HERE) is None


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        (["avx", "avx2", "avx512_vnni"], "next to there, here lacks avx512_vnni"),
        (["avx"], "next to there, here has avx2 besides"),
        (["avx", "asimd"], "next to there, here lacks asimd and has avx2 besides"),
    ],
)
def test_other_flags_are_named(flags, phrase):
    assert isa_difference({"model": "there", "isa_flags": flags}, HERE) == phrase


def test_the_limit_of_every_group_above_counts(tmp_path, monkeypatch):
    inner = tmp_path / "machine.slice" / "service" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "machine.slice" / "cpu.max").write_text("100000 100000\n")
    (inner / "cpu.max").write_text("9900000 100000\n")
    monkeypatch.setattr("edgeclf.runtime.cpus._own_cgroups", lambda: ("machine.slice/service/inner", ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    assert usable_cpus(tmp_path) == 1
    (tmp_path / "machine.slice" / "cpu.max").write_text("250000 100000\n")
    assert usable_cpus(tmp_path) == 3
    (tmp_path / "machine.slice" / "cpu.max").unlink()
    assert usable_cpus(tmp_path) == 64


def test_the_limit_of_this_processs_own_v1_group_counts(tmp_path, monkeypatch):
    folder = tmp_path / "cpu" / "jobs" / "7"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("150000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr("edgeclf.runtime.cpus._own_cgroups", lambda: ("", "jobs/7"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    assert usable_cpus(tmp_path) == 2
