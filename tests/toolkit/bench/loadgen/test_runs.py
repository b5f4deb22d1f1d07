"""The load generator itself, driving real sessions."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from edgeclf.runtime.errors import DeviceUnavailableError, InputError, ModelFileError
from edgeclf.runtime.session.devices import DeviceChoice
from edgeclf.runtime.timing.early_stopping import estimate_rank, percentile_estimate
from edgeclf.toolkit.bench.loadgen.log import DETAIL, compare_with_log, read_log, send_delays_s
from edgeclf.toolkit.bench.loadgen.process import LoadgenProcess, SystemSetup
from edgeclf.toolkit.bench.loadgen.scenario_rules import RULES, SCENARIOS, scenario_figures
from edgeclf.toolkit.bench.loadgen.sut import RunRequest

pytestmark = pytest.mark.slow

pytest.importorskip("mlperf_loadgen")
BOUND_MS = 200.0


@pytest.fixture(scope="module")
def model(make_colour_model, tmp_path_factory):
    """Some hundred microseconds an image, so that the clocks of two languages have something to measure."""
    return make_colour_model(tmp_path_factory.mktemp("model") / "colours.onnx", size_hw=(240, 240))


@pytest.fixture(scope="module")
def process(model):
    setup = SystemSetup(model, DeviceChoice("cpu"), threads=1, workers=2, batch_size=4)
    with LoadgenProcess(setup) as running:
        yield running


def request_of(scenario, folder, **changes):
    folder.mkdir(exist_ok=True)
    request = RunRequest(
        scenario,
        min_duration_s=0.3,
        min_queries=300 if scenario == "offline" else RULES[scenario].min_queries,
        log_folder=folder,
        expected_s=1e-4,
        expected_per_s=300.0,
        latency_bound_ms=BOUND_MS if scenario == "server" else 0.0,
    )
    return replace(request, **changes)


def run(process, request):
    record = process.run(request, lambda _seconds: None)
    bound_ms = BOUND_MS if request.scenario == "server" else None
    return record, scenario_figures(
        request.scenario, record.start_s, record.end_s, record.samples, latency_bound_ms=bound_ms
    )


def traced_ms(folder):
    """(queries,) latencies that the generator itself traced, one for each query."""
    text = (folder / "mlperf_log_trace.json").read_text()
    found = re.findall(r'"query_seq":(\d+).*?"complete_ns":(\d+)', text)
    ends = dict.fromkeys(range(1 + max(int(number) for number, _ in found)), 0)
    for number, nanoseconds in found:
        ends[int(number)] = max(ends[int(number)], int(nanoseconds))
    return np.array(list(ends.values())) / 1e6


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_from_its_own_latencies_we_compute_what_the_generator_does(process, tmp_path, scenario):
    request = request_of(scenario, tmp_path / scenario, traces=True)
    record, figures = run(process, request)
    log = read_log(request.log_folder, figures)
    latencies_ms = traced_ms(request.log_folder)
    # To the nanosecond: the same percentile, the same early-stopping estimate, the same number over the bound.
    theirs = scenario_figures(
        scenario,
        np.zeros(latencies_ms.size),
        latencies_ms / 1e3,
        record.samples,
        latency_bound_ms=BOUND_MS if scenario == "server" else None,
    )
    assert theirs.queries == figures.queries == log.queries
    if scenario == "offline":
        assert theirs.samples_per_s == pytest.approx(log.samples_per_s, rel=1e-4)
        return
    assert theirs.percentile_ms == pytest.approx(log.percentile_ms, abs=2e-6)
    if scenario == "server":
        assert theirs.overlatency == log.overlatency
        assert (theirs.overlatency <= theirs.allowed_overlatency) == log.early_stopping
    else:
        assert theirs.estimate_ms == pytest.approx(log.estimate_ms, abs=2e-6)
        assert log.early_stopping
        rank = estimate_rank(log.queries, RULES[scenario].percentile)
        assert f"discard {rank - 1} highest" in (request.log_folder / "mlperf_log_summary.txt").read_text()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_our_own_clock_sees_what_the_generators_does(process, tmp_path, scenario):
    # A machine that is busy elsewhere may interrupt between the two clocks, seldom in more than half of the queries.
    for attempt in range(3):
        request = request_of(scenario, tmp_path / f"{scenario}-{attempt}", traces=True)
        record, figures = run(process, request)
        log = read_log(request.log_folder, figures)
        queries = compare_with_log(figures, log)[0]
        assert (queries.name, queries.agrees) == ("queries", True)
        ours_ms, theirs_ms = (record.end_s - record.start_s) * 1e3, traced_ms(request.log_folder)
        if scenario == "server":
            # What it says it took to send a query is in no clock at this end.
            ours_ms += 1e3 * send_delays_s(request.log_folder)
        difference_ms = theirs_ms - ours_ms
        # Our stamps lie within the generator's.
        assert difference_ms.min() > -0.05
        if np.median(difference_ms) < max(0.25, 0.02 * np.median(theirs_ms)):
            break
    else:
        pytest.fail(f"in three runs the clocks were {np.median(difference_ms)} ms apart")


def test_figures_that_differ_are_found_out(process, tmp_path):
    request = request_of("single-stream", tmp_path / "logs")
    _, figures = run(process, request)
    log = read_log(request.log_folder, figures)
    more = max(0.3, 0.03 * log.mean_ms)
    wrong = {
        "queries": replace(figures, queries=figures.queries + 1),
        "mean ms": replace(figures, mean_ms=log.mean_ms + more),
        "percentile ms": replace(figures, percentile_ms=1.03 * log.percentile_ms + 0.3),
        "early-stopping estimate ms": replace(figures, estimate_ms=None),
    }
    for name, changed in wrong.items():
        assert not {item.name: item for item in compare_with_log(changed, log)}[name].agrees


def test_without_a_whole_trace_no_delay_is_known(process, tmp_path):
    request = request_of("server", tmp_path / "logs", traces=True)
    record, _ = run(process, request)
    delays_s = send_delays_s(request.log_folder)
    assert delays_s.shape == record.start_s.shape
    assert delays_s.min() >= 0
    trace = request.log_folder / "mlperf_log_trace.json"
    trace.write_text(trace.read_text().replace('"query_seq":5,', '"query_seq":999999,'))
    assert send_delays_s(request.log_folder) is None
    assert send_delays_s(tmp_path) is None


def test_a_server_that_counts_otherwise_is_found_out(process, tmp_path):
    request = request_of("server", tmp_path / "logs")
    _, figures = run(process, request)
    log = read_log(request.log_folder, figures)
    same = replace(
        figures,
        mean_ms=log.mean_ms,
        percentile_ms=log.percentile_ms,
        samples_per_s=log.samples_per_s,
        overlatency=log.overlatency,
    )
    assert all(item.agrees for item in compare_with_log(same, log))
    wrong = {
        "mean ms": replace(same, mean_ms=1.06 * log.mean_ms + 1.1),
        "samples/s": replace(same, samples_per_s=0.97 * log.samples_per_s),
        "queries over the bound": replace(same, overlatency=log.overlatency + figures.queries // 20),
    }
    for name, changed in wrong.items():
        assert [item.name for item in compare_with_log(changed, log) if not item.agrees] == [name]


def test_a_log_that_is_not_whole_is_no_log(process, tmp_path):
    request = request_of("single-stream", tmp_path / "logs")
    _, figures = run(process, request)
    path = request.log_folder / DETAIL
    path.write_text("".join(line for line in path.open() if "result_validity" not in line))
    with pytest.raises(InputError, match="result_validity"):
        read_log(request.log_folder, figures)
    with pytest.raises(InputError, match=r"(?i)no such file"):
        read_log(tmp_path, figures)


def test_every_sample_of_the_offline_query_is_classified(process, tmp_path):
    request = request_of("offline", tmp_path / "offline", min_queries=321, min_duration_s=0.05)
    record, figures = run(process, request)
    assert record.samples >= 321
    text = (request.log_folder / DETAIL).read_text()
    generated = next(json.loads(line[9:])["value"] for line in text.splitlines() if "generated_samples_per" in line)
    assert (figures.queries, record.samples) == (1, generated)


def test_what_cannot_be_opened_in_the_process_is_the_same_error_here(tmp_path, model):
    setup = SystemSetup(tmp_path / "missing.onnx", DeviceChoice("cpu"), threads=1, workers=1, batch_size=1)
    with pytest.raises(ModelFileError, match="no such file") as caught, LoadgenProcess(setup):
        pass
    assert str(caught.value).count(".") <= 3
    absent = SystemSetup(model, DeviceChoice("coreml"), threads=1, workers=1, batch_size=1)
    with pytest.raises(DeviceUnavailableError, match="coreml"), LoadgenProcess(absent):
        pass


def test_a_process_that_dies_is_told(model, tmp_path):
    setup = SystemSetup(model, DeviceChoice("cpu"), threads=1, workers=1, batch_size=1)
    with LoadgenProcess(setup) as dying:
        request = request_of("single-stream", tmp_path / "logs", min_duration_s=60.0)

        def kill(seconds):
            if seconds > 0.3:
                dying._process.kill()

        with pytest.raises(DeviceUnavailableError, match="ended: got signal 9"):
            dying.run(request, kill)


def test_the_estimate_of_a_query_is_what_it_takes(process):
    assert 0 < process.query_s(1) < process.query_s(64)
    assert process.samples_per_s(0.2) > 0
    assert percentile_estimate([process.query_s(1)], 0.9) is None
