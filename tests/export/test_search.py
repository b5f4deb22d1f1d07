import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeclf.export.convert import onnx_from_keras
from edgeclf.export.parity import ParityFacts, ParityLimits, compare_probabilities
from edgeclf.export.quantize import QuantizationRecipe, calibrate_network
from edgeclf.export.recommend import Candidate, pareto_front
from edgeclf.export.search import EFFORTS, candidate_recipes, rank_layers, search
from edgeclf.export.targets import TARGETS, needs_pair_constraint, resolve_target
from edgeclf.runtime.bench import LatencyFigures
from edgeclf.runtime.cpus import CpuInfo
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.session import open_session_from_bytes


@pytest.fixture(scope="module")
def fp32(trained):
    return onnx_from_keras(trained.model)


def run(model, images):
    return open_session_from_bytes(model.SerializeToString(), "cpu", 1).run(None, {"image": images})[0]


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
    agreements = [trial.parity[0].agreement for trial in trials]
    assert agreements == sorted(agreements, reverse=True)
    again = judge_of(fp32, trained.held_out_rgb)(trials[0].quantized)[0]
    assert again == trials[0].parity[0]
    assert not trials[0].failures


def test_a_budget_that_is_spent_leaves_one_recipe(fp32, trained):
    assert len(searched(fp32, trained, effort="max", budget_s=0.0)) == 1


def damaged_layer(fp32):
    """The float network with one pointwise layer that 8 bits cannot hold: every output is a small difference of huge parts."""
    model = onnx.ModelProto.FromString(fp32.SerializeToString())
    tensors = {t.name: t for t in model.graph.initializer}
    (name,) = [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "Conv" and list(tensors[node.input[1]].dims)[:2] == [16, 12]
    ][:1]
    weight = numpy_helper.to_array(tensors[name]).copy()
    # Two inputs that are nearly alike get weights that nearly cancel: output = w (x_a - x_b) * 300 + the rest.
    weight[:, 0] += 300
    weight[:, 1] -= 300
    tensors[name].CopyFrom(numpy_helper.from_array(weight, name))
    return model, name


def test_harmful_layers_are_ranked_first_and_put_back_into_float(fp32, trained):
    model, weight_name = damaged_layer(fp32)
    node = next(node for node in model.graph.node if weight_name in node.input)
    network = calibrate_network(model, trained.train_rgb[::4])
    ranked = rank_layers(network, trained.train_rgb[:32], no_progress)
    assert sorted(name for name, _ in ranked) == sorted(network.layers)
    harms = dict(ranked)
    assert harms[ranked[0][0]] > 0
    assert [harm for _, harm in ranked] == sorted(harms.values(), reverse=True)
    whole = judge_of(model, trained.held_out_rgb)(network.write())[0]
    kept = judge_of(model, trained.held_out_rgb)(network.write([ranked[0][0]]))[0]
    assert kept.mean_error < whole.mean_error
    assert node.op_type == "Conv"


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
    trials = searched(fp32, trained, judge=lambda _: (ParityFacts("validation", 9, 0.5, 0.1, 0.01, None, None),))
    assert all(trial.failures for trial in trials)
    assert max(len(trial.quantized.recipe["keep_float"]) for trial in trials) <= 0.34 * 8


def candidate(name, agreement, ratio):
    facts = ParityFacts("validation", 100, agreement, 0.1, 0.01, None, None)
    return Candidate(name, 1, (facts,), (), LatencyFigures(1.0, None, ratio, 1, 1, 1, "CPUExecutionProvider"))


def test_the_front_holds_what_none_beats():
    candidates = [
        candidate("fp32", 1.0, 1.0),
        candidate("fast", 0.97, 0.6),
        candidate("slow and no better", 0.97, 0.8),
        candidate("between", 0.99, 0.7),
        candidate("the same to within noise", 0.98, 0.69),
    ]
    assert pareto_front(candidates) == (0, 1, 3)


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
