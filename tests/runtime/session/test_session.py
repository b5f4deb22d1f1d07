"""Files that keep the contract, files that other tools made, and files that are neither."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.runtime.errors import DeviceUnavailableError, InputError, ModelFileError, UsageError
from edgeclf.runtime.prediction import predictions_from
from edgeclf.runtime.session.devices import DeviceChoice, check_provider, provider_requests
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession

from ...randomness import fresh_rng

LABELS = ("red", "green", "blue")
IMAGENET = PixelScaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def foreign_model(path, *, shape, elem_type=TensorProto.FLOAT, axes, classes=3, softmax=False, gain=1.0):
    """Mean of each channel times `gain`, as a classifier of three classes without a spec."""
    nodes, name = [], "pixels"
    if elem_type == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT))
        name = "floats"
    nodes.append(helper.make_node("ReduceMean", [name], ["means"], axes=axes, keepdims=0))
    nodes.append(helper.make_node("MatMul", ["means", "weights"], ["logits"]))
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", ["logits"], ["scores"]))
    weights = numpy_helper.from_array((np.eye(3, classes) * gain).astype(np.float32), "weights")
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("pixels", elem_type, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], classes])],
        [weights],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def images(count=5, size=16):
    return fresh_rng().integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_a_float_nchw_model_gets_scaled_pixels_and_a_softmax(tmp_path):
    path = foreign_model(tmp_path / "f.onnx", shape=["N", 3, 16, 16], axes=[2, 3])
    session = ModelSession(path, foreign=ForeignModel(LABELS, IMAGENET))
    assert session.is_foreign
    assert session.spec.labels == LABELS
    batch = images()
    wanted = softmax(((batch.astype(np.float64) - IMAGENET.mean) / IMAGENET.std).mean(axis=(1, 2)))
    np.testing.assert_allclose(session.run(batch), wanted, atol=1e-5)


def test_a_model_that_ends_in_a_softmax_gets_no_second_one(tmp_path):
    path = foreign_model(tmp_path / "f.onnx", shape=["N", 16, 16, 3], axes=[1, 2], softmax=True)
    batch = images()
    wanted = softmax((batch / 255.0).mean(axis=(1, 2)))
    session = ModelSession(path, foreign=ForeignModel(LABELS, PixelScaling((0, 0, 0), (255, 255, 255))))
    np.testing.assert_allclose(session.run(batch), wanted, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_fixed_batch_is_filled_up_and_gives_one_row_an_image(tmp_path, count):
    path = foreign_model(tmp_path / "f.onnx", shape=[4, 16, 16, 3], elem_type=TensorProto.UINT8, axes=[1, 2], gain=0.05)
    session = ModelSession(path, foreign=ForeignModel(LABELS))
    assert session.fixed_batch == 4
    batch = images(count)
    wanted = softmax(batch.mean(axis=(1, 2)) * 0.05)
    np.testing.assert_allclose(session.run(batch), wanted, atol=1e-4)


def test_what_a_foreign_file_does_not_say_must_be_said(tmp_path):
    path = foreign_model(tmp_path / "f.onnx", shape=["N", 3, 16, 16], axes=[2, 3])
    with pytest.raises(ModelFileError, match="no edgeclf spec"):
        ModelSession(path)
    with pytest.raises(ModelFileError, match="how they are scaled"):
        ModelSession(path, foreign=ForeignModel(LABELS))
    with pytest.raises(ModelFileError, match="got 2 labels, expected 3"):
        ModelSession(path, foreign=ForeignModel(LABELS[:2], IMAGENET))
    assert ModelSession(path, foreign=ForeignModel(("red", "red", "blue"), IMAGENET)).spec.labels == (
        "red (0)",
        "red (1)",
        "blue",
    )
    integer = foreign_model(tmp_path / "u.onnx", shape=["N", 16, 16, 3], elem_type=TensorProto.UINT8, axes=[1, 2])
    with pytest.raises(UsageError, match="takes uint8 pixels"):
        ModelSession(integer, foreign=ForeignModel(LABELS, IMAGENET))


@pytest.mark.parametrize("bad", [(0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1)])
def test_scaling_that_divides_by_nothing_is_refused(bad):
    with pytest.raises(UsageError, match="pixel scaling"):
        PixelScaling((0, 0, 0), bad)


@pytest.mark.parametrize("shape", [["N", 16, 16, 4], ["N", 16, 16], ["N", "H", "W", "C"], ["N", 2, 16, 16]])
def test_inputs_that_are_not_images_are_refused(tmp_path, shape):
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["scores"], axis=1)],
        "flat",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", "C"])],
    )
    path = tmp_path / "f.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelFileError, match="not an image classifier"):
        ModelSession(path, foreign=ForeignModel(LABELS, IMAGENET))


def test_a_file_with_a_spec_describes_itself(colour_model):
    session = ModelSession(colour_model)
    assert not session.is_foreign
    assert session.provider == "CPUExecutionProvider"
    with pytest.raises(UsageError, match="describes itself"):
        ModelSession(colour_model, foreign=ForeignModel(LABELS))
    with pytest.raises(UsageError, match="expected 1 to"):
        ModelSession(colour_model, threads=0)


def test_a_spec_that_does_not_fit_its_graph_is_refused(tmp_path, make_colour_model):
    with pytest.raises(ModelFileError, match="got 2 labels, expected 3"):
        ModelSession(make_colour_model(tmp_path / "m.onnx", spec_changes={"labels": ("red", "green")}))
    model = onnx.load(make_colour_model(tmp_path / "n.onnx", size_hw=(32, 32)))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="does not match its own spec"):
        ModelSession(tmp_path / "n.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08garbage" * 100])
def test_a_corrupt_file_gets_one_sentence(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        ModelSession(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_model_is_refused(tmp_path, colour_model):
    path = tmp_path / "m.onnx"
    path.write_bytes(colour_model.read_bytes()[:-200])
    with pytest.raises(ModelFileError):
        ModelSession(path)
    with pytest.raises(ModelFileError, match="no such file"):
        ModelSession(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="a folder"):
        ModelSession(tmp_path)


@pytest.mark.parametrize(
    "batch",
    [np.zeros((0, 32, 32, 3), np.uint8), np.zeros((1, 31, 32, 3), np.uint8), np.zeros((1, 32, 32, 3), np.float32)],
)
def test_batches_of_another_shape_are_refused(colour_model, batch):
    with pytest.raises(InputError, match=r"\(N, 32, 32, 3\) uint8"):
        ModelSession(colour_model).run(batch)


def test_a_gpu_that_is_not_there_is_no_cpu():
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed: what its session reports is tested where a GPU is")
    with pytest.raises(DeviceUnavailableError, match="onnxruntime-gpu"):
        provider_requests(DeviceChoice("cuda"))
    assert provider_requests(DeviceChoice()) == ["CPUExecutionProvider"]


def test_a_session_that_fell_back_is_not_taken_for_a_gpu():
    with pytest.raises(DeviceUnavailableError, match="fell back"):
        check_provider(DeviceChoice("cuda"), ["CPUExecutionProvider"])
    assert check_provider(DeviceChoice(), ["CPUExecutionProvider"]) == "CPUExecutionProvider"
    assert (
        check_provider(DeviceChoice("cuda"), ["CUDAExecutionProvider", "CPUExecutionProvider"])
        == "CUDAExecutionProvider"
    )


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(colour_model):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    try:
        gpu = ModelSession(colour_model, device="cuda")
    except DeviceUnavailableError as error:
        pytest.skip(f"needs a working NVIDIA GPU: {error}")
    batch = images(6, 32)
    assert gpu.provider == "CUDAExecutionProvider"
    np.testing.assert_allclose(gpu.run(batch), ModelSession(colour_model, device="cpu").run(batch), atol=1e-4)


def test_rows_that_are_not_numbers_are_no_prediction(colour_model):
    spec = ModelSession(colour_model).spec
    assert predictions_from(np.array([[0.1, 0.7, 0.2]], np.float32), spec)[0].label == "green"
    with pytest.raises(ModelFileError, match="NaN or infinity"):
        predictions_from(np.array([[0.1, np.nan, 0.2]], np.float32), spec)


def free_classes_model(path, labels, *, varying=False):
    """A model of three classes whose output says (N, C): with `varying`, three for one image and two for two."""
    from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess

    def integer(name, value, shape):
        return helper.make_tensor(name, TensorProto.INT64, shape, [value])

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["count"]),
        helper.make_node("Sub", ["four", "count"], ["left"]),
        helper.make_node("Range", ["zero", "left" if varying else "three", "one"], ["chosen"]),
        helper.make_node("Gather", ["means", "chosen"], ["some"], axis=1),
        helper.make_node("Softmax", ["some"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "free",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", "C"])],
        [integer("zero", 0, []), integer("one", 1, []), integer("three", 3, []), integer("four", 4, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if labels:
        entry = model.metadata_props.add()
        entry.key, entry.value = SPEC_KEY, ModelSpec(labels=labels, preprocess=Preprocess((8, 8))).to_json()
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c", "d")])
def test_labels_that_are_not_the_outputs_are_found_when_a_file_with_free_classes_is_opened(tmp_path, labels):
    path = free_classes_model(tmp_path / "m.onnx", labels)
    with pytest.raises(ModelFileError) as refused:
        ModelSession(path, threads=1)
    words = f"the labels do not match {path}: got {len(labels)} labels, expected 3, one for each output; "
    assert str(refused.value).startswith(words)
    fitting = ModelSession(free_classes_model(tmp_path / "m.onnx", ("a", "b", "c")), threads=1)
    assert fitting.run(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 3)


def test_a_number_of_classes_that_changes_with_the_batch_is_one_sentence(tmp_path):
    session = ModelSession(free_classes_model(tmp_path / "m.onnx", ("a", "b", "c"), varying=True), threads=1)
    assert session.run(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 3)
    with pytest.raises(ModelFileError, match=r"the labels do not match .*: got 3 labels, expected 2, one for each"):
        session.run(np.zeros((2, 8, 8, 3), np.uint8))
    # A file without a spec is tried with two images when it is opened.
    foreign = ForeignModel(labels=("a", "b", "c"))
    with pytest.raises(ModelFileError, match="the labels do not match"):
        ModelSession(free_classes_model(tmp_path / "m.onnx", (), varying=True), threads=1, foreign=foreign)


@pytest.mark.parametrize("word", [b"a property", b"its value", b"image", b"probabilities"])
def test_names_and_properties_that_are_no_text_are_one_sentence(colour_model, tmp_path, word):
    model = onnx.load(colour_model)
    onnx.helper.set_model_props(
        model, {item.key: item.value for item in model.metadata_props} | {"a property": "its value"}
    )
    data = model.SerializeToString()
    assert word in data
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert ModelSession(path, device="cpu").spec.labels
    path.write_bytes(data.replace(word, b"\xed\xa0\x80" + word[3:]))
    with pytest.raises(ModelFileError, match="cannot open model"):
        ModelSession(path, device="cpu")
