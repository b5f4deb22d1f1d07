"""Keras models that others made, through the commands: exit codes, options and what is said."""

import json

import numpy as np
import pytest

from edgeclf.runtime import ModelSession

from ...conftest import CLASSES


@pytest.fixture(scope="module")
def keras():
    from edgeclf.export.keras_backend import import_tensorflow

    import_tensorflow()
    import keras

    return keras


def classifier(keras, *first):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((24, 24, 3)),
            *first,
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(len(CLASSES), activation="softmax"),
        ]
    )


def test_code_in_a_file_ends_with_code_3_and_is_not_run(run_edgeclf, tmp_path, keras):
    trace = tmp_path / "trace"
    writes = eval(f"lambda x: (open({str(trace)!r}, 'w').close(), x)[1]")
    classifier(keras, keras.layers.Lambda(writes)).save(tmp_path / "m.keras")
    trace.unlink()
    done = run_edgeclf("export", tmp_path / "m.keras", "--out", tmp_path / "m.onnx")
    assert (done.returncode, trace.exists(), (tmp_path / "m.onnx").exists()) == (3, False, False)
    assert done.stderr.startswith("edgeclf: ")
    assert "--unsafe-load" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_keras_file_becomes_a_verified_file(call_edgeclf, photographs, tmp_path, keras):
    model = classifier(keras, keras.layers.RandomFlip())
    model.save(tmp_path / "flowers.keras")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    out = tmp_path / "m.onnx"
    done = call_edgeclf("export", tmp_path / "flowers.keras", "--data", photographs, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json()["candidates"][0]["parity"][0]["agreement"] == 1.0
    assert done.json()["used_as"]["labels"]["origin"] == "found in labels.txt"
    session = ModelSession(out, device="cpu")
    assert session.spec.source["file"] == "flowers.keras"
    assert "keras 3" in json.dumps(session.spec.parity)
    images = np.random.default_rng().integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    np.testing.assert_allclose(session.run(images), model(images.astype(np.float32), training=False), atol=1e-4)


def test_int8_of_a_keras_file(call_edgeclf, photographs, tmp_path, keras):
    classifier(keras).save(tmp_path / "m.keras")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    given = ("export", tmp_path / "m.keras", "--out", tmp_path / "m.onnx", "--precision", "int8", "--effort", "quick")
    assert call_edgeclf(*given).code == 2
    done = call_edgeclf(*given, "--data", photographs, "--min-agreement", 0.5, "--max-accuracy-drop", 0.9, "--json")
    assert done.code == 0, done.err
    assert ModelSession(tmp_path / "m.onnx", device="cpu").spec.precision == "int8"


def test_info_says_how_a_keras_file_is_used(call_edgeclf, tmp_path, keras):
    classifier(keras).export(tmp_path / "saved", verbose=False)
    done = call_edgeclf("info", tmp_path / "saved", "--json")
    assert done.code == 0, done.err
    assert done.json()["kind"] == "SavedModel"
    assert done.json()["opened_with"].startswith("tensorflow")
    assert done.json()["used_as"]["scaling"]["origin"] == "found in the graph"
    shown = call_edgeclf("info", tmp_path / "saved")
    assert "SavedModel by TensorFlow" in shown.out


def test_options_for_opening_are_refused_for_other_sources(call_edgeclf, colour_model, tmp_path):
    for option in (("--custom-objects", "layers"), ("--unsafe-load",), ("--signature", "x")):
        done = call_edgeclf("export", colour_model, "--out", tmp_path / "m.onnx", *option)
        assert done.code == 2, done.err
        assert "no Keras file" in done.err
        assert call_edgeclf("info", colour_model, *option).code == 2


def test_a_function_by_name_and_its_custom_layers(call_edgeclf, tmp_path, monkeypatch, keras):
    (tmp_path / "my_networks.py").write_text(
        "import keras\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
        "def build():\n"
        "    x = image = keras.Input((16, 16, 3))\n"
        "    x = keras.layers.Conv2D(4, 3)(Twice()(keras.layers.Rescaling(1 / 255)(x)))\n"
        "    x = keras.layers.GlobalAveragePooling2D()(x)\n"
        "    return keras.Model(image, keras.layers.Dense(3)(x))\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    done = call_edgeclf("export", "my_networks:build", "--out", "m.onnx")
    assert done.code == 0, done.err
    assert ModelSession(tmp_path / "m.onnx", device="cpu").spec.source["file"] == "my_networks:build"
    missing = call_edgeclf("export", "my_networks:biuld", "--out", "n.onnx")
    assert (missing.code, "build" in missing.err) == (2, True)


@pytest.mark.parametrize("kind", ["file", "SavedModel"])
def test_a_file_is_verified_against_its_keras_original(call_edgeclf, photographs, tmp_path, keras, kind):
    model, original, out = classifier(keras), tmp_path / "original", tmp_path / "m.onnx"
    if kind == "file":
        original = tmp_path / "original.keras"
        model.save(original)
    else:
        model.export(original, verbose=False)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES), encoding="utf-8")
    made = call_edgeclf("export", original, "--labels", names, "--fit", "crop", "--out", out)
    assert made.code == 0, made.err
    # How the original is used needs no word: the file that was made of it records it, labels and fit too.
    done = call_edgeclf("verify", out, photographs, "--against", original, "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert (document["passed"], document["agreement"]) == (True, 1.0)
    assert document["reference_accuracy"] == document["candidate_accuracy"] is not None
    assert document["used_as"][str(original)]["fit"]["value"] == "crop"
    assert f"{original} is used as {out} records" in done.err
    for sides in ((out, original), (original, out)):
        both = call_edgeclf("compare", *sides, photographs, "--json")
        assert both.code == 0, both.err
        assert (both.json()["agreement"], both.json()["changed"]) == (1.0, [])
        ran_on = [both.json()[letter]["ran_on"].split()[0] for letter in "ab"]
        assert sorted(ran_on) == sorted(["CPUExecutionProvider", "keras" if kind == "file" else "tensorflow"])
    alone = call_edgeclf("evaluate", original, photographs, "--labels", names, "--fit", "crop", "--json")
    assert alone.code == 0, alone.err
    assert alone.json()["accuracy"] == document["reference_accuracy"]
    # Another network is not the original.
    other = classifier(keras)
    other.layers[-1].set_weights([-10 * other.layers[-1].get_weights()[0], np.array([5.0, 0.0, -5.0])])
    other.save(tmp_path / "other.keras")
    options = ("--labels", names, "--fit", "crop")
    failed = call_edgeclf("verify", out, photographs, "--against", tmp_path / "other.keras", *options)
    assert failed.code == 4, failed.err
    layers = call_edgeclf("verify", out, photographs, "--against", original, "--layers")
    assert (layers.code, "--precision fp32" in layers.err) == (2, True)


def test_a_keras_model_by_name_gets_the_names_of_the_other_side(
    call_edgeclf, photographs, tmp_path, monkeypatch, keras
):
    classifier(keras).save(tmp_path / "original.keras")
    (tmp_path / "saved_networks.py").write_text(
        "import keras\nnetwork = keras.saving.load_model('original.keras')\n", encoding="utf-8"
    )
    (tmp_path / "names.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert call_edgeclf("export", "original.keras", "--labels", "names.txt", "--out", "m.onnx").code == 0
    done = call_edgeclf("verify", "m.onnx", photographs, "--against", "saved_networks:network", "--json")
    assert (done.code, done.json()["agreement"]) == (0, 1.0), done.err
    assert "the names of m.onnx are taken" in done.err


def test_options_for_opening_a_keras_side_need_one(call_edgeclf, colour_model, photographs):
    for command in (
        ("verify", colour_model, photographs, "--against", colour_model),
        ("verify", colour_model),
        ("compare", colour_model, colour_model, photographs),
        ("evaluate", colour_model, photographs),
    ):
        done = call_edgeclf(*command, "--signature", "x")
        assert (done.code, "no Keras file" in done.err) == (2, True), done.err


@pytest.mark.parametrize("kind", ["m.keras", "m.h5", "saved"])
def test_what_only_runs_onnx_files_names_the_way_to_one(call_edgeclf, photographs, tmp_path, keras, kind):
    path = tmp_path / kind
    if kind == "saved":
        classifier(keras).export(path, verbose=False)
    else:
        classifier(keras).save(path)
    ours = photographs  # any path: the model is opened first
    for command in (("bench", path), ("infer", path, photographs), ("verify", path, ours, "--against", path)):
        done = call_edgeclf(*command)
        assert done.code == 3, done.err
        (sentence,) = (line for line in done.err.splitlines() if line.startswith("edgeclf: "))
        assert "make an .onnx file of it first, with edgeclf export" in sentence
