"""`edgeclf train --arch module:function`: the run is complete, and needs the module only for layers of its own."""

import json

import numpy as np
import pytest

from edgeclf.training import load_run
from edgeclf.training.fit import stages
from edgeclf.training.run.folder import CHECKPOINT_FILE, NETWORK_FILE

from ..test_train import interrupted

pytestmark = pytest.mark.slow

MODULE = """
import keras
L = keras.layers

class Scale(L.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")
    def call(self, x):
        return x * self.factor

def plain(classes: int, image_size: tuple[int, int]) -> keras.Model:
    image = keras.Input((*image_size, 3))
    x = L.Rescaling(1 / 255)(L.RandomFlip("horizontal")(image))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, strides=2)(x)))
    return keras.Model(image, L.Dense(classes, activation="softmax")(L.Dropout(0.1)(L.GlobalAveragePooling2D()(x))))

def custom(classes, image_size):
    image = keras.Input((*image_size, 3))
    return keras.Model(image, L.Dense(classes)(L.GlobalAveragePooling2D()(Scale()(L.Rescaling(1 / 255)(image)))))
"""
OPTIONS = ("--image-size", "32", "--batch-size", "16", "--learning-rate", "0.003")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the current folder."""
    folder = tmp_path / "code"
    folder.mkdir()
    name = f"trained_{tmp_path.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(folder)
    return name


def test_a_dropout_scale_is_for_networks_with_dropout(call_edgeclf, photographs, module, tmp_path):
    given = ("train", photographs, "--run", tmp_path / "run", *OPTIONS, "--epochs", 1, "--dropout-scale", 0.5)
    done = call_edgeclf(*given, "--arch", f"{module}:custom")
    assert done.code == 2
    assert "a network without dropout" in done.err
    assert call_edgeclf(*given, "--arch", f"{module}:plain").code == 0


def test_a_run_of_ones_own_network_is_complete(run_edgeclf, call_edgeclf, photographs, module, tmp_path, monkeypatch):
    run = tmp_path / "run"
    done = run_edgeclf(
        "train", photographs, "--arch", f"{module}:plain", "--run", run, *OPTIONS, "--epochs", 2, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["architecture"] == f"{module}:plain"
    assert (run / NETWORK_FILE).read_text(encoding="utf-8") == MODULE
    # Where the module has gone, the saved network suffices.
    monkeypatch.chdir(tmp_path)
    assert call_edgeclf("export", run, "--out", tmp_path / "m.onnx").code == 0
    assert call_edgeclf("doctor", run, "--json").code in {0, 4}
    images = np.random.default_rng().integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    first, second = (np.asarray(load_run(run).load_model()(images, training=False)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_it_is_gone_on_from(call_edgeclf, photographs, module, tmp_path):
    run, more = tmp_path / "run", tmp_path / "more"
    arch = ("--arch", f"{module}:plain")
    assert call_edgeclf("train", photographs, *arch, "--run", run, *OPTIONS, "--epochs", 1).code == 0
    done = call_edgeclf("train", photographs, "--from", run, "--run", more, "--epochs", 1, "--json")
    assert done.code == 0, done.err
    assert done.json()["classes"]["kept"] == done.json()["labels"]
    # The same network from the file that it was saved in.
    taken = call_edgeclf(
        "train", photographs, *arch, "--weights", run / "model.keras", "--run", tmp_path / "w", *OPTIONS, "--epochs", 1
    )
    assert taken.code == 0, taken.err
    assert "began with the weights of model.keras: 3 layers loaded" in taken.out


def test_it_is_resumed_with_the_module_that_it_began_with(
    run_edgeclf, call_edgeclf, photographs, module, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    options = ("--arch", f"{module}:plain", *OPTIONS, "--epochs", "3")
    whole = run_edgeclf("train", photographs, "--run", tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    interrupted(5, photographs, run, monkeypatch, *options, signal="SIGKILL")
    assert (run / CHECKPOINT_FILE).is_file()
    path = tmp_path / "code" / f"{module}.py"
    path.write_text(MODULE.replace("Conv2D(8", "Conv2D(9"), encoding="utf-8")
    changed = run_edgeclf("train", "--resume", run)
    assert (changed.returncode, NETWORK_FILE in changed.stderr) == (3, True)
    path.write_text(MODULE + f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    # Elsewhere the run folder alone names the place of the module.
    monkeypatch.chdir(tmp_path)
    arch = ("--arch", f"{module}:plain")
    refused = call_edgeclf("train", "--resume", run)
    assert (refused.code, refused.err.count("\n")) == (3, 1)
    assert f"run edgeclf in the folder of that module, or pass --arch {module}:plain" in refused.err
    assert not (tmp_path / "ran").exists()
    path.write_text(MODULE, encoding="utf-8")
    other = call_edgeclf("train", "--resume", run, "--arch", f"{module}:custom")
    assert (other.code, "--arch does not go with --resume" in other.err) == (2, True)
    done = run_edgeclf("train", "--resume", run, *arch)
    assert done.returncode == 0, done.stderr
    assert (run / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()


def test_layers_of_the_module_need_the_module(run_edgeclf, photographs, module, tmp_path, monkeypatch):
    run = tmp_path / "run"
    done = run_edgeclf("train", photographs, "--arch", f"{module}:custom", "--run", run, *OPTIONS, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    export = ("export", run, "--out", tmp_path / "m.onnx")
    assert run_edgeclf(*export).returncode == 0
    monkeypatch.chdir(tmp_path)
    gone = run_edgeclf(*export)
    assert gone.returncode == 3
    assert "Scale" in gone.stderr
    assert f"{run / NETWORK_FILE} is a copy of it" in gone.stderr


class CutError(BaseException):
    """Ends a training as a kill does, but for this process."""


def test_no_command_imports_a_module_that_came_with_a_run(call_edgeclf, photographs, module, tmp_path, monkeypatch):
    run, ran = tmp_path / "sent" / "run", tmp_path / "ran"

    def cut(*given, progress, **options):
        def report(text, done, total):
            if done >= 5:
                raise CutError
            progress(text, done, total)

        return fit_network(*given, progress=report, **options)

    fit_network = stages.fit_network
    with monkeypatch.context() as patch:
        patch.setattr(stages, "fit_network", cut)
        with pytest.raises(CutError):
            call_edgeclf("train", photographs, "--run", run, "--arch", f"{module}:plain", *OPTIONS, "--epochs", "2")
    facts = (run / "run.json").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def refused(architecture, *command):
        for path in (run.parent / "evil.py", run / NETWORK_FILE):
            path.write_text(MODULE + f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
        sent = json.loads(facts)
        sent["options"]["architecture"] = f"{architecture}:plain"
        (run / "run.json").write_text(json.dumps({**sent, "module_folder": str(run.parent)}), encoding="utf-8")
        done = call_edgeclf(*command)
        assert not ran.exists()
        return done

    for architecture, code in (("evil", 3), ("sent.evil", 2), ("sent.run.network", 2)):
        done = refused(architecture, "train", "--resume", run)
        assert (done.code, done.err.count("\n")) == (code, 1), done.err
    (run / "run.json").write_text(facts, encoding="utf-8")
    (run / NETWORK_FILE).write_text(MODULE, encoding="utf-8")
    assert call_edgeclf("train", "--resume", run, "--arch", f"{module}:plain").code == 0
    # Its layers are Keras's own: the saved network suffices.
    for architecture in ("evil", "sent.evil", "sent.run.network"):
        done = refused(architecture, "evaluate", run, photographs)
        assert done.code == 0, done.err
    assert refused("sent.evil", "export", run, "--out", tmp_path / "m.onnx").code == 0
    assert refused("sent.run.network", "doctor", run, "--fast").code in {0, 4}


def test_what_cannot_be_built_is_refused_before_images_are_read(call_edgeclf, module, tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    for arch, code in ((f"{module}:absent", 2), ("no_such_module:build", 2)):
        done = call_edgeclf("train", tmp_path / "data", "--arch", arch, "--run", tmp_path / "run")
        assert done.code in {code, 3}, done.err
        assert not (tmp_path / "run").exists()
