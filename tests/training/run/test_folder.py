"""A run folder appears whole or not at all, and says what is wrong with it when it is read."""

import json
import zipfile

import pytest

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.errors import OutputError, RunFolderError
from edgeclf.runtime.spec import ModelSpec, Preprocess
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.training_data import split_to_csv
from edgeclf.training.fit.checkpoint import Checkpoint, save_checkpoint
from edgeclf.training.fit.loop import Best, FitState
from edgeclf.training.run.folder import RUN_FILES, check_run_target, load_run, open_unfinished, read_divergence

SPEC = ModelSpec(labels=("cat", "dog"), preprocess=Preprocess((8, 8)), architecture="tiny")
SPLIT = (Sample("cat/1.jpg", "cat", "train"), Sample("dog/1.jpg", "dog", "val"))


def write_run(folder, *, model=b"weights"):
    folder.mkdir(exist_ok=True)
    for name in set(RUN_FILES) - {"checkpoint.npz", "tensorboard", "weights"}:
        (folder / name).write_bytes(b"")
    (folder / "model.keras").write_bytes(model)
    (folder / "spec.json").write_text(SPEC.to_json())
    (folder / "split.csv").write_text(split_to_csv(SPLIT))
    (folder / "run.json").write_text(json.dumps({"data_root": "/data", "options": {}}))
    return folder


def test_where_a_run_may_be_written(tmp_path, monkeypatch):
    check_run_target(tmp_path / "new", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_run_target(tmp_path / "empty", overwrite=False)
    run = write_run(tmp_path / "run")
    check_run_target(run, overwrite=True)
    with pytest.raises(RunFolderError, match=r"already holds a run.*--overwrite"):
        check_run_target(run, overwrite=False)
    (run / ".0a1b2c.part.png").write_bytes(b"left by a killed process")
    check_run_target(run, overwrite=True)
    (run / "model.onnx").write_bytes(b"an export of mine")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match=r"other files \(model\.onnx\)"):
            check_run_target(run, overwrite=overwrite)
    with pytest.raises(OutputError, match="got a file"):
        check_run_target(run / "model.onnx", overwrite=True)
    with pytest.raises(OutputError, match="file name too long"):
        check_run_target(tmp_path / ("x" * 300), overwrite=False)
    with pytest.raises(OutputError, match="a mounted folder"):
        check_run_target(type(tmp_path)("/proc"), overwrite=False)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputError, match="the current folder"):
        check_run_target(type(tmp_path)(), overwrite=False)


