import os

import pytest

from edgeclf.runtime.errors import DeviceUnavailableError
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.timing.energy import EnergyMeter
from edgeclf.runtime.timing.latency import benchmark


def zone(root, number, name, energy_uj, range_uj=1_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_and_parts_of_them_are_not(tmp_path):
    first, second = zone(tmp_path, "0", "package-0", 100), zone(tmp_path, "1", "package-1", 500)
    core, board = zone(tmp_path, "0:0", "core", 7), zone(tmp_path, "2", "psys", 9)
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    for path, value in ((first, 400), (second, 600), (core, 9000), (board, 9000)):
        path.write_text(str(value))
    assert meter.joules_since(before) == pytest.approx(400e-6)


def test_a_counter_that_began_anew_is_taken_on(tmp_path):
    path = zone(tmp_path, "0", "package-0", 999_900)
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    path.write_text("300")
    assert meter.joules_since(before) == pytest.approx(400e-6)
    assert meter.joules_since(meter.read()) == 0


def test_energy_per_image_is_reported(tmp_path, colour_model):
    path = zone(tmp_path, "0", "package-0", 0, 10**12)
    session = ModelSession(colour_model, device="cpu", threads=1)
    meter = EnergyMeter(tmp_path)
    # The counter moves on by 3 J between the first reading and the end.
    result, _ = benchmark(
        session,
        batch_size=2,
        duration_s=0.3,
        min_queries=5,
        meter=meter,
        progress=lambda *_: path.write_text("3000000"),
    )
    images = 2 * result.query.samples
    assert result.energy_mj_per_image == pytest.approx(3000 / images)
    assert benchmark(session, duration_s=0, min_queries=1)[0].energy_mj_per_image is None


def test_a_machine_without_counters_says_so(tmp_path):
    with pytest.raises(DeviceUnavailableError, match="no CPU package under") as caught:
        EnergyMeter(tmp_path / "nothing")
    assert caught.value.exit_code == 5
    zone(tmp_path, "0", "psys", 1)
    with pytest.raises(DeviceUnavailableError, match="no CPU package"):
        EnergyMeter(tmp_path)


def test_a_counter_that_may_not_be_read_says_how(tmp_path):
    path = zone(tmp_path, "0", "package-0", 1)
    path.chmod(0)
    if os.access(path, os.R_OK):
        # root may read everything: a folder in its place is just as unreadable.
        path.unlink()
        path.mkdir()
    with pytest.raises(DeviceUnavailableError, match="root"):
        EnergyMeter(tmp_path)
