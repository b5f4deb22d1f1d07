"""Queries that the load generator prepares before a run: refused with a sentence where they do not fit."""

import pytest

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.progress import no_progress
from edgeclf.toolkit.bench.loadgen import runs
from edgeclf.toolkit.bench.loadgen.memory import available_memory_bytes, check_fits
from edgeclf.toolkit.bench.loadgen.scenario_rules import RULES, SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_model_of_ten_milliseconds_fits_for_ten_minutes_and_a_day_of_a_fast_one_does_not(scenario):
    rules = RULES[scenario]
    check_fits(scenario, rules.min_duration_s, 0.01, rules.samples_per_query, 1 << 30)
    with pytest.raises(UsageError) as refused:
        check_fits(scenario, 86_400.0, 1e-5, rules.samples_per_query, 8 << 30)
    assert "GB, expected at most " in str(refused.value)
    # The longest that is named is one that fits, up to its rounding.
    longest_s = float(str(refused.value).split("at most ")[1].split(" s")[0])
    check_fits(scenario, 0.99 * longest_s, 1e-5, rules.samples_per_query, 8 << 30)
    with pytest.raises(UsageError):
        check_fits(scenario, 1.01 * longest_s, 1e-5, rules.samples_per_query, 8 << 30)
    # Where nothing is known of the memory, nothing is refused.
    check_fits(scenario, 86_400.0, 1e-5, rules.samples_per_query, None)


class BegunError(Exception):
    """A run that passed all checks."""


class FastProcess:
    """A system that answers so many queries a second, and ends each run where it begins."""

    def __init__(self, per_s):
        self.per_s = per_s

    def query_s(self, images):
        return images / self.per_s

    def samples_per_s(self, seconds):
        return self.per_s

    def run(self, request, waiting):
        raise BegunError(request.min_duration_s)


def begun(scenario, folder, monkeypatch, *, available, per_s=1e5, **changes):
    """Shortest duration of the first run of a scenario, in seconds."""
    monkeypatch.setattr(runs, "available_memory_bytes", lambda: available)
    runner = runs.ScenarioRunner(FastProcess(per_s), folder, None, no_progress)
    plan = runs.ScenarioPlan(scenario, RULES[scenario], RULES[scenario], 0.1, 15.0, **changes)
    with pytest.raises(BegunError) as ended:
        runner.run(plan)
    return ended.value.args[0]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_default_duration_gives_way_to_the_memory_and_one_that_was_asked_for_is_refused(
    scenario, tmp_path, monkeypatch
):
    whole = begun(scenario, tmp_path, monkeypatch, available=1 << 50, may_be_shorter=True)
    assert whole == begun(scenario, tmp_path, monkeypatch, available=None, may_be_shorter=True)
    assert begun(scenario, tmp_path, monkeypatch, available=1 << 28, may_be_shorter=True) < whole / 2
    # Server's search, a twentieth of the whole, has room where the whole has none.
    if scenario != "server":
        with pytest.raises(UsageError, match="do not fit into the memory"):
            begun(scenario, tmp_path, monkeypatch, available=1 << 28, may_be_shorter=False)
    with pytest.raises(UsageError, match="do not fit into the memory"):
        begun(scenario, tmp_path, monkeypatch, available=1 << 10, may_be_shorter=True)


@pytest.mark.slow
def test_a_shorter_run_says_that_it_is_none_by_the_rules(call_edgeclf, make_colour_model, tmp_path, monkeypatch):
    pytest.importorskip("mlperf_loadgen")
    monkeypatch.setattr(runs, "available_memory_bytes", lambda: 20_000_000)
    model = make_colour_model(tmp_path / "colours.onnx", size_hw=(240, 240))
    done = call_edgeclf("bench", model, "--scenario", "single-stream", "--json")
    # On a busy machine two clocks may not agree; the document is printed all the same.
    assert done.code in {0, 4}, done.err
    (result,) = done.json()["scenarios"]
    assert result["claim"].startswith("MLPerf-style, not by its rules: ")
    assert "of 600 s" in result["claim"]
    assert "fit into the memory" in result["remark"]
    assert result["figures"]["duration_s"] < 600


def test_the_memory_that_is_left_is_read_where_the_system_tells(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24689764 kB\nMemFree:        1 kB\nMemAvailable:   22020096 kB\n")
    assert available_memory_bytes(meminfo) == 22020096 * 1024
    for text in ("", "MemTotal: 1 kB\n", "MemAvailable:\n", "MemAvailable: many kB\n"):
        meminfo.write_text(text)
        assert available_memory_bytes(meminfo) is None
    assert available_memory_bytes(tmp_path / "none") is None


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_duration_of_months_is_one_sentence(run_edgeclf, make_colour_model, tmp_path, scenario):
    pytest.importorskip("mlperf_loadgen")
    if available_memory_bytes() is None:
        pytest.skip("this system does not tell how much memory is left")
    model = make_colour_model(tmp_path / "colours.onnx", size_hw=(240, 240))
    done = run_edgeclf("bench", model, "--scenario", scenario, "--quick", "--duration", "4e9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "do not fit into the memory" in done.stderr
    assert done.stderr.count("\n") == 1
