import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.int8.determinism import adds_with_ties, align_residual_adds, never_ties
from edgeclf.export.int8.partition import QuantUnit
from edgeclf.export.int8.ranges import QuantParams

scales = st.floats(1e-4, 10.0).map(lambda value: float(np.float32(value)))


def add_step(first, second, output):
    node = helper.make_node("Add", [first, second], [output], f"sum_{output}")
    return QuantUnit((node,), (first, second), output, None, quantized=True)


def other_step(value, output, kind="AveragePool", *, moves=False):
    return QuantUnit(
        (helper.make_node(kind, [value], [output], output),), (value,), output, None, quantized=True, moves=moves
    )


def distance_to_a_half(a, b, c):
    """Of every sum of two codes, in codes of the result, computed in float64: how far it lies from a half."""
    ratio_a, ratio_b = (
        np.float64(np.float32(a.scale) / np.float32(c.scale)),
        np.float64(np.float32(b.scale) / np.float32(c.scale)),
    )
    codes = np.arange(256)
    sums = (codes - a.zero_point)[:, None] * ratio_a + (codes - b.zero_point)[None, :] * ratio_b
    return float(np.abs(np.abs(sums - np.floor(sums)) - 0.5).min())


@settings(deadline=None)
@given(scales, scales, scales, st.integers(0, 255), st.integers(0, 255))
def test_no_sum_of_codes_comes_near_a_half(scale_a, scale_b, scale_c, zero_a, zero_b):
    # Ratios of sums: the result holds what its summands hold together.
    scale_c = max(scale_c, scale_a / 3.9, scale_b / 3.9)
    params = {"a": QuantParams(scale_a, zero_a), "b": QuantParams(scale_b, zero_b), "c": QuantParams(scale_c, 7)}
    units = [other_step("x", "a"), add_step("a", "b", "c")]
    aligned = align_residual_adds(units, {"x": QuantParams(1.0, 0), **params})
    assert adds_with_ties(units, aligned) == ()
    assert distance_to_a_half(aligned["a"], aligned["b"], aligned["c"]) > 3e-4
    assert aligned["c"].scale == scale_c
    for name in "ab":
        # Half a unit of 1 / 1023 of the result's scale, at most.
        assert abs(aligned[name].scale - params[name].scale) <= 0.51 / 1023 * scale_c + 1e-6 * params[name].scale or (
            params[name].scale < scale_c / 1023
        )
        assert aligned[name].zero_point == params[name].zero_point


def test_plain_scales_do_come_near_a_half():
    a, b, c = QuantParams(0.25, 128), QuantParams(0.125, 128), QuantParams(0.5, 128)
    assert distance_to_a_half(a, b, c) == 0
    assert not never_ties(a.scale, b.scale, c.scale)


def test_a_chain_of_sums_is_settled_from_its_start_and_the_pixels_stay():
    rng = np.random.default_rng(0)
    names = ["pixels", "t0", "b1", "t1", "b2", "t2", "b3", "t3"]
    params = {name: QuantParams(float(np.float32(rng.uniform(0.01, 0.1))), 3) for name in names}
    units = [other_step("pixels", "t0"), other_step("t0", "b1"), add_step("b1", "t0", "t1")]
    units += [other_step("t1", "b2"), add_step("b2", "t1", "t2"), other_step("t2", "b3"), add_step("t2", "b3", "t3")]
    aligned = align_residual_adds(units, params)
    assert adds_with_ties(units, params) == ("sum_t1", "sum_t2", "sum_t3")
    assert adds_with_ties(units, aligned) == ()
    assert aligned["pixels"] == params["pixels"]
    assert max(abs(aligned[name].scale / params[name].scale - 1) for name in names) < 0.02


def test_values_that_only_move_keep_one_scale():
    params = {name: QuantParams(0.03 + 0.001 * i, 0) for i, name in enumerate(["x", "p", "q", "b", "c"])}
    params["q"] = params["p"]
    units = [other_step("x", "p"), other_step("p", "q", "MaxPool", moves=True), add_step("q", "b", "c")]
    aligned = align_residual_adds(units, params)
    assert aligned["p"] == aligned["q"] != params["q"]
    assert adds_with_ties(units, aligned) == ()


def test_a_sum_whose_scales_are_all_tied_is_named():
    params = {name: QuantParams(0.0317 + 0.00137 * i, 0) for i, name in enumerate("xabcdefg")}
    units = [other_step("x", "a"), add_step("a", "b", "c"), add_step("d", "e", "f"), add_step("c", "f", "g")]
    # c and f are results of sums already; g follows one of them, and the other has nowhere to go.
    aligned = align_residual_adds(units, params)
    assert adds_with_ties(units, aligned) == ("sum_g",)


@pytest.mark.parametrize("settled", [True, False])
def test_the_kernel_gives_what_exact_arithmetic_gives(settled):
    # Every pair of codes through ONNX Runtime's own kernel, next to integers: with settled scales there is one answer.
    params = {
        "x": QuantParams(1.0, 0),
        "a": QuantParams(0.0313, 17),
        "b": QuantParams(0.0421, 120),
        "c": QuantParams(0.0631, 90),
    }
    units = [other_step("x", "a"), add_step("a", "b", "c")]
    if settled:
        params = align_residual_adds(units, params)
    a, b, c = params["a"], params["b"], params["c"]
    constants = []
    for name, value in params.items():
        constants += [
            numpy_helper.from_array(np.float32(value.scale), f"{name}s"),
            numpy_helper.from_array(np.uint8(value.zero_point), f"{name}z"),
        ]
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "as", "az"], ["fa"]),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["fb"]),
        helper.make_node("Add", ["fa", "fb"], ["fc"]),
        helper.make_node("QuantizeLinear", ["fc", "cs", "cz"], ["c"]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.UINT8, [65536]) for name in ("a", "b", "c")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", infos[:2], infos[2:], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    codes_a, codes_b = (grid.ravel().astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"a": codes_a, "b": codes_b})[0]
    ratios = [np.float64(np.float32(v.scale) / np.float32(c.scale)) for v in (a, b)]
    exact = (
        (codes_a - np.float64(a.zero_point)) * ratios[0]
        + (codes_b - np.float64(b.zero_point)) * ratios[1]
        + c.zero_point
    )
    wanted = np.rint(exact).clip(0, 255)
    if settled:
        np.testing.assert_array_equal(got, wanted)
    assert np.abs(got - wanted).max() <= 1
