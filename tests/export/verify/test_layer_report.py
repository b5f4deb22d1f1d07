import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeclf.export.graph.convert import read_model
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.verify.layer_report import LayerFacts, compare_layers, sqnr_db, worst_first
from edgeclf.runtime.errors import ModelFileError


@pytest.fixture(scope="module")
def int8(fp32, trained):
    return quantize_int8(fp32, trained.train_rgb[::4])


def test_a_ratio_in_decibels_is_that_of_the_energies():
    signal = np.array([3.0, 4.0])
    assert sqnr_db(signal, signal * 1.1) == pytest.approx(20.0)
    assert sqnr_db(signal, signal) is None


def test_every_layer_is_compared_with_its_own(fp32, int8, trained):
    facts = compare_layers(fp32, int8.model, trained.held_out_rgb[:32])
    assert [item.name for item in facts] == list(int8.layers)
    assert [item.position for item in facts] == list(range(1, len(facts) + 1))
    assert {item.precision for item in facts} == {"int8"}
    assert sum("depthwise" in item.operator for item in facts) == 3
    # Eight bits of weights are worth some forty decibels, and a mixed-up layer would be worth none.
    assert min(item.weight_sqnr_db for item in facts) > 25
    assert min(item.output_sqnr_db for item in facts) > 10


def test_the_layer_that_was_damaged_loses_most(fp32, int8, trained):
    damaged = onnx.ModelProto.FromString(int8.model.SerializeToString())
    name = int8.layers[3]
    (codes,) = [t for t in damaged.graph.initializer if t.name == f"{name}_weight_codes"]
    values = numpy_helper.to_array(codes).copy()
    values //= 16
    values *= 16
    codes.CopyFrom(numpy_helper.from_array(values, codes.name))
    facts = compare_layers(fp32, damaged, trained.held_out_rgb[:32])
    # Behind the first layer, whose noise is all its own.
    assert [item.name for item in worst_first(facts)[:2]] == [int8.layers[0], name]
    assert min(facts, key=lambda item: item.weight_sqnr_db).name == name


def test_a_first_layer_that_is_damaged_is_listed_first(fp32, int8, trained):
    damaged = onnx.ModelProto.FromString(int8.model.SerializeToString())
    name = int8.layers[0]
    (codes,) = [t for t in damaged.graph.initializer if t.name == f"{name}_weight_codes"]
    codes.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(codes) // 16 * 16, codes.name))
    facts = compare_layers(fp32, damaged, trained.held_out_rgb[:32])
    assert facts[0].lost_db is None
    assert worst_first(facts)[0] == facts[0]


def test_layers_are_ordered_by_what_they_lose_and_exact_ones_come_last():
    def layer(name, output_sqnr_db, lost_db):
        return LayerFacts(1, name, "Conv", "int8", None, output_sqnr_db, lost_db)

    given = [
        layer("exact", None, None),
        layer("first", 35.0, None),
        layer("loses little", 34.0, 1.0),
        layer("loses much", 20.0, 14.0),
        layer("gains", 22.0, -2.0),
        layer("a noisier first", 12.0, None),
    ]
    assert [item.name for item in worst_first(tuple(given))] == [
        "a noisier first", "first", "loses much", "loses little", "gains", "exact",
    ]  # fmt: skip


def test_a_layer_kept_in_float_says_so_and_has_the_float_weights(fp32, int8, trained):
    recipe = QuantizationRecipe(keep_float=(int8.layers[2],))
    facts = compare_layers(fp32, quantize_int8(fp32, trained.train_rgb[::4], recipe).model, trained.held_out_rgb[:8])
    assert [item.precision for item in facts] == ["int8", "int8", "fp32", *["int8"] * (len(facts) - 3)]
    assert facts[2].weight_sqnr_db is None


def test_another_network_is_refused(fp32, int8, trained):
    with pytest.raises(ModelFileError, match="layer by layer"):
        compare_layers(fp32, fp32, trained.held_out_rgb[:4])
    other = onnx.ModelProto.FromString(int8.model.SerializeToString())
    other.graph.node.remove(next(node for node in other.graph.node if node.op_type == "Gemm"))
    with pytest.raises(ModelFileError, match="layer by layer"):
        compare_layers(fp32, other, trained.held_out_rgb[:4])


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"this is no model" * 10)
    with pytest.raises(ModelFileError, match="cannot read"):
        read_model(path)
    with pytest.raises(ModelFileError, match="cannot read"):
        read_model(tmp_path / "gone.onnx")
