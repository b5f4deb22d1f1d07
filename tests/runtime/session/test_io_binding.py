"""Inference through IO binding, on the CPU where there is no GPU, and batches of one shape."""

import threading

import numpy as np
import pytest

from edgeclf.runtime.batch.jobs import Job
from edgeclf.runtime.batch.pipeline import classify_jobs
from edgeclf.runtime.errors import DeviceUnavailableError
from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.runtime.session.io_binding import FIXED_SHAPE_PROVIDERS, BoundRuns
from edgeclf.runtime.session.opening import open_session
from edgeclf.runtime.session.session import ModelSession

HERE = sorted(FIXED_SHAPE_PROVIDERS & set(onnxruntime.get_available_providers()))


def batch(count, seed=None):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def bound(colour_model):
    return BoundRuns(open_session(colour_model, threads=1), "probabilities")


def test_bound_runs_give_what_plain_runs_give_for_any_number_of_shapes(bound, colour_model):
    plain = ModelSession(colour_model, threads=1)
    for count in (1, 8, 3, 8, 1, 2, 5, 7, 4, 1):
        images = batch(count)
        np.testing.assert_array_equal(bound.run(images), plain.run(images))


def test_a_result_stays_what_it_was(bound):
    first = bound.run(batch(4))
    kept = first.copy()
    bound.run(batch(4))
    np.testing.assert_array_equal(first, kept)


class CopyingBinding(onnxruntime.IOBinding):
    """Copies what is bound, as ONNX Runtime does where the first node runs on another device than the value is on.

    That is so with `device_id=1`, with DirectML, and where the first node of a GPU's graph runs on the CPU.
    """

    def bind_cpu_input(self, name, arr_on_cpu):
        super().bind_cpu_input(name, arr_on_cpu.copy())

    def bind_ortvalue_input(self, name, ortvalue):
        super().bind_cpu_input(name, ortvalue.numpy().copy())


def test_a_result_is_of_its_own_images_also_where_what_is_bound_is_copied(colour_model, monkeypatch, rng):
    opened, plain = open_session(colour_model, threads=1), ModelSession(colour_model, threads=1)
    monkeypatch.setattr(opened, "io_binding", lambda: CopyingBinding(opened))
    bound = BoundRuns(opened, "probabilities")
    for _ in range(3):
        images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        np.testing.assert_array_equal(bound.run(images), plain.run(images))
    # Rows that do not lie one behind the other, too.
    np.testing.assert_array_equal(bound.run(images[:, ::-1]), plain.run(images[:, ::-1]))


def test_threads_do_not_share_memory(bound, colour_model):
    plain = ModelSession(colour_model, threads=1)
    wrong = []

    def work(seed):
        images = batch(2, seed)
        wanted = plain.run(images)
        wrong.extend(seed for _ in range(100) if not np.array_equal(bound.run(images), wanted))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("count", [1, 5, 8, 9, 20])
def test_a_padded_batch_gives_one_row_an_image(colour_model, count):
    session, images = ModelSession(colour_model, threads=1), batch(count)
    np.testing.assert_allclose(session.run(images, pad_to=8), session.run(images), atol=1e-6)


def test_a_gpus_pipeline_asks_for_one_shape_only(colour_model, monkeypatch):
    session = ModelSession(colour_model, threads=1)
    session.provider = "CUDAExecutionProvider"
    shapes = []
    inner = session._run_exact
    monkeypatch.setattr(session, "_run_exact", lambda images: shapes.append(len(images)) or inner(images))
    stream = classify_jobs(session, [Job(str(i), lambda: batch(1)[0]) for i in range(21)])
    assert len(list(stream)) == 21
    assert set(shapes) == {8}
    assert stream.strategy.name == "prefetch"


@pytest.mark.gpu
@pytest.mark.parametrize("provider", sorted(FIXED_SHAPE_PROVIDERS))
def test_a_gpu_gives_what_the_cpu_gives_through_the_pipeline(colour_model, provider):
    if provider not in HERE:
        pytest.skip(f"this ONNX Runtime has no {provider}")
    try:
        gpu = ModelSession(colour_model, device="cuda")
    except DeviceUnavailableError as error:
        pytest.skip(f"needs a working NVIDIA GPU: {error}")
    if gpu.provider != provider:
        pytest.skip(f"the session runs on {gpu.provider}")
    frames = batch(21)
    outcomes = classify_jobs(gpu, [Job(str(i), lambda frame=frame: frame) for i, frame in enumerate(frames)])
    found = np.stack([outcome.prediction.probabilities for outcome in outcomes])
    # BGR frames of the input's size are the RGB input with its channels turned.
    np.testing.assert_allclose(found, ModelSession(colour_model, device="cpu").run(frames[..., ::-1].copy()), atol=1e-4)


def test_a_foreign_session_runs_in_bound_memory_too(rng, tmp_path, monkeypatch):
    from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
    from edgeclf.runtime.session.session import ModelSession

    from .foreign.tiny import SIZE_HW, Tiny

    # On a GPU every session does; here the CPU takes its place.
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    given = ForeignModel(scaling=PixelScaling((110.0, 120.0, 130.0), (50.0, 60.0, 70.0)), channels="bgr")
    for number, tiny in enumerate(
        [Tiny(), Tiny(dtype="float16", layout="NHWC"), Tiny(batch=4), Tiny(classes=1, activation="logits")]
    ):
        path = tiny.write(tmp_path / f"{number}.onnx")
        plain = ModelSession(path, foreign=given)
        with monkeypatch.context() as patched:
            patched.setattr(
                "edgeclf.runtime.session.session.FIXED_SHAPE_PROVIDERS", frozenset({"CPUExecutionProvider"})
            )
            bound = ModelSession(path, foreign=given)
        assert (plain._bound is None, bound._bound is None) == (True, False)
        for part in (images, images[:2], images):
            np.testing.assert_array_equal(bound.run(part), plain.run(part))
        other = bound.used_as(bound.use)
        np.testing.assert_array_equal(other.run(images), plain.run(images))
