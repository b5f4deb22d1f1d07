"""Queries that the load generator prepares before a run: refused with a sentence where they do not fit."""

import pytest

from edgeclf.runtime.errors import UsageError
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
