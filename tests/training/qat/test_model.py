from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import Calibrator, quantize_int8
from edgeclf.export.int8.determinism.saturation import prove_no_saturation
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.int8.weights import PAIR_BOUND, largest_pair, quantize_rows, round_to_codes
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.spec import ModelSpec, Preprocess
from edgeclf.training.qat.model import fake_quantized, simulated_network

pytestmark = pytest.mark.slow

SIZE = 32
NEAREST = QuantizationRecipe(gptq=False, correct_bias=False)
AS_TRAINED = replace(NEAREST, trained_ranges=True)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)


def network(seed=3):
    """Convolutions with and without normalisation, depthwise, residual, ReLU6: with statistics that are not the initial ones."""
    import keras
    from keras import Input, Model, layers

    keras.utils.set_random_seed(seed)
    image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    x = layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False, name="a")(x)
    x = entry = layers.ReLU(6.0, name="a_relu")(layers.BatchNormalization(name="a_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="b")(x)
    x = layers.ReLU(6.0, name="b_relu")(layers.BatchNormalization(name="b_bn")(x))
    x = layers.BatchNormalization(name="c_bn")(layers.Conv2D(12, 1, name="c")(x))
    x = layers.ReLU(name="add_relu")(layers.Add(name="add")([x, entry]))
    x = layers.MaxPooling2D(name="pool")(layers.Conv2D(24, 3, activation="relu", name="d")(x))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dense(4, name="logits")(x)
    model = Model(image, layers.Softmax(name="probabilities")(x), name="net")
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [rng.uniform(0.5, 2, shape), rng.normal(0, 0.3, shape), rng.normal(0, 0.3, shape), rng.uniform(0.3, 2, shape)]
            )  # fmt: skip
    return model


def run_int8(model, images, recipe=NEAREST):
    written = quantize_int8(onnx_from_keras(model), images, recipe)
    session = open_session_from_bytes(written.model.SerializeToString(), threads=1)
    return written, session.run(None, {"image": images})[0]


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-140, 140, width=32)),
    st.booleans(),
)
def test_tensors_are_rounded_as_arrays_are(scaled, paired):
    from edgeclf.training.qat.layers import round_to_codes as on_tensors

    codes = np.asarray(on_tensors(scaled, paired=paired))
    np.testing.assert_array_equal(codes, round_to_codes(scaled.astype(np.float64), paired=paired))
    if paired:
        assert largest_pair(codes.astype(np.int64)) <= PAIR_BOUND


def test_the_simulated_network_computes_what_the_int8_file_does(images):
    model = network()
    simulated = fake_quantized(model, images, paired=True, progress=no_progress)
    wanted = np.log(np.asarray(simulated.model(images, training=False)))
    int8 = np.log(run_int8(model, images)[1])
    rounding = np.abs(int8 - np.log(np.asarray(model(images, training=False)))).mean()
    # It follows the file several times closer than the float network does.
    assert rounding > 1e-3
    assert np.abs(int8 - wanted).mean() < rounding / 3


def test_the_file_has_the_weights_that_were_trained(images):
    model = network()
    simulated = fake_quantized(model, images, paired=True, progress=no_progress)
    before = np.asarray(simulated.model(images, training=False))
    fresh = np.random.default_rng(1)
    for layer in weighted(simulated.model):
        # As training leaves them: multiples of no scale.
        rows = folded_rows(layer)
        codes, scales = quantize_rows(rows, paired=layer.paired)
        assert np.abs(codes * scales[:, None] - rows).max() > 0.1 * scales.max()
        layer.bias.assign(np.asarray(layer.bias) + fresh.normal(0, 0.1, layer.bias.shape))
    moved = np.asarray(simulated.model(images, training=False))
    assert np.abs(moved - before).max() > 1e-3
    scales = simulated.scales()
    simulated.write_back()
    calibrated = Calibrator(onnx_from_keras(model), images, trained=scales).network(AS_TRAINED)
    assert prove_no_saturation(calibrated.write().model).holds
    again = fake_quantized(model, scales, paired=True, progress=no_progress).model
    written = {name.split("/")[0]: layer for name, layer in calibrated.layers.items()}
    assert set(written) == {"a", "b", "c", "d", "logits"}
    for name, quantized in written.items():
        layer, simulated_again = simulated.model.get_layer(f"{name}_int8"), again.get_layer(f"{name}_int8")
        kernel, bias = layer.folded()
        trained = np.asarray(layer._rows(layer.rounded(kernel)), np.float64)
        weights = quantized.codes * quantized.scales[:, None]
        np.testing.assert_allclose(weights, trained, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(quantized.scales, scales.weights[name].scales)
        rows = folded_rows(simulated_again)
        np.testing.assert_allclose(weights, rows, atol=1e-3 * quantized.scales.max())
        np.testing.assert_allclose(simulated_again.folded()[0], layer.rounded(kernel), atol=1e-4)
        np.testing.assert_allclose(simulated_again.folded()[1], bias, atol=1e-4)


def weighted(simulated):
    return [layer for layer in simulated.layers if layer.name.endswith("_int8")]


def folded_rows(layer):
    return np.asarray(layer._rows(layer.folded()[0]), np.float64)


def test_gradients_reach_every_weight_and_rounding_is_on_in_training(images):
    import tensorflow as tf

    model = network()
    simulated = fake_quantized(model, images, paired=True, progress=no_progress).model
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.math.log(simulated(images[:8], training=True)[:, 0] + 1e-6))
    gradients = tape.gradient(loss, simulated.trainable_variables)
    # A kernel and a bias for each of five layers, and a scale for each of six values.
    assert len(gradients) == 16
    for gradient, variable in zip(gradients, simulated.trainable_variables, strict=True):
        assert gradient is not None, variable.path
        assert np.abs(np.asarray(gradient)).max() > 0, variable.path
    statistics = [np.asarray(weight) for weight in model.non_trainable_weights]
    simulated(images, training=True)
    for weight, was in zip(model.non_trainable_weights, statistics, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), was)


