"""Frozen backbones from ONNX files: where they are cut, what they compute, and what is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.source.feature_layer import feature_layer_of, onnx_with_head
from edgeclf.runtime.errors import EdgeclfError, InputError, ModelFileError, UsageError
from edgeclf.runtime.session.foreign.given import ForeignModel
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.session.session import ModelSession
from edgeclf.training.fit.resolve import resolve_options
from edgeclf.training.networks.onnx_backbone import read_onnx_backbone
from edgeclf.training.options import TrainOptions

from ...randomness import fresh_rng
from ...toolkit.doctor.foreign_networks import SIZE_HW, Network

GIVEN = ForeignModel(preset="imagenet", channels="bgr")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A trained network with a BGR input, ImageNet's scaling, and a softmax."""
    return Network(is_bgr=True).write(tmp_path_factory.mktemp("network") / "net.onnx", fresh_rng())


def test_the_last_pooled_features_are_those_of_the_file(path, rng):
    backbone = read_onnx_backbone(path, None, GIVEN)
    assert (backbone.name, backbone.feature_count) == ("onnx:net", 24)
    assert backbone.content.startswith("net.onnx (blake2b-128 ")
    # As the preset has it, and cropped where nothing says the fit.
    assert (backbone.preprocess.fit, backbone.preprocess.crop_fraction) == ("crop", 0.875)
    assert (
        read_onnx_backbone(
            path, None, ForeignModel(channels="bgr", scaling=ModelSession(path, foreign=GIVEN).use.scaling)
        ).preprocess.fit
        == "crop"
    )
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    (features,) = open_session_from_bytes(backbone.graph, threads=1).run(None, {"image": images})
    # The file's own head on them gives the file's own answers.
    weights = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    logits = features @ weights["head"] + weights["offset"]
    wanted = ModelSession(path, foreign=GIVEN).run(images)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), wanted, atol=1e-5)


def test_keras_computes_the_features_and_the_exported_graph_the_same_with_the_head(path, rng, tmp_path, monkeypatch):
    import keras

    from edgeclf.training.networks.registry import assemble, build_head
    from edgeclf.training.run.saved_network import load_saved_network

    backbone = read_onnx_backbone(path, None, GIVEN)
    images = rng.integers(0, 256, (4, *SIZE_HW, 3), dtype=np.uint8)
    (features,) = open_session_from_bytes(backbone.graph, threads=1).run(None, {"image": images})
    built = backbone.build()
    np.testing.assert_array_equal(built(images).numpy(), features)
    assert built.output_shape == (None, 24)
    network = assemble(built, build_head(24, 3))
    network.save(tmp_path / "m.keras")
    # Applications empty Keras's list, as its documentation does.
    monkeypatch.delitem(keras.saving.get_custom_objects(), "edgeclf>OnnxFeatures")
    loaded = load_saved_network(tmp_path / "m.keras", "efficientnet-lite0")
    assert feature_layer_of(loaded).graph == backbone.graph
    probabilities = loaded(images, training=False).numpy()
    joined = onnx_with_head(loaded)
    onnx.checker.check_model(joined, full_check=True)
    (found,) = open_session_from_bytes(joined.SerializeToString(), threads=1).run(None, {"image": images})
    np.testing.assert_allclose(found, probabilities, atol=1e-6)


def test_another_value_can_be_named(path):
    assert read_onnx_backbone(path, "end0", GIVEN).feature_count == 4
    with pytest.raises(UsageError, match="no value 'nothing': expected the name of what a node gives, such as"):
        read_onnx_backbone(path, "nothing", GIVEN)
    with pytest.raises(InputError, match=r"relu of .* is no row of features"):
        read_onnx_backbone(path, "relu", GIVEN)


def without_pooling(path):
    """A network that flattens its pixels, as one without pooling does."""
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(48, 8)).astype(np.float32), "h": rng.normal(size=(8, 2)).astype(np.float32)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_without_pooling_a_name_is_asked_for(tmp_path):
    path = without_pooling(tmp_path / "flat.onnx")
    with pytest.raises(UsageError, match=r"no pooling over height and width.*--backbone-output.*hidden"):
        read_onnx_backbone(path, None, ForeignModel(preset="keras-tf"))
    assert read_onnx_backbone(path, "hidden", ForeignModel(preset="keras-tf")).feature_count == 8


def test_a_pooling_with_a_kernel_of_the_whole_map_is_one_too(tmp_path):
    values = {"h": np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)}
    nodes = [
        # The first one pools, and leaves a map.
        helper.make_node("AveragePool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AveragePool", ["half"], ["pooled"], kernel_shape=[4, 4]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pools",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "pools.onnx").write_bytes(model.SerializeToString())
    assert read_onnx_backbone(tmp_path / "pools.onnx", None, ForeignModel(preset="keras-tf")).feature_count == 3


def test_what_nothing_says_is_asked_for(path, tmp_path):
    with pytest.raises(ModelFileError, match="does not say how they are scaled"):
        read_onnx_backbone(path, None, ForeignModel())
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelFileError):
        read_onnx_backbone(tmp_path / "text.onnx", None, GIVEN)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fine_tune": True}, "--fine-tune does not go with a backbone from an ONNX file"),
        ({"qat": True}, "--qat does not go with a backbone from an ONNX file"),
        ({"architecture": "small-cnn"}, "--arch does not go with --backbone"),
        ({"weights": "imagenet"}, "--weights does not go with --backbone"),
        ({"mean": "0"}, "incomplete pixel scaling"),
        ({"mean": "a,b", "std": "1"}, "bad --mean"),
        ({"preprocess": "none-such"}, "unknown preprocessing"),
        ({"augment": "light"}, "nothing to augment"),
        ({"image_size": 64}, "takes images of another size"),
    ],
)
def test_options_that_make_no_sense_are_refused(path, changes, words):
    usual = {"backbone": str(path), "preprocess": "imagenet"}
    with pytest.raises(EdgeclfError, match=words):
        resolve_options(TrainOptions(**{**usual, **changes}))


def test_options_of_a_backbone_need_one():
    for changes in (
        {"preprocess": "imagenet"},
        {"backbone_output": "x"},
        {"mean": "0", "std": "1"},
        {"channels": "bgr"},
    ):
        with pytest.raises(UsageError, match="without --backbone"):
            resolve_options(TrainOptions(**changes))
