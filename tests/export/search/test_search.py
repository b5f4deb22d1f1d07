import gc
import weakref

import numpy as np
import pytest
from onnx import numpy_helper

from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.int8.calibrator import Calibrator, calibrate_network
from edgeclf.export.int8.recipe import QuantizationRecipe
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
    assert len(trials) >= 3
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
    network = calibrate_network(model, trained.train_rgb[::4])
    ranked = rank_layers(network, trained.train_rgb[:32], no_progress)
    assert sorted(name for name, _ in ranked) == sorted(network.layers)
    assert ranked[0][0] == damaged
    harms = dict(ranked)
    assert [harm for _, harm in ranked] == sorted(harms.values(), reverse=True)
    whole = judge_of(model, trained.held_out_rgb)(network.write())[0]
    kept = judge_of(model, trained.held_out_rgb)(network.write([damaged]))[0]
    assert kept.mean_error < 0.5 * whole.mean_error


def test_layers_go_back_to_float_until_the_limits_hold_and_not_further(fp32, trained):
    calls = []

    def judge(quantized):
        # A network that needs two layers in float, whichever they are.
        calls.append(tuple(quantized.recipe["keep_float"]))
        enough = len(calls[-1]) >= 2
        return (ParityFacts("validation", 100, 1.0 if enough else 0.5, 0.1, 0.01, None, None),)

    trials = searched(fp32, trained, judge=judge)
    assert not trials[0].failures
    assert len(trials[0].quantized.recipe["keep_float"]) == 2
    assert [len(kept) for kept in calls if kept] == [1, 2]
    assert all(trial.failures for trial in trials[1:])


def test_limits_that_nothing_meets_give_the_best_and_its_failures(fp32, trained):
    judged = []

    def judge(quantized):
        # More layers in float are a little closer, and never close enough.
        judged.append(tuple(quantized.recipe["keep_float"]))
        error = 0.01 / (1 + len(judged[-1]))
        return (ParityFacts("validation", 9, 0.5, 0.1, error, None, None),)

    trials = searched(fp32, trained, judge=judge)
    layers = len(calibrate_network(fp32, trained.train_rgb[:4]).layers)
    assert layers == 8
    # Layers did go back into float, up to a third of them: 1 and 2 of the 8, and not 4.
    assert [len(kept) for kept in judged if kept] == [1, 2]
    assert len(trials) == len(judged)
    assert all(
        trial.failures == ("top-1 agreement 0.5000 on 9 validation images, at least 0.9 required",) for trial in trials
    )
    assert [len(trial.quantized.recipe["keep_float"]) for trial in trials[:2]] == [2, 1]
    assert trials[0].name.endswith(", 2 in float")


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
    assert len(recipes) == len(set(recipes)) == len(trials) - 2 >= 3
    # The best one, and in its turn the one that is tried; at last, layers of the best one go back into float.
    assert alive == [1, *[2] * (len(recipes) - 1), 1, 1]


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
