"""Near ties by what the kernels of both kinds of CPUs compute, and the alignment that avoids them."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.float_graph import read_graph
from edgeclf.export.int8.determinism.alignment import align_scales
from edgeclf.export.int8.determinism.near_ties import units_with_ties
from edgeclf.export.int8.determinism.portability import what_binds
from edgeclf.export.int8.partition import QuantUnit
from edgeclf.export.int8.qdq_writer import constant_key, params_of_constant
from edgeclf.export.int8.ranges import QuantParams

scales = st.floats(1e-4, 10.0).map(lambda value: float(np.float32(value)))
zero_points = st.integers(0, 255)


def graph_of(units, constants=None, sizes=None):
    """A float graph of units, with the sizes of its values."""
    nodes = [node for unit in units for node in unit.nodes]
    made = {name for node in nodes for name in node.output}
    constants, sizes = constants or {}, sizes or {}
    given = [name for node in nodes for name in node.input if name not in made and name not in constants]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes.get(name, ["N", 4, 8, 8]))
        for name in dict.fromkeys(given)
    ]
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", infos, [output], tensors)
    return read_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def unit_of(kind, inputs, output, constants=(), **options):
    values = tuple(dict.fromkeys(name for name in inputs if name not in constants))
    attributes = {name: options.pop(name) for name in ("kernel_shape",) if name in options}
    node = helper.make_node(kind, list(inputs), [output], f"{kind.lower()}_{output}", **attributes)
    return QuantUnit((node,), values, output, None, quantized=True, **options)


def add_unit(first, second, output):
    return unit_of("Add", (first, second), output)


def other_unit(value, output, *, moves=False):
    return unit_of(
        "MaxPool" if moves else "Relu", (value,), output, moves=moves, **({"kernel_shape": [2, 2]} if moves else {})
    )


def aligned(units, params, **about):
    return align_scales(graph_of(units, **about), units, params)


def ties(units, params, **about):
    return [unit.name for unit in units_with_ties(graph_of(units, **about), units, params)]


def add_on_arm(codes_a, codes_b, a, b, c):
    """ONNX Runtime's QLinearAdd on ARM: ratios of 22 bits, halves away from zero."""
    ratios = [float(np.float32(v.scale) / np.float32(c.scale)) for v in (a, b)]
    shift = 21 - math.floor(math.log2(max(ratios)))
    first, second = (int(np.rint(ratio * 2.0**shift)) for ratio in ratios)
    sums = (codes_a - a.zero_point) * first + (codes_b - b.zero_point) * second
    # Halves away from zero: the sign is taken from the sum ahead of the rounding shift.
    rounded = (sums + (sums >> 63) + (1 << (shift - 1))) >> shift
    return (rounded + c.zero_point).clip(0, 255)


def add_on_x86(codes_a, codes_b, a, b, c):
    """The same on x86: float32, the zero points in one constant."""
    ratio_a, ratio_b = (np.float32(v.scale) / np.float32(c.scale) for v in (a, b))
    fixed = np.float32(
        np.float32(c.zero_point) - (ratio_a * np.float32(a.zero_point) + ratio_b * np.float32(b.zero_point))
    )
    values = codes_a.astype(np.float32) * ratio_a + (codes_b.astype(np.float32) * ratio_b + fixed)
    return np.rint(values).clip(0, 255).astype(np.int64)


def mul_with(codes_a, codes_b, a, b, c, *, fused):
    """QLinearMul; on ARM the product and the zero point are added with one rounding."""
    ratio = np.float32(np.float32(a.scale) * np.float32(b.scale)) / np.float32(c.scale)
    products = (codes_a - a.zero_point) * (codes_b - b.zero_point)
    if fused:
        values = (products * np.float64(ratio) + c.zero_point).astype(np.float32)
    else:
        values = products.astype(np.float32) * ratio + np.float32(c.zero_point)
    return np.rint(values).clip(0, 255).astype(np.int64)


