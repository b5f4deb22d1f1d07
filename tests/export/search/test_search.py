import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.int8.calibrator import Calibrator, calibrate_network
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.search.escalation import Allowed, SensitiveLayers, escalate
from edgeclf.export.search.recipes import EFFORTS, candidate_recipes
from edgeclf.export.search.search import search
from edgeclf.export.search.sensitivity import rank_layers
from edgeclf.export.search.trials import Trial, best_first
from edgeclf.export.targets import TARGETS, needs_pair_constraint, resolve_target
from edgeclf.export.verify.parity import ParityFacts, ParityLimits, compare_probabilities
from edgeclf.export.verify.verdict import Verdict
from edgeclf.runtime.cpus import CpuInfo
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.session.opening import open_session_from_bytes

pytestmark = pytest.mark.slow


def run(model, images):
    return open_session_from_bytes(model.SerializeToString(), threads=1).run(None, {"image": images})[0]


def judge_of(reference_model, images):
    reference = run(reference_model, images)
    return lambda quantized: (compare_probabilities(reference, run(quantized.model, images), "validation"),)


def searched(model, trained, **changes):
    options = {
        "limits": ParityLimits(min_agreement=0.9),
        "effort": "quick",
        "base": QuantizationRecipe(),
        "budget_s": np.inf,
        "progress": no_progress,
        **changes,
    }
    judge = options.pop("judge", judge_of(model, trained.held_out_rgb))
    return search(model, trained.train_rgb[::4], judge, **options)


def test_more_effort_tries_more_and_every_recipe_once():
    counts = [len(candidate_recipes(effort, QuantizationRecipe())) for effort in EFFORTS]
    assert counts == sorted(set(counts))
    recipes = [recipe for _, recipe in candidate_recipes("max", QuantizationRecipe(target="arm64"))]
    assert len(set(recipes)) == len(recipes)
    assert {recipe.target for recipe in recipes} == {"arm64"}


def test_the_best_comes_first_and_figures_are_measured(fp32, trained):
    trials = searched(fp32, trained, effort="normal")
    assert len(trials) >= 2
    assert trials == best_first(trials[::-1])
    again = judge_of(fp32, trained.held_out_rgb)(trials[0].quantized)[0]
    assert again == trials[0].parity[0]
    assert not trials[0].failures


def test_a_budget_that_is_spent_leaves_one_recipe(fp32, trained):
    assert len(searched(fp32, trained, effort="max", budget_s=0.0)) == 1


def damaged_layer(fp32, strength=200.0):
    """The float network, and the name of a layer of it that 8 bits cannot hold although float can.

    Two of its inputs are made the same, and get large weights that cancel: beside these, the others vanish in rounding.
    """
    model = prepare_model(fp32)
    graph = read_graph(model)
    tensors = {t.name: t for t in model.graph.initializer}

    def change(name, edit):
        value = numpy_helper.to_array(tensors[name]).copy()
        edit(value)
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))

    def copy_first_to_second(value):
        value[1] = value[0]

    (layer,) = [n for n in graph.nodes if n.op_type == "Conv" and list(tensors[n.input[1]].dims)[:2] == [16, 12]]
    depthwise = graph.producers[graph.producers[layer.input[0]].input[0]]
    stem = graph.producers[graph.producers[depthwise.input[0]].input[0]]
    for node in (depthwise, stem):
        for name in node.input[1:]:
            change(name, copy_first_to_second)

    def cancel(weight):
        weight[:, 0] += strength
        weight[:, 1] -= strength

    change(layer.input[1], cancel)
    return model, layer.name


def test_harmful_layers_are_ranked_first_and_put_back_into_float(fp32, trained):
    model, damaged = damaged_layer(fp32)
    # GPTQ and bias correction fit the layers behind to the damage: without these it is the damaged layer alone that counts.
    plain = QuantizationRecipe(gptq=False, correct_bias=False)
    network = calibrate_network(model, trained.train_rgb[::4], plain)
    ranked = rank_layers(network, trained.train_rgb[:32], no_progress)
    assert sorted(name for name, _ in ranked) == sorted(network.layers)
    assert ranked[0][0] == damaged
    harms = dict(ranked)
    assert [harm for _, harm in ranked] == sorted(harms.values(), reverse=True)
    assert ranked[0][1] > 10 * ranked[1][1]
    whole = judge_of(model, trained.held_out_rgb)(network.write())[0]
    kept = judge_of(model, trained.held_out_rgb)(network.write([damaged]))[0]
    assert kept.mean_error < 0.2 * whole.mean_error


