"""Light models: the same bytes and the same results as with all weights in memory."""

import numpy as np
import onnx
import pytest

from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.graph.light import weights
from edgeclf.export.graph.light.folder import ModelFolder, StoredModel
from edgeclf.export.graph.light.moving import moved_in, moved_out
from edgeclf.export.graph.light.sessions import basic_optimized, open_model
from edgeclf.export.graph.light.structure import check_model
from edgeclf.export.graph.light.weights import has_large_weights, is_light, tensor_values
from edgeclf.export.graph.light.whole_file import read_light, write_model


@pytest.fixture
def model(rng):
    """A convolution and two dense layers, whose weights are large by `small_limit`, and constants that are not."""
    make, values = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        make("Conv", ["x", "kernel", "bias"], ["c"], "conv", pads=[1] * 4, kernel_shape=[3, 3]),
        make("Relu", ["c"], ["r"], "relu"),
        make("Reshape", ["r", "shape"], ["f"], "rows"),
        make("MatMul", ["f", "first"], ["m"], "first_layer"),
        make("Gemm", ["m", "second", "offset"], ["y"], "second_layer", transB=1),
    ]
    constants = {
        "kernel": rng.standard_normal((8, 3, 3, 3)),
        "bias": rng.standard_normal(8),
        "first": rng.standard_normal((8 * 6 * 6, 20)),
        "second": rng.standard_normal((10, 20)),
        "offset": rng.standard_normal(10),
    }
    tensors = [values(array.astype(np.float32), name) for name, array in constants.items()]
    tensors.insert(2, values(np.array([-1, 8 * 6 * 6], np.int64), "shape"))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [info("x", 1, ["N", 3, 6, 6])], [info("y", 1, ["N", 10])], tensors, doc_string="of a test"
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    made.producer_name = "test"
    made.graph.initializer[3].doc_string = "with words"
    entry = made.metadata_props.add()
    entry.key, entry.value = "a", "b"
    return made


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(weights, "LARGE_BYTES", 800)


@pytest.fixture
def folder():
    return ModelFolder()


def outside(model):
    return {tensor.name for tensor in model.graph.initializer if weights.is_outside(tensor)}


@pytest.mark.usefixtures("small_limit")
def test_a_file_is_the_same_bytes_from_memory_and_from_files(model, folder, tmp_path):
    light = moved_out(model, folder.path)
    for number, given in enumerate((model, light)):
        write_model(given, tmp_path / f"{number}.onnx")
        assert (tmp_path / f"{number}.onnx").read_bytes() == model.SerializeToString()
    read = read_light(tmp_path / "1.onnx")
    assert outside(light) == outside(read) == {"kernel", "first", "second"}
    assert len(read.SerializeToString()) < len(model.SerializeToString()) / 3
    assert moved_in(read) == moved_in(light) == model
    write_model(read, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == model.SerializeToString()


def test_without_large_weights_a_model_stays_as_it_is(model, folder, tmp_path):
    assert not has_large_weights(model)
    assert moved_out(model, folder.path) == model
    write_model(model, tmp_path / "m.onnx")
    read = read_light(tmp_path / "m.onnx")
    assert read == model
    assert not is_light(read)


@pytest.mark.usefixtures("small_limit")
def test_a_weight_without_raw_bytes_stays_in_the_message(model, folder, tmp_path):
    values = tensor_values(model.graph.initializer[0])
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend(values.reshape(-1))
    assert outside(moved_out(model, folder.path)) == {"first", "second"}
    write_model(model, tmp_path / "m.onnx")
    read = read_light(tmp_path / "m.onnx")
    assert outside(read) == {"first", "second"}
    assert onnx.load(tmp_path / "m.onnx") == model == moved_in(read)


@pytest.mark.usefixtures("small_limit")
def test_a_session_gives_the_same_bits(model, folder, rng):
    light, x = moved_out(model, folder.path), rng.standard_normal((3, 3, 6, 6)).astype(np.float32)
    before = set(folder.path.iterdir())
    (wanted,) = open_model(model, threads=1).run(None, {"x": x})
    for given in (light, basic_optimized(light)):
        (got,) = open_model(given, threads=1).run(None, {"x": x})
        np.testing.assert_array_equal(got, wanted)
    # Beside the weights of the optimized model nothing is left.
    assert {path.suffix for path in set(folder.path.iterdir()) - before} <= {".weights"}


@pytest.mark.usefixtures("small_limit")
def test_the_preparation_for_int8_is_the_same(model, folder):
    whole, light = prepare_model(model), prepare_model(moved_out(model, folder.path))
    assert is_light(light)
    assert [(tensor.name, tensor.raw_data) for tensor in moved_in(light).graph.initializer] == [
        (tensor.name, tensor.raw_data) for tensor in whole.graph.initializer
    ]
    assert [(node.op_type, node.name, *node.input) for node in light.graph.node] == [
        (node.op_type, node.name, *node.input) for node in whole.graph.node
    ]


@pytest.mark.usefixtures("small_limit")
def test_constants_are_read_as_they_are_asked_for(model, folder):
    light = moved_out(model, folder.path)
    constants, wanted = read_graph(light).constants, read_graph(model).constants
    assert list(constants) == list(wanted)
    for name in wanted:
        assert constants.shape_of(name) == wanted[name].shape
        assert constants.dtype_of(name) == wanted[name].dtype
        np.testing.assert_array_equal(constants[name], wanted[name])
    assert constants["offset"] is constants["offset"]
    assert constants["first"] is not constants["first"]
    assert "missing" not in constants
    assert constants.get("missing") is None


@pytest.mark.usefixtures("small_limit")
def test_the_checker_sees_faults_of_light_models(model, folder):
    light = moved_out(model, folder.path)
    check_model(light, full_check=True)
    light.graph.node[3].input[1] = "missing"
    with pytest.raises(onnx.checker.ValidationError, match="missing"):
        check_model(light)
    light.graph.node[3].input[1] = "second"
    with pytest.raises(onnx.shape_inference.InferenceError):
        check_model(light, full_check=True)


def test_files_are_gone_with_the_model(model):
    stored = StoredModel(model)
    path = stored.path
    assert stored.read() == model
    del stored
    assert not path.parent.exists()