def test_ranges_are_learned_and_their_file_computes_what_was_simulated(images):
    import tensorflow as tf

    model = network()
    simulated = fake_quantized(model, images, paired=True, progress=no_progress)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.math.log(simulated.model(images[:8], training=True)[:, 0] + 1e-6))
    logs = [value for value in simulated.model.trainable_variables if value.path.endswith("log_scale")]
    assert len(logs) == len(simulated.scales().values) == 6
    assert all(np.abs(float(gradient)) > 0 for gradient in tape.gradient(loss, logs))
    chosen = simulated.scales().values
    for number, value in enumerate(logs):
        # To between a half and twice what it was, as training may.
        value.assign((-1) ** number * np.log(2) / 150)
    learned = simulated.scales().values
    assert {name: round(learned[name].scale / chosen[name].scale, 2) for name in ("a_relu", "b_relu")} == {
        "a_relu": 1.59,
        "b_relu": 0.63,
    }
    simulated.write_back()
    wanted = np.log(np.asarray(simulated.model(images, training=False)))
    # The network itself clips where the ranges end; a ReLU6 keeps its 6 where that is less.
    assert model.get_layer("b_relu").max_value == pytest.approx(learned["b_relu"].high)
    assert model.get_layer("a_relu").max_value == pytest.approx(min(6.0, learned["a_relu"].high))
    scales = simulated.scales()
    spec = ModelSpec(("w", "x", "y", "z"), Preprocess((SIZE, SIZE), "stretch"), training=scales.to_json())
    again = simulated_network(model, spec)
    np.testing.assert_allclose(np.log(np.asarray(again(images, training=False))), wanted, atol=2e-3)
    errors = {}
    for name, recipe in (("usual", NEAREST), ("trained", AS_TRAINED)):
        calibrator = Calibrator(onnx_from_keras(model), images, trained=scales)
        session = open_session_from_bytes(calibrator.network(recipe).write().model.SerializeToString(), threads=1)
        errors[name] = np.abs(np.log(session.run(None, {"image": images})[0]) - wanted).mean()
    assert errors["trained"] < errors["usual"] / 3


def test_operators_that_python_writes_are_part_of_the_network(images):
    import keras
    from keras import Input, Model, layers

    keras.utils.set_random_seed(3)
    image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="a")(x)
    # As keras.applications writes hard sigmoid and hard swish.
    x = x * (layers.ReLU(6.0, name="cut")(x + 3.0) * (1.0 / 6.0))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="b")(x) + x
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D(name="features")(x))
    model = Model(image, layers.Softmax(name="probabilities")(layers.Dense(4, name="logits")(x)))
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * 50, bias])
    simulated = fake_quantized(model, images, paired=True, progress=no_progress)
    wanted = np.log(np.asarray(simulated.model(images, training=False)))
    written, got = run_int8(model, images)
    assert written.left_in_float == ()
    rounding = np.abs(np.log(got) - np.log(np.asarray(model(images, training=False)))).mean()
    assert np.abs(np.log(got) - wanted).mean() < rounding / 2
    params = Calibrator(onnx_from_keras(model), images, trained=simulated.scales()).network(AS_TRAINED).params
    # Every value between layers has a scale that was trained, or one a hair from it, so that no sum is halfway between
    # two codes, or a sixth of one; the pixels have their own.
    learned = np.array([p.scale for p in simulated.scales().values.values()])
    learned = np.concatenate([learned, learned / 6])
    constants = [name for name in params if "_for_" in name]
    assert len(constants) == 1
    for p in (params[name] for name in params if name not in constants):
        assert np.abs(learned / p.scale - 1).min() < 2e-3 or p.scale == 1 / 128