def places(quantized):
    """How many layers were put in fixed point, in the float prefix and in float."""
    record = quantized.recipe
    return len(record["fixed_point"]), len(record["float_entrance"]), len(record["keep_float"])


def never_close_enough(judged):
    def judge(quantized):
        judged.append(places(quantized))
        return (ParityFacts("validation", 9, 0.5, 0.1, 0.01 / len(judged), None, None),)

    return judge


def test_where_nothing_passes_fixed_point_comes_before_float_and_all_is_reported(fp32, trained):
    judged = []
    trials = searched(fp32, trained, judge=never_close_enough(judged))
    # 7 convolutions and a dense layer: 1, 2, 4 convolutions in fixed point, then the first two layers in float, the
    # first four. Layers in float follow only as far as they were not in fixed point.
    steps = [step for step in judged if step != (0, 0, 0)]
    assert steps[:5] == [(1, 0, 0), (2, 0, 0), (4, 0, 0), (0, 2, 0), (0, 4, 0)]
    assert all(step[:2] == (0, 0) for step in steps[5:])
    assert len(trials) == len(judged)
    assert all(
        trial.failures == ("top-1 agreement 0.5000 on 9 validation images, at least 0.9 required",) for trial in trials
    )
    assert trials[-1].name == "GPTQ"
    assert {trial.name for trial in trials} >= {
        "GPTQ, 1 more in fixed point",
        "GPTQ, first 2 in float",
        "GPTQ, first 4 in float",
    }


def test_the_search_ends_with_the_first_step_that_passes(fp32, trained):
    judged = []

    def judge(quantized):
        judged.append(places(quantized))
        agreement = 1.0 if judged[-1][0] >= 2 else 0.5
        return (ParityFacts("validation", 100, agreement, 0.1, 0.01, None, None),)

    trials = searched(fp32, trained, judge=judge)
    assert judged[-1] == (2, 0, 0)
    assert trials[0].name == "GPTQ, 2 more in fixed point"
    assert not trials[0].failures
    assert all(trial.failures for trial in trials[1:])


@pytest.mark.parametrize(
    ("base", "allowed", "expected"),
    [
        (QuantizationRecipe(), Allowed(float_layers=False), {"fixed"}),
        (QuantizationRecipe(), Allowed(float_prefix=False), {"fixed", "float"}),
        # Made for one kind of CPU, a file gains nothing by fixed point that float does not give.
        (QuantizationRecipe(target="x86-vnni"), Allowed(), {"prefix", "float"}),
        (QuantizationRecipe(target="x86-vnni"), Allowed(float_prefix=False), {"float"}),
    ],
)
def test_only_what_is_allowed_is_tried(fp32, trained, base, allowed, expected):
    judged = []
    # Nothing is left for float where all the most sensitive layers are convolutions: one of them is not.
    searched(fp32, trained, base=base, allowed=allowed, judge=never_close_enough(judged))
    kinds = {name for step in judged for name, count in zip(("fixed", "prefix", "float"), step, strict=True) if count}
    assert kinds - {"float"} == expected - {"float"}
    assert "float" in expected or "float" not in kinds