def mean_on_arm(sums, a, c, count):
    """QLinearGlobalAveragePool on ARM: an exact product with a ratio of 24 bits, halves away from zero."""
    ratio = Fraction(float(np.float32(a.scale) / np.float32(np.float32(c.scale) * np.float32(count))))
    values = [Fraction(int(value)) * ratio for value in sums]
    rounded = [int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value)) for value in values]
    return (np.array(rounded) + c.zero_point).clip(0, 255)


def mean_on_x86(sums, a, c, count):
    ratio = np.float32(a.scale) / np.float32(np.float32(c.scale) * np.float32(count))
    return (np.rint(sums.astype(np.float32) * ratio).astype(np.int64) + c.zero_point).clip(0, 255)


ALL_A, ALL_B = (grid.ravel() for grid in np.meshgrid(np.arange(256), np.arange(256)))


@settings(deadline=None, max_examples=50)
@given(scales, scales, scales, zero_points, zero_points, zero_points)
def test_sums_of_all_codes_are_rounded_alike_on_both_kinds_of_cpus(scale_a, scale_b, scale_c, zero_a, zero_b, zero_c):
    # Ratios of sums: the result holds what its summands hold together, or an activation function cuts most of it off.
    scale_c = float(np.float32(max(scale_c, scale_a / 15.9, scale_b / 15.9)))
    params = {"a": QuantParams(scale_a, zero_a), "b": QuantParams(scale_b, zero_b), "c": QuantParams(scale_c, zero_c)}
    units = [other_unit("x", "a"), add_unit("a", "b", "c")]
    found = aligned(units, {"x": QuantParams(1.0, 0), **params})
    assert ties(units, found) == []
    values = (found["a"], found["b"], found["c"])
    np.testing.assert_array_equal(add_on_arm(ALL_A, ALL_B, *values), add_on_x86(ALL_A, ALL_B, *values))
    assert found["c"].scale == scale_c
    largest = max(scale_a, scale_b) / scale_c
    denominator = 1023 if largest <= 4 else 255 if largest <= 8 else 127
    for name in "ab":
        # Half a unit of 1 / q of the result's scale, at most.
        assert abs(found[name].scale - params[name].scale) <= 0.51 / denominator * scale_c + 1e-6 * params[
            name
        ].scale or (params[name].scale < scale_c / denominator)
        assert found[name].zero_point == params[name].zero_point


def test_plain_scales_are_rounded_differently():
    a, b, c = QuantParams(0.25, 128), QuantParams(0.125, 128), QuantParams(0.5, 128)
    units = [add_unit("a", "b", "c")]
    assert ties(units, {"a": a, "b": b, "c": c}) == ["add_c"]
    assert (add_on_arm(ALL_A, ALL_B, a, b, c) != add_on_x86(ALL_A, ALL_B, a, b, c)).mean() > 0.01


@settings(deadline=None, max_examples=30)
@given(scales, scales, st.floats(0.5, 40.0), zero_points, zero_points, zero_points)
def test_products_of_all_codes_are_rounded_alike(scale_a, scale_b, share, zero_a, zero_b, zero_c):
    scale_c = float(np.float32(scale_a * scale_b * 255 / share))
    params = {"a": QuantParams(scale_a, zero_a), "b": QuantParams(scale_b, zero_b), "c": QuantParams(scale_c, zero_c)}
    units = [other_unit("x", "a"), unit_of("Mul", ("a", "b"), "c")]
    found = aligned(units, {"x": QuantParams(1.0, 0), **params})
    assert ties(units, found) == []
    values = (found["a"], found["b"], found["c"])
    one, other = (mul_with(ALL_A, ALL_B, *values, fused=fused) for fused in (False, True))
    np.testing.assert_array_equal(one, other)
    exact = (ALL_A - zero_a) * (ALL_B - zero_b) * (values[0].scale * values[1].scale / values[2].scale)
    np.testing.assert_array_equal(one, (np.rint(exact) + zero_c).clip(0, 255))
    assert abs(found["c"].scale / scale_c - 1) < 0.02