def spec_of(training):
    return ModelSpec(("w", "x", "y", "z"), Preprocess((SIZE, SIZE), "stretch"), training=training)


def test_a_run_of_a_version_that_recorded_ranges_alone_is_simulated_with_them(images):
    model = network()
    simulated = fake_quantized(model, images, paired=True, progress=no_progress)
    wanted = np.log(np.asarray(simulated.model(images, training=False)))
    recorded = {"ranges_8bit": simulated.scales().to_json()["ranges_8bit"]}
    again = simulated_network(model, spec_of(recorded))
    np.testing.assert_allclose(np.log(np.asarray(again(images, training=False))), wanted, atol=1e-5)


def test_scales_of_another_network_are_refused_by_name(images):
    scales = fake_quantized(network(), images[:8], paired=True, progress=no_progress).scales().to_json()
    scales["ranges_8bit"]["e_relu"] = scales["ranges_8bit"].pop("a_relu")
    with pytest.raises(InputError, match=r"not of this network: got e_relu, which it does not have"):
        simulated_network(network(), spec_of(scales))


def test_a_run_that_was_trained_in_float_has_nothing_to_simulate():
    assert simulated_network(network(), ModelSpec(("w", "x"), Preprocess((SIZE, SIZE), "stretch"))) is None


def test_a_step_changes_large_and_small_channels_by_the_same_share(images):
    import keras
    import tensorflow as tf

    model = network()
    # Channel 1 of the first convolution 64 times larger, and read as many times smaller: the same network.
    norm, reader = model.get_layer("c_bn"), model.get_layer("d")
    entry_norm = model.get_layer("a_bn")
    for layer in (norm, entry_norm):
        gamma, beta, *rest = layer.get_weights()
        gamma[1], beta[1] = gamma[1] * 64, beta[1] * 64
        layer.set_weights([gamma, beta, *rest])
    kernel, bias = reader.get_weights()
    kernel[:, :, 1] /= 64
    reader.set_weights([kernel, bias])
    simulated = fake_quantized(model, images, paired=True, progress=no_progress).model
    layer = simulated.get_layer("d_int8")
    before = np.asarray(layer.folded()[0])
    optimizer = keras.optimizers.Adam(1e-3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.math.log(simulated(images, training=True)[:, 0] + 1e-6))
    optimizer.apply(tape.gradient(loss, simulated.trainable_variables), simulated.trainable_variables)
    change = np.abs(np.asarray(layer.folded()[0]) - before).mean(axis=(0, 1, 3))
    size = np.sqrt(np.square(before).mean(axis=(0, 1, 3)))
    # Of a channel that is 64 times smaller, steps are as much smaller.
    assert size[1] < size[0] / 30
    np.testing.assert_allclose((change / size)[1], np.median(change / size), rtol=0.5)


def test_networks_within_networks_are_refused(images):
    from keras import Input, Model, layers

    inner = network()
    image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    nested = Model(image, layers.Softmax(name="probabilities")(layers.Dense(3, name="logits")(inner(image))))
    with pytest.raises(InputError, match="flat network"):
        fake_quantized(nested, images, paired=True, progress=no_progress)


def test_a_convolution_that_has_no_8_bit_form_is_refused_by_name(images):
    from keras import Input, Model, layers

    image = Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.SeparableConv2D(4, 3, name="apart")(layers.Rescaling(1 / 255)(image))
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x))
    with pytest.raises(InputError, match="got apart, a SeparableConv2D"):
        fake_quantized(Model(image, layers.Softmax()(x)), images, paired=True)


def test_a_normalisation_ahead_of_a_relu_is_rounded_behind_it(images):
    """As the file does: between the two nothing is held in 8 bits."""
    from keras import Input, Model, layers

    image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.MaxPooling2D(name="pool")(layers.Conv2D(8, 3, name="a")(layers.Rescaling(1 / 128, offset=-1)(image)))
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm", beta_initializer="ones")(x))
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="features")(x))
    model = Model(image, layers.Softmax(name="probabilities")(x))
    assert set(fake_quantized(model, images[:8], paired=True).scales().values) == {"a", "relu", "features"}


def test_batch_normalisation_that_is_not_folded_keeps_its_statistics():
    from edgeclf.training.fit.stages import _train_all_but_statistics

    model = network()
    model.trainable = False
    _train_all_but_statistics(model)
    kinds = {type(layer).__name__ for layer in model.layers if layer.weights and not layer.trainable}
    assert kinds == {"BatchNormalization"}