def test_the_order_of_the_steps():
    base = QuantizationRecipe(keep_float=("kept",))
    names = [f"conv{number}" for number in range(20)]
    layers = SensitiveLayers(("dense", *names), frozenset(names), (("conv7", "conv3"), ("conv7", "conv3", "conv1")))
    steps = list(escalate(base, layers, Allowed(targets=("any", "arm64"))))
    assert [name for name, _ in steps] == [
        "1 more in fixed point", "2 more in fixed point", "4 more in fixed point", "8 more in fixed point",
        "first 2 in float", "first 3 in float", "1 in float", "2 in float", "4 in float", "for arm64",
    ]  # fmt: skip
    recipes = dict(steps)
    assert recipes["2 more in fixed point"] == replace(base, exact=("conv0", "conv1"))
    assert recipes["first 2 in float"] == replace(base, float_prefix=("conv7", "conv3"))
    assert recipes["2 in float"] == replace(base, keep_float=("kept", "dense", "conv0"))
    assert recipes["for arm64"] == replace(base, target="arm64")
    # A longer prefix than the one that was found by its latency alone.
    longer = escalate(replace(base, target="arm64", float_prefix=("conv7", "conv3")), layers, Allowed())
    assert [name for name, _ in longer][:2] == ["first 3 in float", "1 in float"]
    # What was in fixed point is not tried in float again.
    only_convolutions = SensitiveLayers(tuple(names), frozenset(names), ())
    names_of_steps = [name for name, _ in escalate(base, only_convolutions, Allowed())]
    assert names_of_steps == [f"{count} more in fixed point" for count in (1, 2, 4, 8)]


def test_only_the_best_network_is_held_and_none_is_calibrated_twice(fp32, trained, monkeypatch):
    calibrate, calibrated, alive = Calibrator.network, [], []

    def network(self, recipe):
        result = calibrate(self, recipe)
        calibrated.append((recipe, weakref.ref(result)))
        return result

    def judge(quantized):
        gc.collect()
        alive.append(sum(reference() is not None for _, reference in calibrated))
        # The first recipe is the best.
        return (ParityFacts("validation", 100, 0.5, 0.1, 0.001 * len(calibrated), None, None),)

    monkeypatch.setattr(Calibrator, "network", network)
    trials = searched(fp32, trained, judge=judge, effort="normal")
    recipes = [recipe for recipe, _ in calibrated]
    candidates = [recipe for _, recipe in candidate_recipes("normal", QuantizationRecipe())]
    assert len(recipes) == len(set(recipes)) == len(trials) >= 6
    # The best one, and in its turn the one that is tried; the steps after all have failed are held by none.
    plain = sum(recipe in candidates for recipe in recipes)
    assert alive[:plain] == [1, *[2] * (plain - 1)]
    assert max(alive[plain:]) <= 1


def trial(name, wrong, mean_error, kept=0, *, verdict=None, fp32, trained):
    network = calibrate_network(fp32, trained.train_rgb[:4], QuantizationRecipe(gptq=False, correct_bias=False))
    facts = ParityFacts("validation", 640, 1 - wrong / 640, 0.1, mean_error, None, None)
    quantized = network.write(network.write().layers[:kept])
    return Trial(name, network.recipe, quantized, (facts,), verdict or Verdict(), 1.0)


def test_chance_is_left_to_the_mean_error_and_more_than_chance_to_agreement(fp32, trained):
    def make(*arguments, **more):
        return trial(*arguments, **more, fp32=fp32, trained=trained)

    lucky, steady = make("lucky", 0, 2e-3), make("steady", 2, 1e-3)
    poor, mixed, failed = (
        make("poor", 9, 5e-4),
        make("mixed", 0, 1e-4, 1),
        make("failed", 0, 1e-9, verdict=Verdict(("missed",), ("few",))),
    )
    unsure = make("unsure", 0, 1e-9, verdict=Verdict((), ("few",)))
    order = [item.name for item in best_first([failed, unsure, mixed, poor, lucky, steady])]
    assert order == ["steady", "lucky", "poor", "mixed", "unsure", "failed"]


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("x86_64", ("avx2", "fma"), "x86-avx2"),
        ("x86_64", ("avx2", "avx512bw", "avx512f"), "x86-avx2"),
        ("x86_64", ("avx2", "avx512_vnni"), "x86-vnni"),
        ("x86_64", ("avx2", "avx_vnni"), "x86-vnni"),
        ("aarch64", ("asimd",), "arm64"),
    ],
)
def test_this_cpu_is_the_narrowest_target_it_belongs_to(architecture, flags, expected):
    cpu = CpuInfo("a cpu", architecture, flags, 2)
    assert resolve_target("this", cpu) == expected
    assert needs_pair_constraint(expected) == (expected == "x86-avx2")
    assert needs_pair_constraint("any")
    for target in TARGETS:
        assert resolve_target(target, cpu) == target
    with pytest.raises(UsageError, match="unknown target 'gpu'"):
        resolve_target("gpu", cpu)
