"""Many images: in order, with the same results whichever way the CPUs are shared, and with bounded memory."""

import gc
import random
import threading
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeclf.runtime.batch.jobs import Job, classify_job
from edgeclf.runtime.batch.pipeline import classify_jobs
from edgeclf.runtime.errors import ImageError, UsageError
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.preprocess import load_image
from edgeclf.runtime.session.session import ModelSession

LABELS = ("red", "green", "blue")


class Elsewhere:
    """A model that is no ONNX file, as the Keras model that an export is compared with."""

    def __init__(self, session):
        self.spec = session.spec
        self._session = session
        self.threads = set()

    def run(self, images_rgb):
        self.threads.add(threading.get_ident())
        return self._session.run(images_rgb)


def image(number):
    pixels = np.random.default_rng(number).integers(0, 90, (20 + number % 7, 30, 3), dtype=np.uint8)
    pixels[..., 2 - number % 3] += 120  # BGR
    return pixels


def jobs(count, *, failing=()):
    def load(number):
        time.sleep(random.Random(number).random() * 2e-3)
        if number in failing:
            raise ImageError(f"no {number}")
        return image(number)

    return [Job(str(number), partial(load, number)) for number in range(count)]


@pytest.fixture
def two_cpus(monkeypatch):
    """As on a machine with two CPUs, wherever the tests run."""
    for module in ("session.session", "batch.pipeline"):
        monkeypatch.setattr(f"edgeclf.runtime.{module}.usable_cpus", lambda: 2)


def sessions(path):
    """By strategy: on a second session or on its own, prefetch, and a model from elsewhere."""
    return {
        "data-parallel": ModelSession(path),
        "data-parallel on one thread": ModelSession(path, threads=1),
        "prefetch": ModelSession(path, threads=2),
        "prefetch elsewhere": Elsewhere(ModelSession(path, threads=1)),
    }


def test_every_way_gives_the_same_results_in_the_order_of_the_jobs(colour_model, two_cpus):
    failing = {0, 7, 8, 9, 10, 11, 399}
    found = {}
    for name, session in sessions(colour_model).items():
        stream = classify_jobs(session, jobs(400, failing=failing))
        outcomes = list(stream)
        assert [outcome.source for outcome in outcomes] == [str(number) for number in range(400)]
        assert {int(outcome.source) for outcome in outcomes if outcome.error} == failing
        assert all(str(outcome.error) == f"no {outcome.source}." for outcome in outcomes if outcome.error)
        good = [outcome for outcome in outcomes if not outcome.error]
        assert [outcome.prediction.label for outcome in good] == [LABELS[int(o.source) % 3] for o in good]
        assert all(outcome.latency_ms > 0 for outcome in good)
        found[name] = np.stack([outcome.prediction.probabilities for outcome in good])
        assert stream.strategy.name == name.split()[0]
    for name, probabilities in found.items():
        np.testing.assert_allclose(probabilities, found["prefetch"], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("count", "strategy"), [(0, "prefetch"), (7, "prefetch"), (8, "data-parallel")])
def test_the_model_is_opened_once_more_only_where_every_worker_has_a_batch(colour_model, two_cpus, count, strategy):
    session = ModelSession(colour_model)
    stream = classify_jobs(session, jobs(count))
    assert [outcome.source for outcome in stream] == [str(number) for number in range(count)]
    assert stream.strategy.name == strategy
    assert stream.strategy.threads == (session.threads if strategy == "prefetch" else 1)
    assert ("too few images" in stream.strategy.why) == (strategy == "prefetch")


@pytest.mark.parametrize("frames", [1, 10, 101])
def test_photographs_behind_a_videos_frames_keep_their_order(colour_model, two_cpus, frames):
    mixed = [
        Job(job.source, job.load, frame=number if number < frames else None) for number, job in enumerate(jobs(200))
    ]
    outcomes = list(classify_jobs(ModelSession(colour_model), mixed))
    assert [(outcome.source, outcome.frame) for outcome in outcomes] == [(job.source, job.frame) for job in mixed]


def test_a_model_from_elsewhere_runs_in_the_calling_thread(colour_model):
    model = Elsewhere(ModelSession(colour_model, threads=1))
    list(classify_jobs(model, jobs(30), batch_size=3, workers=3))
    assert model.threads == {threading.get_ident()}


def test_data_parallel_uses_all_workers_and_a_slow_image_stops_only_its_own(colour_model):
    loading = set()
    far_ahead = threading.Event()

    def first():
        # As slow as it takes the other worker to be six batches on.
        assert far_ahead.wait(60)
        return image(0)

    def watched(job):
        def load():
            loading.add(threading.get_ident())
            if job.source == "13":
                far_ahead.set()
            return first() if job.source == "0" else job.load()

        return Job(job.source, load)

    session = ModelSession(colour_model, threads=1)
    outcomes = list(classify_jobs(session, map(watched, jobs(48)), batch_size=2, workers=2))
    assert [outcome.source for outcome in outcomes] == [str(number) for number in range(48)]
    assert len(loading) == 2


