"""Saved Keras models: what is opened, what is refused, and that nothing in a file is run."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from edgeclf.export.source.keras_files.loading import load_keras_file
from edgeclf.runtime.errors import ModelFileError

from .old_files import functional, layer, randomise, tensor, write_old_h5


def small(keras, *extra, last="softmax"):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            *extra,
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation=last),
        ]
    )


def edited(path, change):
    """The archive with its config changed."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(files["config.json"])
    change(document)
    files["config.json"] = json.dumps(document).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_of_keras_3_gives_what_its_model_gives(tmp_path, rng, keras, suffix):
    inner = keras.Sequential([keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255)])
    model = small(keras, inner, keras.layers.Normalization(mean=(0.4, 0.5, 0.6), variance=(0.1, 0.2, 0.3)))
    randomise(model, rng)
    model.compile("adam", "categorical_crossentropy")
    model.save(tmp_path / f"m{suffix}")
    images = rng.integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    loaded = load_keras_file(tmp_path / f"m{suffix}")
    np.testing.assert_allclose(loaded(images, training=False), model(images, training=False), atol=1e-6)


def test_a_layer_of_keras_applications_is_one_of_kerass_own(tmp_path, rng, keras):
    from keras.src.applications.convnext import LayerScale

    model = small(keras, LayerScale(0.5, 3))
    model.save(tmp_path / "m.keras")
    images = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    loaded = load_keras_file(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(images, training=False), model(images, training=False), atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_mixed_precision_is_opened_in_float32(tmp_path, rng, keras, suffix):
    model = small(keras, keras.layers.Conv2D(3, 3, dtype="mixed_float16"))
    model.save(tmp_path / f"m{suffix}")
    assert {item.compute_dtype for item in load_keras_file(tmp_path / f"m{suffix}").layers} == {"float32"}


def test_code_in_a_file_is_not_run(tmp_path, keras):
    trace = tmp_path / "ran"
    # Building the network runs it, and so does its writer here.
    writes = eval(f"lambda x: (open({str(trace)!r}, 'w').close(), x)[1]")
    model = small(keras, keras.layers.Lambda(writes))
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"m{suffix}"
        model.save(path)
        trace.unlink()
        with pytest.raises(ModelFileError, match=r"code in it.*Lambda.*--unsafe-load"):
            load_keras_file(path)
        assert not trace.exists()
        assert load_keras_file(path, is_trusted=True).count_params() == model.count_params()
        assert trace.exists()


def test_code_deep_inside_is_found(tmp_path, keras):
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2)])
    model = small(keras, inner)
    model.save(tmp_path / "m.keras")
    with pytest.raises(ModelFileError, match="code in it"):
        load_keras_file(tmp_path / "m.keras")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: item.update(class_name="TFSMLayer", config={"filepath": "/elsewhere"}), "TFSMLayer"),
        (
            lambda item: item.update(class_name="TorchModuleWrapper", config={"module": "gASVAA=="}),
            "TorchModuleWrapper",
        ),
        (lambda item: item.update(class_name="StringLookup", config={"vocabulary": "/etc/hostname"}), "/etc/hostname"),
        (lambda item: item.update(module="os", class_name="system", config="true"), "system"),
        (lambda item: item.update(module="builtins", class_name="function", config="eval"), "eval"),
        (lambda item: item.update(module="keras.utils", class_name="get_file", config={"origin": "x"}), "get_file"),
        (
            lambda item: item.update(module="keras.config", class_name="function", config="enable_unsafe"),
            "enable_unsafe",
        ),
        (lambda item: item.update(class_name="TFOpLambda", config={"function": "io.write_file"}), "tf.io.write_file"),
        (lambda item: item.update(class_name="TFOpLambda", config={"function": "math.__loader__"}), "__loader__"),
        (lambda item: item["config"].update(activation={"module": "os", "class_name": "function", "config": "x"}), "x"),
    ],
)
def test_what_is_none_of_kerass_own_layers_is_refused(tmp_path, keras, change, said):
    small(keras).save(tmp_path / "m.keras")
    edited(tmp_path / "m.keras", lambda document: change(document["config"]["layers"][1]))
    with pytest.raises(ModelFileError) as caught:
        load_keras_file(tmp_path / "m.keras")
    assert said in caught.value.got
    assert "code in it" in caught.value.what or "Keras does not have" in caught.value.what