@settings(deadline=None, max_examples=30)
@given(scales, st.floats(0.2, 1.5), zero_points, zero_points, st.sampled_from([4, 16, 49, 64, 144, 784, 3136, 12544]))
def test_means_are_rounded_alike(scale_a, share, zero_a, zero_c, count):
    side = math.isqrt(count)
    params = {"a": QuantParams(scale_a, zero_a), "c": QuantParams(float(np.float32(scale_a * share)), zero_c)}
    units = [other_unit("x", "a"), unit_of("GlobalAveragePool", ("a",), "c")]
    about = {"sizes": {"x": ["N", 3, side, side]}}
    found = aligned(units, {"x": QuantParams(1.0, 0), **params}, **about)
    assert ties(units, found, **about) == []
    ratio = found["a"].scale / found["c"].scale / count
    near = np.unique(np.rint((np.arange(-255, 256) + 0.5) / ratio).astype(np.int64)[:, None] + np.arange(-1, 2))
    near = near[(near >= -count * zero_a) & (near <= count * (255 - zero_a))]
    arguments = near, found["a"], found["c"], count
    np.testing.assert_array_equal(mean_on_arm(*arguments), mean_on_x86(*arguments))
    assert abs(found["c"].scale / params["c"].scale - 1) < 0.02


def test_a_mean_of_an_even_number_of_codes_is_rounded_differently_without_alignment():
    a = QuantParams(0.03125, 0)
    units = [unit_of("GlobalAveragePool", ("a",), "c")]
    about = {"sizes": {"a": ["N", 3, 8, 8]}}
    params = {"a": a, "c": a}
    assert ties(units, params, **about) == ["globalaveragepool_c"]
    sums = np.arange(64 * 255)
    assert (mean_on_arm(sums, a, a, 64) != mean_on_x86(sums, a, a, 64)).any()
    # Of 49 the halves lie between.
    assert ties(units, params, sizes={"a": ["N", 3, 7, 7]}) == []
    # A size that is not known proves nothing; one kernel over the whole image is the same operator.
    assert ties(units, params, sizes={"a": ["N", 3, "H", "W"]}) == ["globalaveragepool_c"]
    pooled = [unit_of("AveragePool", ("a",), "c", kernel_shape=[8, 8])]
    assert ties(pooled, params, **about) == ["averagepool_c"]
    assert ties([unit_of("AveragePool", ("a",), "c", kernel_shape=[2, 2])], params, **about) == []


def test_a_sigmoid_keeps_away_from_halves():
    # sigmoid(0) is a half, and with this scale a half of a code.
    params = {"x": QuantParams(1.0, 0), "a": QuantParams(0.05, 128), "c": QuantParams(0.2, 0)}
    units = [other_unit("x", "a"), unit_of("Sigmoid", ("a",), "c")]
    assert ties(units, params) == ["sigmoid_c"]
    found = aligned(units, params)
    assert ties(units, found) == []
    assert 1 < found["c"].scale / 0.2 < 1.02
    values = 1 / (1 + np.exp(-(np.arange(256) - 128) * np.float64(0.05))) / found["c"].scale
    assert np.abs(values - np.floor(values) - 0.5).min() > 1e-6


@pytest.mark.parametrize(("kind", "tie_scale"), [("Add", 0.0631 / 2), ("Mul", 0.0631 / 2 / 0.0313)])
def test_constants_get_a_scale_with_which_nothing_is_near_a_half(rng, kind, tie_scale):
    values = rng.normal(size=(1, 200, 1, 1)).astype(np.float32)
    params = {"x": QuantParams(1.0, 0), "a": QuantParams(0.0313, 17), "c": QuantParams(0.0631, 90)}
    unit = unit_of(kind, ("a", "k"), "c", constants=("k",))
    key = constant_key(unit, "k")
    params[key] = params_of_constant(values)
    units = [other_unit("x", "a"), unit]
    found = aligned(units, params, constants={"k": values})
    assert ties(units, found, constants={"k": values}) == []
    # With this one a code of one is a half in the sum (whose other part is 0) or in the product (whose other part is 1).
    halves = {**params, key: replace(params[key], scale=tie_scale)}
    assert ties(units, halves, constants={"k": values}) == [unit.name]
    # It still holds every value.
    assert found[key].low <= values.min() + found[key].scale
    assert values.max() - found[key].scale <= found[key].high