class Clock:
    """In place of `time`: every thread has a clock of its own that only `sleep` moves."""

    def __init__(self):
        self._local = threading.local()

    def perf_counter(self):
        return getattr(self._local, "now_s", 0.0)

    def sleep(self, seconds):
        self._local.now_s = self.perf_counter() + seconds


@pytest.mark.parametrize("threads", [1, 2])
def test_latency_is_of_the_image_and_its_inference_not_of_waiting(colour_model, monkeypatch, threads):
    clock = Clock()
    monkeypatch.setattr("edgeclf.runtime.batch.jobs.time", clock)
    session = ModelSession(colour_model, threads=threads)
    run = session.run
    monkeypatch.setattr(session, "run", lambda images_rgb: clock.sleep(0.05) or run(images_rgb))

    def load(number):
        clock.sleep(0.2 if number in {1, 5} else 0.01)
        return image(number)

    timed = [Job(str(number), partial(load, number)) for number in range(8)]
    latencies = [outcome.latency_ms for outcome in classify_jobs(session, timed, batch_size=4, workers=2)]
    assert latencies == pytest.approx([60, 250, 60, 60, 60, 250, 60, 60])


def test_a_bug_in_a_loader_comes_in_its_place(colour_model):
    for session in sessions(colour_model).values():
        stream = classify_jobs(session, [*jobs(5), Job("x", lambda: 1 // 0), *jobs(30)], batch_size=1, workers=2)
        assert [next(stream).source for _ in range(5)] == list("01234")
        with pytest.raises(ZeroDivisionError):
            next(stream)


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("edgeclf")]


def test_whoever_stops_early_leaves_nothing_running(colour_model, two_cpus):
    before = cv2.getNumThreads()
    for session in sessions(colour_model).values():
        stream = classify_jobs(session, jobs(500))
        next(stream)
        assert own_threads()
        stream.close()
        assert not own_threads()
        dropped = classify_jobs(session, jobs(500))
        next(dropped)
        del dropped
        gc.collect()
        assert not own_threads()
    assert cv2.getNumThreads() == before


def test_what_is_pulled_and_open_stays_bounded_over_thousands_of_files(colour_model, tmp_path, two_cpus):
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), image(number))
    pulled = 0

    def endless():
        nonlocal pulled
        while True:
            path = paths[pulled % 9]
            pulled += 1
            yield Job(str(path), partial(load_image, path))

    stream = classify_jobs(ModelSession(colour_model), endless())
    open_files, ahead = set(), set()
    for done in range(1, 4001):
        assert next(stream).prediction.label == LABELS[(done - 1) % 9 % 3]
        ahead.add(pulled - done)
        if done > 500 and done % 50 == 0:
            open_files.add(len(list(Path("/proc/self/fd").iterdir())))
    stream.close()
    # 8 batches of 4 for each worker can wait for a slower one before them, 4 a worker are not yet in a batch.
    assert max(ahead) <= 9 * 4 * 2
    assert max(open_files) - min(open_files) <= 3  # the files the two workers read at that moment


def test_a_file_that_was_replaced_is_not_opened_a_second_time(colour_model, make_colour_model, tmp_path, two_cpus):
    path = tmp_path / "m.onnx"
    path.write_bytes(colour_model.read_bytes())
    session = ModelSession(path)
    make_colour_model(tmp_path / "other.onnx", spec_changes={"labels": ("a", "b", "c")}).replace(path)
    stream = classify_jobs(session, jobs(100))
    assert [outcome.prediction.label for outcome in stream] == [LABELS[number % 3] for number in range(100)]
    assert "changed since" in stream.strategy.why
    assert stream.strategy.name == "prefetch"


def test_one_job_at_once(colour_model):
    session = ModelSession(colour_model, threads=1)
    good, bad = (classify_job(session, job) for job in jobs(2, failing={1}))
    assert good.prediction.label == "red"
    assert (bad.prediction, str(bad.error)) == (None, "no 1.")


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_counts_below_one_are_refused(colour_model, options):
    with pytest.raises(UsageError, match="expected 1 to"):
        classify_jobs(ModelSession(colour_model, threads=1), [], **options)


def test_limits_of_opencvs_pool_may_end_in_any_order():
    cv2.setNumThreads(3)
    first, second = opencv_threads_at_most(2), opencv_threads_at_most(1)
    first.__enter__()
    assert cv2.getNumThreads() == 2
    second.__enter__()
    assert cv2.getNumThreads() == 1
    first.__exit__(None, None, None)
    assert cv2.getNumThreads() == 1
    second.__exit__(None, None, None)
    assert cv2.getNumThreads() == 3