def test_what_a_training_that_diverged_at_once_left_is_replaced(tmp_path):
    """Of any network: a module of the user's own, a backbone from a file."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("split.csv", "network.py", "backbone.onnx"):
        (run / name).write_text("")
    facts = {"data_root": str(tmp_path), "options": {}}
    (run / "run.json").write_text(json.dumps(facts | {"diverged": {"stage": "fit"}}))
    (run / "tensorboard").mkdir()
    check_run_target(run, overwrite=False)
    (run / "history.csv").write_text("")
    with pytest.raises(RunFolderError, match="already holds a run"):
        check_run_target(run, overwrite=False)
    (run / "history.csv").unlink()
    (run / "run.json").write_text(json.dumps(facts | {"diverged": None}))
    with pytest.raises(RunFolderError, match="already holds a run"):
        check_run_target(run, overwrite=False)


@pytest.mark.parametrize("name", ["model.keras", "spec.json", "split.csv", "run.json"])
def test_a_missing_file_is_named(tmp_path, name):
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(RunFolderError, match=f"is not a run folder: got no {name}"):
        load_run(run)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("spec.json", "{", r"spec\.json"),
        ("spec.json", "[]", "cannot read run"),
        ("run.json", "{}", "cannot read run .*got no 'data_root'"),
        ("run.json", '{"data_root": 3, "options": {}}', "cannot read run"),
        ("run.json", '{"data_root": "/data"}', "cannot read run"),
        ("run.json", "\0", r"cannot read run .*got text that is not JSON, in line 1"),
        ("run.json", b"\xff\xfe\0", r"cannot read run .*got bytes that are no text"),
        ("run.json", "[1]", r"cannot read run .*got \[1\] instead of a record"),
        ("spec.json", b"\x80", r"cannot read run .*got bytes that are no text"),
        ("split.csv", b"\x80\n\x81", r"split\.csv.*got no 'path'"),
        ("split.csv", "nothing", r"split\.csv"),
        ("split.csv", "path,label,split\n1.jpg,cat,train\n2.jpg,bird,val\n", "different classes"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, words):
    run = write_run(tmp_path / "run")
    assert load_run(run).spec == SPEC
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunFolderError, match=words):
        load_run(run)


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "model.keras").unlink()
    (run / "checkpoint.npz").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"not finished.*--resume"):
        load_run(run)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(RunFolderError, match="no such file or folder"):
        load_run(tmp_path / "nowhere")


def test_a_damaged_or_foreign_model_is_refused(tmp_path):
    import_tensorflow()
    import keras

    def saved(size, classes, dtype="uint8"):
        image = keras.Input((size, size, 3), dtype=dtype)
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
        model = keras.Model(image, keras.layers.Dense(classes, activation="softmax")(x))
        path = tmp_path / "saved.keras"
        model.save(path)
        return path.read_bytes()

    good = saved(8, 2)
    run = write_run(tmp_path / "run", model=good)
    assert load_run(run).load_model().output.shape == (None, 2)
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    for data in (
        b"",
        b"text",
        good[:-50],
        good[: len(good) // 2],
        bytes(damaged),
        saved(8, 3),
        saved(9, 2),
        saved(8, 2, "float32"),
    ):
        (run / "model.keras").write_bytes(data)
        with pytest.raises(RunFolderError, match=r"cannot load .*model\.keras"):
            load_run(run).load_model()


def test_code_in_the_model_or_beside_it_is_not_run(tmp_path, monkeypatch):
    import_tensorflow()
    import keras

    trace = tmp_path / "ran"

    def writes(x):
        open(str(trace), "w").close()  # noqa: PTH123
        return x

    class Mine(keras.layers.Layer):
        def call(self, x):
            return x

    def run_with(layer, architecture="tiny"):
        image = keras.Input((8, 8, 3), dtype="uint8")
        x = keras.layers.Flatten()(layer(keras.layers.Rescaling(1 / 255)(image)))
        keras.Model(image, keras.layers.Dense(2, activation="softmax")(x)).save(tmp_path / "m.keras")
        trace.unlink(missing_ok=True)
        run = write_run(tmp_path / "run", model=(tmp_path / "m.keras").read_bytes())
        (run / "run.json").write_text(json.dumps({"data_root": "/data", "options": {"architecture": architecture}}))
        return run

    run = run_with(keras.layers.Lambda(writes))
    with pytest.raises(RunFolderError, match=r"cannot load .*with a Python function"):
        load_run(run).load_model()
    run = run_with(Mine(), "network:build")
    (run / "network.py").write_text(f"open({str(trace)!r}, 'w').close()")
    monkeypatch.chdir(run)
    with pytest.raises(RunFolderError, match=r"got Mine, and the module .* is not imported from its run folder"):
        load_run(run).load_model()
    assert not trace.exists()


def test_a_model_of_a_newer_keras_names_the_version_that_opens_it(tmp_path):
    import_tensorflow()
    import keras

    image = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    keras.Model(image, keras.layers.Dense(2, activation="softmax")(x)).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["metadata.json"] = json.dumps({"keras_version": "99.1.0"}).encode()
    files["config.json"] = files["config.json"].replace(b'"Flatten"', b'"FlattenAnew"')
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    run = write_run(tmp_path / "run", model=(tmp_path / "m.keras").read_bytes())
    with pytest.raises(RunFolderError, match=r"got a file of Keras 99\.1\.0 .*install Keras 99\.1\.0 or newer"):
        load_run(run).load_model()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "instead of a record"),
        ({}, "no 'data_root'"),
        ({"data_root": None, "options": {}}, "no 'data_root'"),
        ({"data_root": 5, "options": {}}, "data_root: expected a path, got 5"),
        ({"data_root": "/a\0b", "options": {}}, "data_root: expected a path"),
        ({"data_root": "/data"}, "no 'options'"),
        ({"data_root": "/data", "options": []}, "options: expected a record"),
        ({"data_root": "/data", "options": {"path_column": 3}}, "options.path_column: expected a text, got 3"),
        ({"data_root": "/data", "options": {}, "data": 1}, "data: expected a path, got 1"),
        ({"data_root": "/data", "options": {}, "began_with": {"--from": 1}}, "began_with.--from: expected a text"),
    ],
)
def test_a_record_of_other_types_is_one_sentence(tmp_path, document, words):
    run = write_run(tmp_path / "run")
    assert load_run(run).options == {}
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(RunFolderError, match=words):
        load_run(run)


@pytest.mark.parametrize("text", ["[" * 99_999, '{"data_root": NaN}', "1" * 5_000])
def test_a_record_that_is_no_json_is_one_sentence(tmp_path, text):
    run = write_run(tmp_path / "run")
    (run / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match="cannot read run"):
        load_run(run)
    assert read_divergence(run) is None


@pytest.mark.parametrize("row", ["cat/1.jpg", "cat/1.jpg,cat", "a\0b,cat,train,"])
def test_a_row_that_is_cut_off_is_one_sentence(tmp_path, row):
    run = write_run(tmp_path / "run")
    with (run / "split.csv").open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(RunFolderError, match="a row that is cut off"):
        load_run(run)


def write_unfinished(folder):
    write_run(folder)
    for name in ("spec.json", "model.keras"):
        (folder / name).unlink()
    figures = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 0.5)
    state = FitState([{"epoch": 1, "stage": "fit", **figures}], 0, Best(0.5, 1, []), [], [1.0])
    save_checkpoint(Checkpoint("fit", state, "x"), folder / "checkpoint.npz")
    return folder


@pytest.mark.parametrize("name", ["history.csv", "curves.png", "model.keras", "tensorboard", "checkpoint.npz"])
def test_a_training_goes_on_in_files_of_its_own_alone(tmp_path, name):
    run = write_unfinished(tmp_path / "run")
    assert open_unfinished(run, None).checkpoint.fingerprint == "x"
    theirs = tmp_path / "theirs"
    if (run / name).exists():
        (run / name).rename(theirs)
    (run / name).symlink_to(theirs)
    with pytest.raises(RunFolderError, match=rf"will not go on writing into .*{name}, a link to .*theirs"):
        open_unfinished(run, None)
    (run / name).unlink()
    if theirs.exists():
        # Within the folder a link is the user's own affair, and the folder may be one.
        theirs.rename(run / f"the {name}")
        (run / name).symlink_to(f"the {name}")
    (tmp_path / "link").symlink_to(run)
    assert open_unfinished(tmp_path / "link", None).checkpoint.fingerprint == "x"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": "3"}, "options.epochs: expected a whole number, got '3'"),
        ({"learning_rate": [1]}, "options.learning_rate: expected a number"),
        ({"fine_tune": 1}, "options.fine_tune: expected true or false, got 1"),
        ({"from_run": {}}, "options.from_run: expected a text"),
        ({"colour": 1}, "options of another version"),
    ],
)
def test_options_of_other_types_are_one_sentence(tmp_path, options, words):
    run = write_unfinished(tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"data_root": "/data", "options": options}))
    with pytest.raises(RunFolderError, match=words):
        open_unfinished(run, None)