def test_a_factor_apart_two_values_are_moved_together():
    # hard_swish as Keras writes it: x * relu6(x + 3) / 6.
    units = [
        other_unit("x", "a"),
        unit_of("Add", ("a", "three"), "s", constants=("three",)),
        unit_of("Mul", ("s", "sixth"), "g", constants=("sixth",), factor=1 / 6),
        unit_of("Mul", ("a", "g"), "c"),
    ]
    constants = {"three": np.float32(3), "sixth": np.float32(1 / 6)}
    six = float(np.float32(6 / 255))
    params = {
        "x": QuantParams(1.0, 0),
        "a": QuantParams(0.0731, 100),
        "s": QuantParams(six, 0),
        "g": QuantParams(float(np.float32(six / 6)), 0),
        "c": QuantParams(0.0417, 9),
        constant_key(units[1], "three"): params_of_constant(constants["three"]),
    }
    found = aligned(units, params, constants=constants)
    assert ties(units, found, constants=constants) == []
    assert found["s"].scale / found["g"].scale == pytest.approx(6, rel=1e-6)
    assert max(abs(found[name].scale / params[name].scale - 1) for name in params if name in found) < 0.02


def test_a_chain_of_sums_is_aligned_from_its_start_and_the_pixels_stay(rng):
    names = ["pixels", "t0", "b1", "t1", "b2", "t2", "b3", "t3"]
    params = {name: QuantParams(float(np.float32(rng.uniform(0.01, 0.1))), 3) for name in names}
    units = [other_unit("pixels", "t0"), other_unit("t0", "b1"), add_unit("b1", "t0", "t1")]
    units += [other_unit("t1", "b2"), add_unit("b2", "t1", "t2"), other_unit("t2", "b3"), add_unit("t2", "b3", "t3")]
    found = aligned(units, params)
    # Scales drawn at random may be safe by chance; these are not.
    unsafe = {name: QuantParams(float(np.float32(0.0317 * 1.0437**i)), 3) for i, name in enumerate(names)}
    assert ties(units, unsafe) == ["add_t1", "add_t2", "add_t3"]
    assert ties(units, found) == []
    assert found["pixels"] == params["pixels"]
    assert max(abs(found[name].scale / params[name].scale - 1) for name in names) < 0.02


def test_values_that_only_move_keep_one_scale():
    params = {name: QuantParams(0.03 + 0.001 * i, 0) for i, name in enumerate(["x", "p", "q", "b", "c"])}
    params["q"] = params["p"]
    units = [other_unit("x", "p"), other_unit("p", "q", moves=True), add_unit("q", "b", "c")]
    found = aligned(units, params)
    assert found["p"] == found["q"] != params["q"]
    assert ties(units, found) == []


def test_a_sum_whose_scales_are_all_tied_is_named():
    params = {name: QuantParams(float(np.float32(0.0317 * 1.0437**i)), 0) for i, name in enumerate("xabcdefg")}
    units = [other_unit("x", "a"), add_unit("a", "b", "c"), add_unit("d", "e", "f"), add_unit("c", "f", "g")]
    # c and f are results of sums already; g follows one of them, and the other has nowhere to go.
    assert ties(units, aligned(units, params)) == ["add_g"]


