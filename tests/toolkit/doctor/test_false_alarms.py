"""The simulation of the doctor's false alarms: it draws what every check looks at, at the level that the check states."""

import importlib
from pathlib import Path

import pytest

from edgeclf.toolkit.doctor.findings import CAUSES
from edgeclf.toolkit.doctor.registry import all_checks

ROOT = Path(__file__).parents[3]


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.doctor.false_alarms")


def drawn_by(simulation, check):
    return {name: kind for name, kind in simulation.KINDS.items() if any(other is check for other in kind.checks)}


def test_every_check_is_simulated_or_no_chance_enters_it(simulation):
    checks = {(check.theme, check.name): check for check in all_checks()}
    assert set(simulation.NO_CHANCE) <= set(checks)
    assert all(simulation.NO_CHANCE.values())
    for name, check in checks.items():
        kinds = drawn_by(simulation, check).values()
        if name in simulation.NO_CHANCE:
            assert not any(set(check.causes) & set(kind.levels) for kind in kinds), name
        else:
            assert kinds, name
            assert all(set(check.causes) <= set(kind.levels) for kind in kinds), name


def test_the_levels_that_are_simulated_are_those_that_are_stated(simulation):
    counted = 0
    for check in all_checks():
        if (check.theme, check.name) in simulation.NO_CHANCE:
            continue
        for kind in drawn_by(simulation, check).values():
            for level in (level for cause in check.causes for level in kind.levels[cause]):
                assert f"{level:g}" in check.condition, (check.name, level)
                counted += 1
    assert counted > 20
    assert {cause for kind in simulation.KINDS.values() for cause in kind.levels} <= set(CAUSES)
