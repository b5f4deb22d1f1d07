"""Keras models of others as what is exported: their graphs compute what they compute, used as ONNX files are."""

import importlib
import sys

import numpy as np
import onnx
import pytest

from edgeclf.export.source.keras_files.kinds import KerasOptions, keras_kind
from edgeclf.export.source.keras_files.source import open_keras_model, open_keras_source
from edgeclf.runtime import ForeignModel, ModelSession, PixelScaling
from edgeclf.runtime.errors import InputError, ModelFileError, UsageError

from .old_files import randomise, teachable_machine

SIGNED = PixelScaling((127.5,), (127.5,))


def check_agreement(classifier, folder, rng, images=24):
    """Compares the contract graph in ONNX Runtime with the network in its own runtime; gives the greatest difference."""
    from edgeclf.export.graph.contract import attach_spec

    model = classifier.float_model()
    attach_spec(model, classifier.spec)
    onnx.save(model, folder / "exported.onnx")
    session = ModelSession(folder / "exported.onnx", device="cpu")
    # Several sizes of content: flat, coarse and noisy.
    height, width = classifier.spec.preprocess.size_hw
    pixels = rng.integers(0, 256, (images, height, width, 3), dtype=np.uint8)
    pixels[::3] = rng.integers(0, 256, (len(pixels[::3]), 1, 1, 3), dtype=np.uint8)
    expected, got = classifier.reference_for("fp32").run(pixels), session.run(pixels)
    assert got.shape == (images, len(classifier.spec.labels))
    assert (expected.argmax(1) == got.argmax(1)).all()
    error = float(np.abs(expected - got).max())
    assert error <= 1e-4
    # The images are told apart, by one class at least: of random weights any single one may hardly move.
    assert np.ptp(expected, axis=0).max() > 1e-3
    return error


def network(keras, rng, *first, size=(24, 20), channels=3, outputs=4, last="softmax", dtype="float32"):
    layers = keras.layers
    image = keras.Input((*size, channels), dtype=dtype)
    x = image
    for layer in first:
        x = layer(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(outputs, activation=last)(x))
    randomise(model, rng)
    return model


def test_teachable_machine_with_its_labels(tmp_path, rng):
    teachable_machine(tmp_path / "keras_model.h5", rng, classes=3)
    (tmp_path / "labels.txt").write_text("0 Class 1\n1 Tasse\n2 Nichts\n", encoding="utf-8")
    with pytest.raises(ModelFileError, match="--preprocess"):
        open_keras_source(tmp_path / "keras_model.h5")
    classifier = open_keras_source(tmp_path / "keras_model.h5", ForeignModel(preset="teachable-machine"))
    assert classifier.spec.labels == ("Class 1", "Tasse", "Nichts")
    assert classifier.spec.preprocess.fit == "crop"
    assert classifier.runtime.startswith("keras 3.")
    assert classifier.spec.source["producer"] == "Keras 2.4.0"
    assert classifier.spec.source["file"] == "keras_model.h5"
    check_agreement(classifier, tmp_path, rng)


def test_preprocessing_inside_stays_and_augmentation_goes(tmp_path, rng, keras):
    layers = keras.layers
    augment = keras.Sequential(
        [layers.RandomFlip(), keras.Sequential([layers.RandomRotation(0.4), layers.RandomContrast(0.3)])]
    )
    norm = layers.Normalization(mean=(120.0, 115.0, 100.0), variance=(60.0, 58.0, 57.0))
    model = network(keras, rng, augment, layers.RandomZoom(0.2), layers.Resizing(16, 16), norm, size=(None, None))
    model.save(tmp_path / "m.keras")
    with pytest.raises(ModelFileError, match="--image-size"):
        open_keras_source(tmp_path / "m.keras")
    classifier = open_keras_source(tmp_path / "m.keras", ForeignModel(image_size=(24, 31)))
    assert classifier.spec.preprocess.size_hw == (24, 31)
    assert classifier.spec.source["used_as"]["scaling"]["origin"] == "found in the graph"
    operators = {node.op_type for node in classifier.float_model().graph.node}
    assert not [name for name in operators if "Random" in name or name == "Bernoulli"]
    assert "Resize" in operators
    check_agreement(classifier, tmp_path, rng)


@pytest.mark.parametrize(
    ("options", "given", "labels"),
    [
        ({"last": None}, ForeignModel(scaling=SIGNED), 4),
        ({"last": "sigmoid", "outputs": 1}, ForeignModel(scaling=SIGNED), 2),
        ({"channels": 1}, ForeignModel(scaling=SIGNED), 4),
        ({"dtype": "uint8", "rescale": 1 / 127.5}, ForeignModel(), 4),
        ({"size": (None, 20)}, ForeignModel(image_size=(28, 20), channels="bgr", scaling=SIGNED), 4),
    ],
)
def test_inputs_and_outputs_of_other_kinds(tmp_path, rng, keras, options, given, labels):
    first = [keras.layers.Rescaling(scale, offset=-1) for scale in [options.get("rescale")] if scale]
    network(keras, rng, *first, **{key: value for key, value in options.items() if key != "rescale"}).save(
        tmp_path / "m.keras"
    )
    classifier = open_keras_source(tmp_path / "m.keras", given)
    assert len(classifier.spec.labels) == labels
    check_agreement(classifier, tmp_path, rng)