def test_a_lambda_of_keras_2_is_refused(tmp_path, keras):
    image = keras.Input((6, 6, 3))
    twin = keras.Model(image, keras.layers.Conv2D(2, 3, name="conv")(image))
    code = ["4wEAAAAA", None, None]
    layers = [
        layer("InputLayer", "input", [], batch_input_shape=[None, 6, 6, 3]),
        layer("Conv2D", "conv", [[tensor("input")]], filters=2, kernel_size=[3, 3]),
        layer("Lambda", "twice", [[tensor("conv")]], function=code, function_type="lambda", arguments={}),
    ]
    write_old_h5(tmp_path / "m.h5", twin, functional("net", layers, ["input"], ["twice"]))
    with pytest.raises(ModelFileError, match=r"'twice' \(Lambda\)"):
        load_keras_file(tmp_path / "m.h5")


def test_custom_layers_are_named_and_may_be_given(tmp_path, rng, keras):
    class Halve(keras.layers.Layer):
        def call(self, x):
            return x / 2

    def squashed(x):
        return keras.ops.tanh(x)

    model = small(keras, Halve(), keras.layers.Activation(squashed), keras.layers.Lambda(squashed))
    model.save(tmp_path / "m.keras")
    with pytest.raises(ModelFileError, match=r"Halve.*--custom-objects MODULE"):
        load_keras_file(tmp_path / "m.keras", custom_objects={"squashed": squashed})
    loaded = load_keras_file(tmp_path / "m.keras", custom_objects={"Halve": Halve, "squashed": squashed})
    images = rng.uniform(0, 1, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)


def test_a_file_of_weights_alone_says_so(tmp_path, keras):
    model = small(keras)
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ModelFileError, match=r"weights without a network.*model\.save"):
        load_keras_file(tmp_path / "m.weights.h5")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_damaged_file_is_an_error(tmp_path, rng, keras, suffix):
    path = tmp_path / f"m{suffix}"
    small(keras).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(1, len(data) - 200))])
    with pytest.raises(ModelFileError):
        load_keras_file(path)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="empty"):
        load_keras_file(path)


def test_weights_that_are_no_numbers_or_of_another_network_are_an_error(tmp_path, keras):
    model = small(keras)
    model.weights[0].assign(np.full(model.weights[0].shape, np.nan))
    model.save(tmp_path / "m.keras")
    with pytest.raises(ModelFileError, match="NaN"):
        load_keras_file(tmp_path / "m.keras")
    small(keras).save(tmp_path / "n.keras")

    def more_filters(document):
        document["config"]["layers"][1]["config"]["filters"] = 5

    edited(tmp_path / "n.keras", more_filters)
    with pytest.raises(ModelFileError, match="cannot open"):
        load_keras_file(tmp_path / "n.keras")


@pytest.mark.parametrize(
    ("key", "number"), [("units", 2**40), ("filters", 2**63), ("kernel_size", 10**30), ("units", -1)]
)
def test_numbers_that_no_memory_holds_are_an_error_about_the_file(tmp_path, keras, key, number):
    path = tmp_path / "m.keras"
    small(keras).save(path)

    def change(document):
        for item in document["config"]["layers"]:
            if key in item["config"]:
                item["config"][key] = number

    edited(path, change)
    with pytest.raises(ModelFileError, match=r"cannot open .*m\.keras with Keras"):
        load_keras_file(path)


def link(file, name, outside):
    file[name] = h5py.ExternalLink(str(outside / "other.h5"), "/weights")


def soft_link(file, name, _):
    file[name] = h5py.SoftLink("/somewhere")


def storage(file, name, outside):
    file.create_dataset(name, (3,), "f4", external=[(str(outside / "other.bin"), 0, h5py.h5f.UNLIMITED)])


def virtual(file, name, outside):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[...] = h5py.VirtualSource(str(outside / "other.h5"), "/weights", (3,))
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("elsewhere", [link, soft_link, storage, virtual])
def test_weights_in_another_file_are_not_read(tmp_path, keras, suffix, elsewhere):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "other.bin").write_bytes(bytes(12))
    with h5py.File(outside / "other.h5", "w") as file:
        file["weights"] = np.zeros(3, np.float32)
    path, weights = tmp_path / f"m{suffix}", tmp_path / "weights.h5"
    small(keras).save(path)
    if suffix == ".h5":
        weights = path
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        weights.write_bytes(files["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if getattr(item, "shape", None) == (3,) else None)
        del file[names[0]]
        elsewhere(file, names[0], outside)
    if suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**files, "model.weights.h5": weights.read_bytes()}.items():
                archive.writestr(name, data)
    with pytest.raises(ModelFileError, match="weights that are elsewhere: /"):
        load_keras_file(path)


def test_a_group_that_holds_itself_ends(tmp_path, keras):
    small(keras).save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["model_weights/around"] = file["model_weights"]
    load_keras_file(tmp_path / "m.h5")
