from dataclasses import replace

import numpy as np
import pytest

import edgeclf.export.int8.calibrator as calibrator_module
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.float_prefix import choose_float_prefix, float_prefixes, longer_float_prefixes
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.search.search import search
from edgeclf.export.verify.parity import ParityFacts, ParityLimits, compare_probabilities
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.timing.comparison import Ratio


def run(model, images):
    return open_session_from_bytes(model.SerializeToString(), threads=1).run(None, {"image": images})[0]


@pytest.fixture(scope="module")
def calibrator(fp32, trained):
    return Calibrator(fp32, trained.train_rgb[::4])


def test_a_few_layers_from_the_first_on_are_looked_at():
    layers = [f"layer{number}" for number in range(50)]
    entrances = float_prefixes(layers)
    assert entrances[0] == ()
    assert entrances[-1] == tuple(layers[: len(entrances) - 1])
    assert 2 <= len(entrances) <= 10
    # Of a network of three layers none is an entrance: what is left would not be an int8 network.
    assert float_prefixes(layers[:3]) == [()]


def test_where_nothing_passes_prefixes_grow_to_half_of_the_layers():
    layers = [f"layer{number}" for number in range(50)]
    assert longer_float_prefixes(layers) == [tuple(layers[:count]) for count in (6, 12, 24)]
    assert longer_float_prefixes(layers[:20]) == [tuple(layers[:count]) for count in (5, 10)]
    assert longer_float_prefixes(layers[:3]) == []


def near(*medians, width=0.01):
    """Ratios with intervals of a quiet machine."""
    return [Ratio(median, median - width, median + width) for median in medians]


@pytest.mark.parametrize(
    ("ratios", "kept"),
    [
        (near(1.0, 1.2, 1.3, 1.4), 0),
        (near(1.0, 0.98, 0.99, 1.2), 2),
        (near(1.0, 1.004, 1.3, 1.3), 1),
        # Much faster is preferred to still closer.
        (near(1.0, 0.80, 0.95, 0.96), 1),
        (near(1.0, 0.98, 1.3, 0.99), 3),
        # Of the same medians as above, but measured on a busy machine, none is proven to be no slower.
        (near(1.0, 0.98, 1.3, 0.99, width=0.1), 0),
    ],
)
def test_closest_of_those_that_are_no_slower_than_eight_bits(ratios, kept):
    layers = ("a", "b", "c")
    prefixes = [layers[:count] for count in range(4)]
    assert choose_float_prefix(prefixes, ratios) == layers[:kept]


def test_whole_networks_are_timed_and_differ_in_their_first_layers(calibrator, fp32):
    seen = []

    def measure_latency(models):
        seen.extend(models)
        return near(1.0, *[0.9] * (len(models) - 1))

    entrance = calibrator.find_float_prefix(QuantizationRecipe(), measure_latency)
    assert len(seen) == len(entrance) + 1 >= 2
    codes = [sum(tensor.name.endswith("_weight_codes") for tensor in model.graph.initializer) for model in seen]
    assert codes == [codes[0] - count for count in range(len(codes))]
    assert (
        calibrator.find_float_prefix(QuantizationRecipe(), lambda models: near(1.0, *[1.1] * (len(models) - 1))) == ()
    )


def test_a_float_prefix_begins_with_the_first_layer_where_that_would_be_in_fixed_point(calibrator, monkeypatch):
    first = calibrator.float_prefixes(QuantizationRecipe())[-1][0]
    # As in a network whose first convolution is a small part of it.
    monkeypatch.setattr(calibrator_module, "choose_fixed_point_prefix", lambda graph, pixels: (first,))
    assert calibrator.network(QuantizationRecipe(gptq=False)).write().recipe["fixed_point"] == [first]
    chosen = calibrator.find_float_prefix(QuantizationRecipe(), lambda models: near(*[1.0] * len(models)))
    assert chosen[0] == first


def test_with_every_layer_in_float_nothing_but_the_pixels_is_in_bytes_and_no_number_changes(calibrator, fp32, trained):
    layers = calibrator.network(QuantizationRecipe(gptq=False, correct_bias=False)).write().layers
    recipe = QuantizationRecipe(gptq=False, correct_bias=False, float_prefix=layers)
    written = calibrator.network(recipe).write()
    assert written.layers == ()
    assert {node.op_type for node in written.model.graph.node}.isdisjoint({"Cast", "QuantizeLinear"})
    images = trained.held_out_rgb[:16]
    np.testing.assert_allclose(run(written.model, images), run(fp32, images), atol=1e-5)


def test_a_float_entrance_is_closer_and_stands_in_the_record(calibrator, fp32, trained):
    # Nothing that makes up for the rounding of the first layers behind them.
    plain = QuantizationRecipe(gptq=False, correct_bias=False)
    network = calibrator.network(plain)
    first = network.write().layers[:2]
    images = trained.held_out_rgb
    reference = run(fp32, images)
    written = calibrator.network(replace(plain, float_prefix=first)).write()
    assert written.recipe["float_entrance"] == list(first)
    assert written.recipe["keep_float"] == []
    assert set(first).isdisjoint(written.layers)
    error = {
        name: compare_probabilities(reference, run(model, images), "held-out").mean_error
        for name, model in (("float", written.model), ("int8", network.write().model))
    }
    assert error["float"] < error["int8"]


def test_search_gives_its_recipes_the_entrance_that_it_timed(fp32, trained):
    reference = run(fp32, trained.held_out_rgb)

    def tried(measure_latency):
        return search(
            fp32,
            trained.train_rgb[::4],
            lambda item: (compare_probabilities(reference, run(item.model, trained.held_out_rgb), "validation"),),
            limits=ParityLimits(min_agreement=0.9),
            effort="quick",
            base=QuantizationRecipe(),
            budget_s=np.inf,
            progress=no_progress,
            measure_latency=measure_latency,
        )

    fast_in_float = tried(lambda models: near(1.0, *[0.9] * (len(models) - 1)))
    assert all(len(trial.quantized.recipe["float_entrance"]) >= 1 for trial in fast_in_float)
    for trials in (tried(None), tried(lambda models: near(1.0, *[1.5] * (len(models) - 1)))):
        assert all(trial.quantized.recipe["float_entrance"] == [] for trial in trials)


def test_search_keeps_as_many_first_layers_in_float_as_are_asked_for(fp32, trained):
    def judge(quantized):
        return (ParityFacts("validation", 100, 1.0, 0.0, 0.0, None, None),)

    (trial,) = search(
        fp32,
        trained.train_rgb[:32],
        judge,
        limits=ParityLimits(0.9),
        effort="quick",
        base=QuantizationRecipe(),
        budget_s=np.inf,
        progress=no_progress,
        first_in_float=3,
    )
    record = trial.quantized.recipe
    assert (len(record["float_entrance"]), record["fixed_point"], record["portable"]) == (3, [], False)
    assert record["float_entrance"][0] in record["portable_reason"]
