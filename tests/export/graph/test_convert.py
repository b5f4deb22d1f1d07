import gc
import weakref

import numpy as np
import onnx
import pytest

from edgeclf.export.graph import convert
from edgeclf.export.graph.contract import attach_spec, check_contract
from edgeclf.export.graph.convert import _collected_often, large_kernels, onnx_from_keras
from edgeclf.export.graph.light import weights
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.session.graph_outline import read_graph_outline
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess

from ...randomness import fresh_rng
from ...runtime.session.onnx_models import same_model
from ..conftest import LABELS, SIZE_HW, build_network

SPEC = ModelSpec(labels=LABELS, preprocess=Preprocess(SIZE_HW))


@pytest.fixture(scope="module")
def fp32(trained):
    model = onnx_from_keras(trained.model)
    attach_spec(model, SPEC)
    return model


def test_the_contract_holds(fp32):
    check_contract(fp32, SPEC)
    assert [i.name for i in fp32.graph.input] == ["image"]
    assert fp32.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert {item.domain for item in fp32.opset_import} == {""}


def test_the_outline_of_what_tf2onnx_writes_is_that_of_the_onnx_package(fp32, tmp_path):
    onnx.save(fp32, tmp_path / "m.onnx")
    found = read_graph_outline(tmp_path / "m.onnx")
    same_model(found, fp32)
    assert {"Conv", "Softmax"} <= {node.op_type for node in found.nodes}
    assert SPEC_KEY in found.metadata


def test_a_changed_contract_is_noticed(fp32):
    for change in (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", onnx.TensorProto.FLOAT),
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 2),
        lambda m: setattr(m, "ir_version", 99),
    ):
        damaged = onnx.ModelProto.FromString(fp32.SerializeToString())
        change(damaged)
        with pytest.raises((ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
            check_contract(damaged, SPEC)


def test_it_computes_what_keras_computes_for_any_batch(fp32, trained, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(fp32.SerializeToString())
    session = ModelSession(path)
    images = fresh_rng().integers(0, 256, (24, *SIZE_HW, 3), dtype=np.uint8)
    wanted = trained.model.predict_on_batch(images)
    for batch in (1, 3, 8):
        rows = np.concatenate([session.run(images[i : i + batch]) for i in range(0, 24, batch)])
        np.testing.assert_allclose(rows, wanted, atol=1e-5)


def test_conversion_is_reproducible_and_carries_no_path(fp32, trained):
    again = onnx_from_keras(trained.model)
    attach_spec(again, SPEC)
    kinds = [node.op_type for node in again.graph.node]
    assert kinds == [node.op_type for node in fp32.graph.node]
    assert b"/home" not in fp32.SerializeToString()
    assert b"site-packages" not in fp32.SerializeToString()


def test_a_model_with_another_input_is_refused():
    import keras

    model = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(InputError, match="one uint8 input"):
        onnx_from_keras(model)


def test_dropout_and_batch_normalisation_are_in_inference_mode(trained, tmp_path):
    # A network whose dropout were active, or whose statistics came from the batch, would not repeat itself.
    model = onnx_from_keras(build_network(seed=3))
    attach_spec(model, SPEC)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    session = ModelSession(path)
    alone = session.run(trained.held_out_rgb[:1])
    among = session.run(trained.held_out_rgb[:9])[:1]
    np.testing.assert_allclose(alone, among, atol=1e-6)


def network_with(compute, name="odd"):
    """A small network with a layer between two convolutions that computes whatever is given."""
    import keras

    class Odd(keras.layers.Layer):
        def call(self, x):
            return compute(x)

        def compute_output_shape(self, shape):
            return shape

    image = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Rescaling(1 / 128, offset=-127 / 128)(image))
    x = keras.layers.Conv2D(4, 3, padding="same")(Odd(name=name)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))


def bessel(x):
    import tensorflow as tf

    return tf.math.bessel_i0(x)


def fourier(x):
    import tensorflow as tf

    return tf.math.real(tf.signal.fft2d(tf.cast(x, tf.complex64)))


def transposed_by_values(x):
    import tensorflow as tf

    # Always 0, which nobody but the values can tell.
    nothing = tf.cast(tf.sigmoid(x[0, 0, 0, 0]) * 0.5, tf.int32)
    return tf.ensure_shape(tf.transpose(x, tf.add([0, 1, 2, 3], nothing)), x.shape)


def in_a_loop(x):
    import tensorflow as tf

    return tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, tf.math.bessel_i0(v)), (0, x))[1]


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        # Operators that the converter does not know, one in the body of a loop; one that it makes an invalid node of.
        (bessel, "layer 'odd': BesselI0,"),
        (fourier, "layer 'odd': FFT2D, layer 'odd': Real,"),
        (in_a_loop, "BesselI0,"),
        (transposed_by_values, "layer 'odd': .*has input size 2"),
    ],
)
def test_a_layer_that_cannot_be_converted_is_named_in_one_sentence(compute, said):
    with pytest.raises(InputError, match=said) as caught:
        onnx_from_keras(network_with(compute))
    assert "\n" not in caught.value.sentence
    assert "replace the layer" in caught.value.sentence


