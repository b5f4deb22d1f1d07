"""Files as others write them: old and new operator sets, weights beside the file, functions, other types, several outputs."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.adopt.adoption import adopt_model
from edgeclf.export.graph.adopt.reading import read_foreign_model
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession

from .adopted import adopted, run
from .networks import SIZE_HW, Network, operators

GIVEN = ForeignModel(scaling=PixelScaling((120.0,), (60.0,)))


def random_images(rng, count=5):
    images = rng.integers(0, 256, (count, *SIZE_HW, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (count - 1, 1, 1, 3), dtype=np.uint8)
    return images


def small_network(rng, **options):
    net = Network(rng, **options)
    net.conv(6, pads=[1, 1, 1, 1])
    net.op("BatchNormalization", *(rng.uniform(0.5, 2, 6).astype(np.float32) for _ in range(4)))
    net.op("Relu")
    net.head()
    return net


def check_same(rng, path, given=GIVEN, atol=2e-6):
    session, result = adopted(path, given)
    images = random_images(rng)
    np.testing.assert_allclose(run(result.model, images), session.run(images), atol=atol)
    return result


@pytest.mark.parametrize("opset", [8, 11, 13, 20, 21, 23])
def test_operator_sets_are_converted_where_they_are_too_old_or_too_new(rng, tmp_path, opset):
    model = small_network(rng).model(opset=opset, ir_version=11 if opset > 20 else 4)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    result = check_same(rng, tmp_path / "m.onnx").model
    (found,) = (item.version for item in result.opset_import if item.domain == "")
    assert found == {8: 17, 11: 17, 13: 13, 20: 20, 21: 20, 23: 20}[opset]
    assert 4 <= result.ir_version <= 10


def test_an_operator_that_cannot_be_converted_gets_a_sentence(rng, tmp_path):
    path = small_network(rng).write(tmp_path / "m.onnx")
    session = ModelSession(path, foreign=GIVEN)
    model = read_foreign_model(path)
    model.opset_import[0].version = 999
    with pytest.raises(ModelFileError, match=r"from opset 999 to 20.*; export it with opset 17") as error:
        adopt_model(model, session.use)
    assert error.value.exit_code == 3


def test_a_model_that_no_file_can_hold_gets_a_sentence(rng, tmp_path, monkeypatch):
    path = small_network(rng).write(tmp_path / "m.onnx")
    session = ModelSession(path, foreign=GIVEN)
    # Two gigabytes are not made for a test.
    monkeypatch.setattr("edgeclf.export.graph.adopt.reading._MOST_BYTES", 500)
    with pytest.raises(ModelFileError, match="too large for one file"):
        adopt_model(read_foreign_model(path), session.use)


def test_weights_that_are_inputs_too_stay_weights(rng, tmp_path):
    model = small_network(rng).model(ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert len(check_same(rng, tmp_path / "m.onnx").model.graph.input) == 1


def with_data_beside(rng, folder, name="weights.bin"):
    path = folder / "m.onnx"
    model = small_network(rng).model()
    onnx.save(model, str(path), save_as_external_data=True, location=name, size_threshold=0)
    return path


def test_weights_in_a_file_beside_the_model_are_read(rng, tmp_path):
    path = with_data_beside(rng, tmp_path)
    model = check_same(rng, path).model
    assert not any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer)


@pytest.mark.parametrize("fault", ["missing", "truncated", "outside", "absolute", "link", "zero", "long"])
def test_weights_that_cannot_be_read_get_a_sentence(rng, tmp_path, fault):
    (tmp_path / "model").mkdir()
    path = with_data_beside(rng, tmp_path / "model")
    data = tmp_path / "model" / "weights.bin"
    expected = "no weights.bin beside it"
    if fault == "missing":
        data.unlink()
    elif fault == "truncated":
        data.write_bytes(data.read_bytes()[:40])
        expected = "weights.bin of 40 bytes, expected the whole file that has its weights"
    elif fault == "link":
        data.rename(tmp_path / "weights.bin")
        data.symlink_to(tmp_path / "weights.bin")
        expected = "outside of its folder"
    else:
        data.rename(tmp_path / "weights.bin")
        location = {
            "outside": "../weights.bin",
            "absolute": str(tmp_path / "weights.bin"),
            "zero": "weights\0.bin",
            "long": "w" * 5000,
        }[fault]
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(model.SerializeToString())
        expected = "no w+ beside it" if fault == "long" else "outside of its folder"
    with pytest.raises(ModelFileError, match=expected) as error:
        read_foreign_model(path)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07\x12\x03abc"])
def test_what_is_no_model_gets_a_sentence(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelFileError):
        read_foreign_model(tmp_path / "m.onnx")
    with pytest.raises(ModelFileError):
        read_foreign_model(tmp_path / "missing.onnx")


def test_float16_weights_become_float32(rng, tmp_path):
    net = small_network(rng, dtype=TensorProto.FLOAT16)
    net.constants = [
        numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float16), t.name) for t in net.constants
    ]
    path = net.write(tmp_path / "m.onnx", output_type=TensorProto.FLOAT16)
    result = check_same(rng, path, atol=5e-3)
    assert any("float16" in note for note in result.notes)
    kinds = {tensor.data_type for tensor in result.model.graph.initializer}
    assert TensorProto.FLOAT16 not in kinds
    assert not adopted(small_network(rng).write(tmp_path / "m.onnx"), GIVEN)[1].notes


def test_casts_to_float16_and_float64_inside_are_followed(rng, tmp_path):
    net = small_network(rng)
    net.op("Cast", to=TensorProto.DOUBLE)
    check_same(rng, net.write(tmp_path / "m.onnx", output_type=TensorProto.DOUBLE))


def test_only_the_output_with_the_classes_is_kept(rng, tmp_path):
    net = Network(rng)
    net.conv(6)
    features = net.op("GlobalAveragePool")
    net.op("Flatten", axis=1)
    net.dense(4)
    logits = net.value
    classes = net.op("ArgMax", axis=1)
    net.value = logits
    net.op("Softmax", axis=1)
    infos = [
        helper.make_tensor_value_info(features, TensorProto.FLOAT, ["N", 6, 1, 1]),
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", 4]),
        helper.make_tensor_value_info(classes, TensorProto.INT64, ["N", 1]),
        helper.make_tensor_value_info(net.value, TensorProto.FLOAT, ["N", 4]),
    ]
    model = net.model()
    del model.graph.output[:]
    model.graph.output.extend(infos)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    given = ForeignModel(labels=list("abcd"), scaling=GIVEN.scaling)
    for output, activated in ((None, ["Softmax"]), (logits, ["Softmax"])):
        found = check_same(rng, tmp_path / "m.onnx", ForeignModel(given.labels, given.scaling, output=output))
        names = operators(found.model)
        assert "ArgMax" not in names
        assert [name for name in names if name == "Softmax"] == activated


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 1, 4), (1, 4)])
@pytest.mark.parametrize("end", ["Softmax", None])
def test_rows_with_sides_of_one_become_rows(rng, tmp_path, shape, end):
    net = Network(rng)
    net.conv(4)
    net.op("GlobalAveragePool")
    net.op("Reshape", np.array([0, *shape], np.int64))
    if end:
        net.op(end, axis=1 + shape.index(4))
    check_same(rng, net.write(tmp_path / "m.onnx", shape=["N", *shape]))


def test_one_value_an_image_without_an_axis_of_its_own(rng, tmp_path):
    net = Network(rng)
    net.conv(1)
    net.op("GlobalAveragePool")
    net.op("Sigmoid")
    net.op("Reshape", np.array([-1], np.int64))
    check_same(rng, net.write(tmp_path / "m.onnx", shape=["N"]))


def test_names_of_the_contract_may_be_taken(rng, tmp_path):
    net = small_network(rng)
    model = net.model()
    editing = {"x": "probabilities", "v1_0": "image", net.value: "pixels_output"}
    for node in model.graph.node:
        node.input[:] = [editing.get(name, name) for name in node.input]
        node.output[:] = [editing.get(name, name) for name in node.output]
    model.graph.node[0].name, model.graph.node[1].name = "pixels", "softmax"
    for value in (*model.graph.input, *model.graph.output):
        value.name = editing.get(value.name, value.name)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = check_same(rng, tmp_path / "m.onnx").model
    names = [node.name for node in found.graph.node]
    assert len(set(names)) == len(names)


def test_functions_branches_and_identities_are_resolved(rng, tmp_path):
    """A local function; a branch whose condition is known once the shape is; a dropout; constants in nodes."""
    net = Network(rng)
    net.conv(4)
    shape = net.value
    net.op("Dropout", np.float32(0.5))
    kept = net.value
    net.op("Shape", value=shape)
    net.op("Gather", np.array(1, np.int64))
    net.op("Equal", np.array(4, np.int64))
    branch = [
        helper.make_graph(
            [helper.make_node(kind, [kept], [f"out_{kind}"])],
            kind,
            [],
            [helper.make_tensor_value_info(f"out_{kind}", 1, None)],
        )
        for kind in ("Abs", "Neg")
    ]
    net.op("If", then_branch=branch[0], else_branch=branch[1])
    net.head()
    model = net.model()
    opset = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Exp", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["c"], body, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    relu = helper.make_node("Twice", [net.value], ["twice"], domain="own")
    model.graph.node.append(relu)
    model.graph.node.append(helper.make_node("Softmax", ["twice"], ["y"], axis=1))
    model.graph.output[0].name = "y"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = check_same(rng, tmp_path / "m.onnx").model
    assert not {"If", "Dropout", "Identity", "Constant", "Shape"} & set(operators(found))
    assert {item.domain for item in found.opset_import} == {""}


def test_sizes_that_are_free_are_fixed(rng, tmp_path):
    net = small_network(rng, size_hw=("H", "W"))
    model = net.model()
    model.graph.value_info.append(helper.make_tensor_value_info("v0_0", TensorProto.FLOAT, ["N", 6, "H", "W"]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    given = ForeignModel(scaling=GIVEN.scaling, image_size=SIZE_HW)
    check_same(rng, tmp_path / "m.onnx", given)


SCRIPT = """
import hashlib, sys
from edgeclf.export.graph.adopt.adoption import adopt_model
from edgeclf.export.graph.adopt.reading import read_foreign_model
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession
path = sys.argv[1]
use = ModelSession(path, foreign=ForeignModel(scaling=PixelScaling((120.0,), (60.0,)))).use
print(hashlib.sha256(adopt_model(read_foreign_model(path), use).model.SerializeToString()).hexdigest())
"""


def test_the_same_file_gives_the_same_bytes_in_every_process(rng, tmp_path):
    path = small_network(rng).write(tmp_path / "m.onnx")
    _, result = adopted(path, GIVEN)
    here = hashlib.sha256(result.model.SerializeToString()).hexdigest()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path)], check=False, capture_output=True, text=True, env=environment
        )
        assert done.stdout.strip() == here, done.stderr


def test_an_incomplete_use_is_a_fault_of_the_caller(rng, tmp_path):
    from edgeclf.runtime.session.foreign.resolution import resolve_foreign
    from edgeclf.runtime.session.graph_outline import read_graph_outline

    path = small_network(rng).write(tmp_path / "m.onnx")
    use = resolve_foreign(path, read_graph_outline(path), ForeignModel())
    with pytest.raises(ValueError, match="not complete"):
        adopt_model(read_foreign_model(path), use)