def test_a_saved_model_is_run_by_tensorflow(tmp_path, rng, keras):
    model = network(keras, rng, keras.layers.Rescaling(1 / 127.5, offset=-1))
    model.export(tmp_path / "saved", verbose=False)
    (tmp_path / "saved" / "labels.txt").write_text("a\nb\nc\nd\n", encoding="utf-8")
    classifier = open_keras_source(tmp_path / "saved")
    assert classifier.spec.labels == tuple("abcd")
    assert classifier.runtime.startswith("tensorflow 2.")
    assert classifier.name == "saved"
    check_agreement(classifier, tmp_path, rng)
    with pytest.raises(UsageError, match="--custom-objects"):
        open_keras_source(tmp_path / "saved", options=KerasOptions(custom_objects="layers"))


def test_one_that_answers_at_random_is_refused(tmp_path, rng, keras):
    import tensorflow as tf

    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
        def serve(self, image):
            return tf.nn.softmax(tf.reduce_mean(image, (1, 2)) + tf.random.uniform((3,)))

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "saved"), signatures=net.serve)
    with pytest.raises(InputError, match="another answer for the same image"):
        open_keras_model(tmp_path / "saved")


def test_several_inputs_or_outputs(tmp_path, rng, keras):
    images = keras.Input((8, 8, 3)), keras.Input((4,))
    both = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(images[0]), images[1]])
    keras.Model(images, both).save(tmp_path / "two.keras")
    with pytest.raises(ModelFileError, match="2 inputs"):
        open_keras_model(tmp_path / "two.keras")
    x = keras.layers.GlobalAveragePooling2D()(images[0])
    heads = [
        keras.layers.Dense(3, name=name, activation=end)(x) for name, end in (("kind", "softmax"), ("x", "softmax"))
    ]
    model = keras.Model(images[0], heads)
    model.save(tmp_path / "heads.keras")
    opened = open_keras_model(tmp_path / "heads.keras", ForeignModel(scaling=SIGNED))
    assert [item.what for item in opened.use.missing] == ["has several outputs that could be the classes"]
    classifier = open_keras_source(tmp_path / "heads.keras", ForeignModel(scaling=SIGNED, output="x"))
    check_agreement(classifier, tmp_path, rng)


def write_module(folder, monkeypatch, text):
    """A module in the current folder, of a name that no other test has."""
    name = f"user_module_{folder.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return name


MODULE = """
import keras

@keras.saving.register_keras_serializable("mine")
class Halve(keras.layers.Layer):
    def call(self, x):
        return x / 2

class Net(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.norm = keras.layers.Dense(3), keras.layers.Rescaling(1 / 255)

    def call(self, image):
        return self.dense(keras.ops.mean(self.norm(image), (1, 2)))

def build():
    image = keras.Input((8, 8, 3), name="picture")
    x = keras.layers.GlobalAveragePooling2D()(Halve()(keras.layers.Rescaling(1 / 255)(image)))
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))

def subclass():
    net = Net()
    net(keras.Input((8, 8, 3)))
    return net

def never_called():
    return Net()

def fails():
    raise KeyError("nothing there")

def with_arguments(classes):
    return build()

number = 3
ready = build()
"""


def test_a_function_or_a_model_by_name(tmp_path, rng, monkeypatch):
    name = write_module(tmp_path, monkeypatch, MODULE)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
    for item in ("build", "ready", "subclass"):
        classifier = open_keras_source(f"{name}:{item}")
        assert classifier.spec.labels == ("a", "b", "c")
        assert classifier.spec.source["file"] == f"{name}:{item}"
        check_agreement(classifier, tmp_path, rng)
    for item, said in (
        ("fails", "nothing there"),
        ("number", "no Keras model"),
        ("with_arguments", "without arguments"),
        ("never_called", "has not been called"),
    ):
        with pytest.raises(InputError, match=said):
            open_keras_source(f"{name}:{item}")
    with pytest.raises(UsageError, match="build or"):
        open_keras_source(f"{name}:bild")
    with pytest.raises(UsageError, match="no module"):
        open_keras_source("there_is_no_such:build")
    assert str(tmp_path) not in sys.path


def test_custom_layers_of_a_module(tmp_path, rng, monkeypatch, keras):
    name, module = write_module(tmp_path, monkeypatch, MODULE), importlib.import_module
    monkeypatch.syspath_prepend(str(tmp_path))
    module(name).build().save(tmp_path / "m.keras")
    known = keras.saving.get_custom_objects()
    for registered in [found for found in known if found.startswith("mine>")]:
        del known[registered]
    sys.modules.pop(name)
    with pytest.raises(ModelFileError, match="Halve"):
        open_keras_source(tmp_path / "m.keras")
    check_agreement(open_keras_source(tmp_path / "m.keras", options=KerasOptions(name)), tmp_path, rng)
    module(name).subclass().save(tmp_path / "s.keras")
    check_agreement(open_keras_source(tmp_path / "s.keras", options=KerasOptions(name)), tmp_path, rng)


def test_kinds_are_told_by_content(tmp_path, keras):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "other.onnx").write_bytes(b"\x08\x08")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "m.keras")
    (tmp_path / "m.keras").rename(tmp_path / "archive")
    found = {name: keras_kind(tmp_path / name) for name in ("saved", "run", "other.onnx", "archive", "absent")}
    assert found == {"saved": "SavedModel", "run": None, "other.onnx": None, "archive": "Keras file", "absent": None}
    assert keras_kind("package.module:build") == "Python object"
    assert keras_kind("C:\\model.onnx") is None
    assert keras_kind("https://host/x") is None