def test_an_odd_layer_that_can_be_converted_is():
    def clipped(x):
        import tensorflow as tf

        return tf.math.top_k(tf.clip_by_value(x, -1, 1), 4).values

    kinds = {node.op_type for node in onnx_from_keras(network_with(clipped)).graph.node}
    assert "TopK" in kinds


def test_copies_that_refer_to_themselves_are_given_back_as_a_conversion_goes_on():
    class Graph:
        """As tf2onnx's: its nodes know it."""

    # As in a process that holds much else.
    held = [[] for _ in range(2_000_000)]
    gc.collect()
    alive = weakref.WeakSet()
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    most = 0
    with _collected_often():
        for _ in range(40):
            graph = Graph()
            graph.nodes = [[graph] for _ in range(5000)]
            alive.add(graph)
            del graph
            most = max(most, len(alive))
    assert most <= 4
    assert len(held) == 2_000_000
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, frozen)


def _dense_network(rng):
    """Dense layers of several kinds behind a convolution with batch normalisation, one of them inside another model."""
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Flatten()(x)
    first = layers.Dense(48, activation="relu", name="first")
    inside = keras.Sequential(
        [keras.Input((48,)), layers.Dense(48, use_bias=False, name="inside")], name="model_inside"
    )
    x = inside(first(x))
    # A second use of the same kernel.
    shared = layers.Dense(48, name="shared")
    x = layers.Add()([shared(x), shared(layers.ReLU()(x))])
    outputs = layers.Softmax(name="probabilities")(layers.Dense(5, name="logits")(x))
    return _randomised(keras.Model(image, outputs), rng)


def _tensor_network(rng):
    """Dense layers along the last axis of tensors of rank 4."""
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3), dtype="uint8", name="image")
    x = layers.Dense(32, activation="relu", name="by_pixel")(layers.Rescaling(1 / 255)(image))
    x = layers.Dense(16, name="again")(x)
    outputs = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return _randomised(keras.Model(image, outputs), rng)


def _tied_network(rng):
    """A kernel that is read transposed as well: of a constant TensorFlow computes that at once."""
    import keras
    from keras import layers

    class Tied(layers.Layer):
        def __init__(self, dense):
            super().__init__(name="tied")
            self.dense = dense

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.dense.kernel))

    image = keras.Input((8, 8, 3), dtype="uint8", name="image")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3)(layers.Rescaling(1 / 255)(image)))
    dense = layers.Dense(24, activation="relu", name="read_twice")
    outputs = layers.Dense(5, activation="softmax")(Tied(dense)(dense(x)))
    return _randomised(keras.Model(image, outputs), rng)


def _randomised(model, rng):
    for variable in model.weights:
        values = rng.standard_normal(variable.shape) * 0.2
        variable.assign(values**2 + 0.5 if "variance" in variable.path else values)
    return model


@pytest.mark.parametrize(
    ("network", "limit_bytes", "outside"),
    [
        (_dense_network, 48 * 48 * 4, 3),
        (_dense_network, 48 * 5 * 4, 4),
        (_tensor_network, 256, 3),
        (_tied_network, 16 * 24 * 4, 0),
    ],
)
def test_kernels_that_the_converter_does_not_see_give_the_same_bytes(network, limit_bytes, outside, monkeypatch, rng):
    model = network(rng)
    wanted = onnx_from_keras(model)
    monkeypatch.setattr(weights, "LARGE_BYTES", limit_bytes)
    assert large_kernels(model)
    kept_out = []
    make = convert._make_weights
    monkeypatch.setattr(convert, "_make_weights", lambda *given: kept_out.append(len(given[1])) or make(*given))
    got = onnx_from_keras(model)
    # Where more than a matrix product reads a kernel, it is converted as all other weights are.
    assert kept_out == [outside]
    assert not weights.is_light(got)
    if network is _tensor_network:
        # Nodes that do not read each other's values have no order of their own.
        for model_proto in (got, wanted):
            _sort(model_proto.graph)
    assert got.SerializeToString() == wanted.SerializeToString()


def _sort(graph):
    for items in (graph.node, graph.initializer):
        ordered = sorted(items, key=lambda item: item.name)
        copies = [type(item).FromString(item.SerializeToString()) for item in ordered]
        del items[:]
        items.extend(copies)


def test_small_kernels_are_left_to_the_converter(rng):
    assert large_kernels(_dense_network(rng)) == ()