def kernel(kind, infos, result, params, **attributes):
    """What ONNX Runtime's own kernel of an operator gives for codes: a function of its inputs."""
    constants, nodes = [], []
    for name, value in params.items():
        constants.append(numpy_helper.from_array(np.float32(value.scale), f"{name}s"))
        constants.append(numpy_helper.from_array(np.uint8(value.zero_point), f"{name}z"))
    nodes += [helper.make_node("DequantizeLinear", [name, f"{name}s", f"{name}z"], [f"f{name}"]) for name in infos]
    nodes.append(helper.make_node(kind, [f"f{name}" for name in infos], ["fc"], **attributes))
    nodes.append(helper.make_node("QuantizeLinear", ["fc", "cs", "cz"], ["c"]))
    given = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in infos.items()]
    output = helper.make_tensor_value_info("c", TensorProto.UINT8, result)
    graph = helper.make_graph(nodes, "g", given, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda **codes: session.run(None, codes)[0]


@pytest.mark.parametrize("is_aligned", [True, False])
@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_the_kernel_gives_what_exact_arithmetic_gives(kind, is_aligned):
    # Every pair of codes through ONNX Runtime's own kernel, next to integers: with aligned scales there is one answer.
    params = {"x": QuantParams(1.0, 0), "a": QuantParams(0.0313, 17), "b": QuantParams(0.0421, 120)}
    params["c"] = QuantParams(0.0631 if kind == "Add" else 0.0617, 90)
    units = [other_unit("x", "a"), unit_of(kind, ("a", "b"), "c")]
    if is_aligned:
        params = aligned(units, params)
    a, b, c = params["a"], params["b"], params["c"]
    run = kernel(kind, {"a": [65536], "b": [65536]}, [65536], {name: params[name] for name in "abc"})
    got = run(a=ALL_A.astype(np.uint8), b=ALL_B.astype(np.uint8))
    first, second = (ALL_A - a.zero_point) * np.float64(a.scale), (ALL_B - b.zero_point) * np.float64(b.scale)
    exact = ((first + second) if kind == "Add" else first * second) / c.scale
    wanted = (np.rint(exact) + c.zero_point).clip(0, 255)
    if is_aligned:
        np.testing.assert_array_equal(got, wanted)
    assert np.abs(got - wanted).max() <= 1


@pytest.mark.parametrize("side", [7, 8])
def test_the_kernel_of_the_mean_gives_what_exact_arithmetic_gives(rng, side):
    params = {"x": QuantParams(1.0, 0), "a": QuantParams(0.0313, 17), "c": QuantParams(0.0289, 5)}
    units = [other_unit("x", "a"), unit_of("GlobalAveragePool", ("a",), "c")]
    params = aligned(units, params, sizes={"x": ["N", 3, side, side]})
    a, c = params["a"], params["c"]
    run = kernel("GlobalAveragePool", {"a": [1, 4096, side, side]}, [1, 4096, 1, 1], {"a": a, "c": c})
    codes = rng.integers(0, 256, (1, 4096, side, side)) * rng.integers(0, 2, (1, 4096, 1, 1))
    sums = (codes - a.zero_point).sum(axis=(2, 3), keepdims=True)
    wanted = (np.rint(sums * (a.scale / c.scale / side**2)) + c.zero_point).clip(0, 255)
    np.testing.assert_array_equal(run(a=codes.astype(np.uint8)), wanted)


def test_the_reason_names_operators_and_counts_them():
    assert what_binds("any", [], []) == ""
    assert what_binds("any", [("pool", "MaxPool"), ("pad", "Pad")], []) == ""
    assert "arm64" in what_binds("arm64", [], [])
    sums = [(f"add{number}", "Add") for number in range(4)]
    assert what_binds("any", [], sums).startswith("4 Add (add0, add1, add2, ...) can meet a rounding tie")
    reason = what_binds("any", [("gelu1", "Gelu"), ("norm", "LayerNormalization"), ("gelu2", "Gelu")], sums)
    assert reason.startswith("2 Gelu, 1 LayerNormalization (gelu1, norm, gelu2) in float")
