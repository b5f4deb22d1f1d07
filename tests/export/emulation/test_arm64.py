import re

import numpy as np
import pytest

from edgeclf.export.emulation.arm64 import CORES, check_cores, get_core, run_emulated
from edgeclf.export.emulation.comparison import compare_outputs
from edgeclf.export.emulation.sysroot import EMULATOR, check_tools, prepare_sysroot
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.runtime.errors import DeviceUnavailableError, MissingPackageError, UsageError
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession


def test_a_core_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(UsageError, match="cortex-a72"):
        get_core("cortex-z9")
    assert {core.has_dot_products for core in CORES.values()} == {True, False}


@pytest.mark.parametrize(
    ("script", "missing"),
    [
        ("printf 'Available CPUs:\\n  cortex-a53\\n  cortex-a72\\n  max\\n'", "cortex-a76"),
        ("printf 'Available CPUs:\\n  cortex-a53\\n  cortex-a72\\n  cortex-a76\\n  max\\n'", None),
        # A version that lists them in other words is tried.
        ("echo cpus:a53,a72", None),
    ],
)
def test_a_core_that_the_emulator_does_not_have_is_one_sentence(tmp_path, monkeypatch, script, missing):
    (tmp_path / EMULATOR).write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / EMULATOR).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cores = [CORES["cortex-a72"], CORES["cortex-a76"]]
    if missing is None:
        check_cores(cores)
        return
    with pytest.raises(
        DeviceUnavailableError, match="has no cortex-a76: got QEMU with cortex-a53, cortex-a72, max"
    ) as caught:
        check_cores(cores)
    assert "pass --core cortex-a53" in str(caught.value)
    check_cores(cores[:1])


def test_a_missing_emulator_is_left_to_those_who_need_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    check_cores(list(CORES.values()))


def test_outputs_are_compared_bit_by_bit():
    here = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    there = here.copy()
    core = CORES["max"]
    assert compare_outputs(here, there, core, [1, 0]).identical
    there[0] = np.nextafter(there[0], np.float32(1))
    facts = compare_outputs(here, there, core, [1, 0])
    assert not facts.identical
    assert facts.parity.agreement == 1.0
    assert 0 < facts.parity.max_error < 1e-6


@pytest.fixture(scope="module")
def sysroot(tmp_path_factory):
    try:
        check_tools()
    except MissingPackageError as error:
        pytest.skip(f"no emulator here: {error}")
    try:
        return prepare_sysroot(tmp_path_factory.mktemp("cache"), no_progress)
    except DeviceUnavailableError as error:
        # A machine whose apt or pip reaches no server; what was downloaded and cannot be used is a failure.
        if re.match("cannot (list|download) ", error.what):
            pytest.skip(f"apt or pip cannot download here: {error}")
        raise


@pytest.mark.slow
def test_arm_cores_give_the_bits_of_this_machine(sysroot, trained, tmp_path):
    path = tmp_path / "int8.onnx"
    path.write_bytes(quantize_int8(onnx_from_keras(trained.model), trained.train_rgb[::4]).model.SerializeToString())
    images = trained.held_out_rgb[::6]
    session = ModelSession(path, threads=1, foreign=ForeignModel())
    here = np.concatenate([session.run(images[i : i + 1]) for i in range(len(images))])
    for name in ("cortex-a53", "cortex-a76"):
        there = run_emulated(session, images, CORES[name], sysroot, no_progress)
        # The integers are the same; the softmax is float, and its last bit is each CPU's own.
        np.testing.assert_allclose(there, here, atol=2e-7)


@pytest.mark.slow
def test_a_file_that_the_core_cannot_run_is_an_error(sysroot, tmp_path):
    from ...runtime.session.foreign.tiny import SIZE_HW, Tiny

    session = ModelSession(Tiny(dtype="uint8", layout="NHWC").write(tmp_path / "m.onnx"), foreign=ForeignModel())
    # Opened here, and gone before the core reads it.
    session.path.write_bytes(b"no model")
    with pytest.raises(DeviceUnavailableError, match="could not run"):
        run_emulated(session, np.zeros((1, *SIZE_HW, 3), np.uint8), CORES["max"], sysroot, no_progress)


@pytest.mark.slow
def test_a_foreign_file_is_run_on_arm_as_it_is_used_here(sysroot, tmp_path):
    from ...randomness import fresh_rng
    from ...runtime.session.foreign.tiny import SIZE_HW, Tiny

    images = fresh_rng().integers(0, 256, (3, *SIZE_HW, 3), dtype=np.uint8)
    given = ForeignModel(scaling=PixelScaling((110.0,), (50.0,)), channels="bgr")
    # Float, BGR, four images at once, and one logit for two classes.
    for name, tiny in {"four": Tiny(batch=4, activation="logits"), "one": Tiny(classes=1, activation="logits")}.items():
        session = ModelSession(tiny.write(tmp_path / f"{name}.onnx"), threads=1, foreign=given)
        there = run_emulated(session, images, CORES["cortex-a72"], sysroot, no_progress)
        np.testing.assert_allclose(there, session.run(images), atol=1e-6)
