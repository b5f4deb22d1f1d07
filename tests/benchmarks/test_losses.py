"""The table of losses: what is rounded alone is rounded and nothing else, and fixed point takes back what it should."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.recipe import QuantizationRecipe

from ..export.int8.networks import SIZE, Builder


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.int8.losses"), importlib.import_module("benchmarks.int8.rounded")


@pytest.fixture(scope="module")
def model():
    """A stem, a depthwise layer and a projection that are cheap beside what follows."""
    b = Builder(2)
    b.conv(8, strides=[2, 2])
    b.relu(6.0)
    b.conv(8, groups=8)
    b.relu(6.0)
    entry = b.conv(8, 1)
    b.conv(96)
    b.relu(6.0)
    b.conv(8, 1)
    b.x = b.op("Add", b.x, entry)
    return b.finish()


def draw_images(rng, count=24):
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def calibrate(model, images):
    return Calibrator(model, images).network(QuantizationRecipe(fixed_point=False))


def test_nothing_rounded_is_the_float_network_and_each_value_costs_something(benchmarks, model, rng):
    _, rounded = benchmarks
    images = draw_images(rng)
    network = calibrate(model, images)
    wanted = rounded.run_model(model, images)
    reference = rounded.Reference(images, wanted)
    assert reference.share(wanted) == 0.0
    assert reference.share_of(rounded.rounded_model(network)) < 1e-9
    values = rounded.rounded_values(network)
    # The pixels are bytes already; the pooled features keep their codes when they are flattened.
    assert len(values) == 7
    for value in values:
        assert 1e-9 < reference.share_of(rounded.rounded_model(network, {value})) < 0.1


def test_a_rounded_value_has_the_values_that_its_codes_stand_for(benchmarks, model, rng):
    _, rounded = benchmarks
    images = draw_images(rng)
    network = calibrate(model, images)
    value = next(iter(rounded.rounded_values(network)))
    rounded_one = rounded.rounded_model(network, {value})
    rounded_one.graph.output.insert(0, type(rounded_one.graph.output[0])(name=value))
    given = network.params[value]
    codes = rounded.run_model(rounded_one, images) / given.scale + given.zero_point
    assert np.allclose(codes, np.rint(codes), atol=1e-3)
    assert codes.min() >= -1e-3
    assert codes.max() <= 255 + 1e-3
    # More than clipping is left of it.
    assert len(np.unique(np.rint(codes))) > 20


def test_layers_fitted_alone_cost_less_than_those_that_take_back_the_errors_of_others(benchmarks, model, rng):
    _, rounded = benchmarks
    images = draw_images(rng, 48)
    network = calibrate(model, images)
    reference = rounded.Reference(images, rounded.run_model(model, images))
    alone = rounded.layers_fitted_alone(network, images)
    assert alone.keys() == network.layers.keys()
    cost = {
        name: reference.share_of(rounded.rounded_model(network, (), layers))
        for name, layers in (("alone", alone), ("in the file", network.layers))
    }
    assert 1e-9 < cost["alone"] < 1.2 * cost["in the file"]


def test_fixed_point_takes_back_what_the_first_layers_cost(benchmarks, model, rng):
    losses, _ = benchmarks
    found = losses.measure(losses.Case("small", model, draw_images(rng), draw_images(rng, 40)), 32, methods=False)
    parts = {part.name: part for part in found.parts}
    assert len(found.fixed_point) == 2
    # In fixed point, not in float: what is left is little, and not nothing.
    assert 0 < parts["first layers"].after < parts["first layers"].before / 10
    assert parts["  their outputs in 8 bits"].after is None
    # What lies behind them costs the same as before.
    for name in ("  residual adds", "  pooled features", "  last dense layer"):
        assert parts[name].after == parts[name].before
    assert len(found.values) == 7
    assert list(found.values.values()) == sorted(found.values.values(), reverse=True)
    assert found.put_back["none"] == pytest.approx(parts["the file"].before)
    assert {"first 1", "first 3", "last 3"} < found.put_back.keys()


def test_a_run_or_photographs_must_be_given(benchmarks, monkeypatch, capsys):
    losses, _ = benchmarks
    monkeypatch.setattr("sys.argv", ["losses.py"])
    with pytest.raises(SystemExit) as failed:
        losses.main()
    assert failed.value.code == 2
    assert "RUN or --images" in capsys.readouterr().err
