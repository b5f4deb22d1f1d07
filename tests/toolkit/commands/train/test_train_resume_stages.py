"""`edgeclf train --resume` in every stage and on every kind of data: cut off, gone on with from another folder, the same run."""

import csv
import json
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeclf.training import TrainOptions, train
from edgeclf.training.fit import stages
from edgeclf.training.networks.registry import ARCHITECTURES, Architecture
from edgeclf.training.options import training_options
from edgeclf.training.recipes import FROM_SCRATCH, HEAD
from edgeclf.training.run.folder import CHECKPOINT_FILE, WEIGHTS_FOLDER, load_run

from ..test_train import FINISHED_FILES

pytestmark = pytest.mark.slow

TINY = ("--arch", "tiny", "--batch-size", "16", "--epochs", "3")
COMPARED = ("history.csv", "metrics.json", "split.csv", "spec.json")


class CutError(BaseException):
    """Ends a training as a kill does, but for this process: nothing catches it."""


def tiny_features(size_hw):
    import keras

    image = keras.Input((*size_hw, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 255, name="normalise")(image)
    x = keras.layers.Conv2D(8, 3, strides=4, name="conv0")(x)
    x = keras.layers.Dropout(0.4, name="dropout0")(keras.layers.ReLU(name="relu0")(x))
    return image, keras.layers.GlobalAveragePooling2D(name="pool")(x)


def build_tiny_backbone(size_hw, weights):
    import keras

    model = keras.Model(*tiny_features(size_hw), name="tiny")
    if weights != "none":
        rng = np.random.default_rng(0)
        model.set_weights([rng.normal(0, 0.2, item.shape) for item in model.get_weights()])
        model.trainable = False
    return model


def build_tiny(size_hw, classes):
    import keras

    image, x = tiny_features(size_hw)
    x = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(x))


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    """A pretrained architecture and one from scratch, with dropout, that are built and trained at once."""
    sides = {"default_size": 32, "min_size": 16, "default_fit": "crop", "dropout": True}
    made = {
        "tiny-backbone": Architecture(
            "tiny-backbone", "for tests", **sides, recipe=HEAD, build_backbone=build_tiny_backbone
        ),
        "tiny": Architecture(
            "tiny", "for tests", **sides, recipe=FROM_SCRATCH, takes_batch_norm=True, build=build_tiny
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, architecture in made.items():
            patch.setitem(ARCHITECTURES, name, architecture)
        yield


@pytest.fixture(scope="module")
def weighted(photographs, tmp_path_factory):
    """A saved network, and a run that began with its weights."""
    import keras

    folder = tmp_path_factory.mktemp("weighted")
    keras.utils.set_random_seed(3)
    build_tiny((32, 32), 3).save(folder / "mine.keras")
    options = TrainOptions(architecture="tiny", batch_size=16, epochs=1, weights=str(folder / "mine.keras"))
    train(photographs, folder / "run", options)
    return folder


@pytest.fixture
def cut(call_edgeclf, monkeypatch):
    """Calls a training that is cut off in a stage, after some steps of it."""
    fit = stages.fit_network

    def cut(stage, steps, *arguments):
        def fit_until(*given, progress, **options):
            def report(text, done, total):
                if text.startswith(f"{stage}: ") and done >= steps:
                    raise CutError
                progress(text, done, total)

            return fit(*given, progress=report, **options)

        with monkeypatch.context() as patch:
            patch.setattr(stages, "fit_network", fit_until)
            with pytest.raises(CutError):
                call_edgeclf(*arguments)

    return cut


def class_folders(photographs, folder):
    return (photographs,)


TABLE = ("--image-folder", "images", "--path-column", "id", "--label-column", "species", "--group-by", "animal")


def table(photographs, folder):
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "species", "animal"))
        for path in sorted(photographs.rglob("*.*")):
            animal = f"{path.parent.name}{int(path.stem) // 2}"
            rows.writerow((path.relative_to(photographs), path.parent.name, animal))
    shutil.copytree(photographs, folder / "images")
    return ("list.csv", *TABLE)


def parquet(photographs, folder):
    files = sorted(photographs.rglob("*.*"))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": rows, "label": [file.parent.name for file in files]}), folder / "data.parquet")
    return ("data.parquet",)


# What no other case has, each with another value than that of its recipe.
FURTHER = (
    "--optimizer", "nadam", "--learning-rate", "0.003", "--weight-decay", "0.05", "--label-smoothing", "0.07", "--batch-norm",
    "--average-epochs", "0.7", "--patience", "2", "--monitor", "val_macro_f1", "--fit", "stretch", "--interpolation", "bilinear",
    "--schedule", "cosine", "--warmup-epochs", "0.5", "--augment", "light", "--balance", "weights", "--image-size", "40",
    "--mixup", "0.2", "--seed", "5", "--val-fraction", "0.3", "--test-fraction", "0.2", "--false-rejection-rate", "0.1",
)  # fmt: skip
FINE_TUNE = ("--arch", "tiny-backbone", "--batch-size", "16", "--epochs", "3", "--fine-tune", "--fine-tune-epochs", "2")
# 42 training images are three steps of 16: all of these are in the middle of an epoch that is not the first.
CASES = {
    "fine-tune": (class_folders, (*FINE_TUNE, "--dropout-scale", "0.5", "--fine-tune-blocks", "1", "--fine-tune-learning-rate", "0.002"), (("head", 5), ("fine-tune", 4))),
    "weights": (class_folders, (*TINY, "--weights", "{weighted}/mine.keras", "--progressive"), (("fit", 4), ("fit", 7))),
    "from": (class_folders, ("--from", "{weighted}/run", "--batch-size", "16", "--epochs", "3"), (("fit", 4),)),
    "qat": (class_folders, ("--from", "{weighted}/run", "--qat", "--batch-size", "16", "--epochs", "3"), (("qat", 4),)),
    "further": (class_folders, (*TINY, *FURTHER), (("fit", 4),)),
    "csv": (table, TINY, (("fit", 4),)),
    "parquet": (parquet, TINY, (("fit", 4),)),
}  # fmt: skip


def test_every_option_is_one_that_a_resumed_training_began_with():
    given = {*TABLE, *(word for _, options, _ in CASES.values() for word in options)}
    # `test_train_backbone` resumes a training with --backbone, whose file and the options of it are in the run.
    elsewhere = {"--backbone", "--backbone-output", "--preprocess", "--mean", "--std", "--channels"}
    # As --path-column, it finds files, which the run names by their paths.
    elsewhere |= {"--image-suffix"}
    assert {row.flag for row in training_options()} == {word for word in given if word.startswith("--")} | elsewhere


@pytest.mark.parametrize("name", CASES)
def test_a_training_that_was_cut_off_ends_as_if_it_had_not(
    call_edgeclf, cut, photographs, weighted, tmp_path, monkeypatch, name
):
    data, options, cuts = CASES[name]
    monkeypatch.chdir(tmp_path)
    given = (*data(photographs, tmp_path), *(word.format(weighted=weighted) for word in options))
    whole = call_edgeclf("train", *given, "--run", "whole")
    assert whole.code == 0, whole.err
    begun = ("train", *given, "--run", "cut")
    (tmp_path / "elsewhere").mkdir()
    for stage, steps in cuts:
        cut(stage, steps, *begun)
        assert (tmp_path / "cut" / CHECKPOINT_FILE).is_file()
        monkeypatch.chdir(tmp_path / "elsewhere")
        begun = ("train", "--resume", "../cut")
    done = call_edgeclf(*begun)
    assert done.code == 0, done.err
    for file in COMPARED:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def changed(path):
    """Other bytes of the same model."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"saved again"


def test_a_network_to_go_on_from_that_changed_meanwhile_is_told(call_edgeclf, cut, weighted, photographs, tmp_path):
    earlier, run = tmp_path / "earlier", tmp_path / "run"
    shutil.copytree(weighted / "run", earlier)
    before = load_run(earlier).weights_identity()
    cut("fit", 4, "train", photographs, "--from", earlier, "--run", run, "--batch-size", 16, "--epochs", 3)
    changed(earlier / "model.keras")
    done = call_edgeclf("train", "--resume", run)
    assert done.code == 0, done.err
    assert "warning: the network of --from has changed since the training began" in done.err
    training = load_run(run).spec.training
    assert training["trained_from"] == before != load_run(earlier).weights_identity()
    # Not of its own recipe's ImageNet: of the file that the earlier one began with.
    assert training["weights"] == load_run(weighted / "run").spec.training["weights"]
    assert training["weights"].startswith("mine.keras (blake2b-128 ")


@pytest.mark.parametrize("name", ["mine.keras", "mine.weights.h5"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_training_goes_on_with_the_weights_that_it_began_with(
    call_edgeclf, cut, photographs, weighted, tmp_path, name, is_gone
):
    # Of a whole network, and of a backbone whose features are needed once more.
    arguments, stage = (TINY, "fit") if name == "mine.keras" else (FINE_TUNE, "head")
    weights = tmp_path / name
    weights.write_bytes((weighted / "mine.keras").read_bytes())
    begun = ("train", photographs, *arguments, "--weights", weights, "--run")
    whole = call_edgeclf(*begun, tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert not (tmp_path / "whole" / WEIGHTS_FOLDER).exists()
    cut(stage, 4, *begun, tmp_path / "cut")
    if is_gone:
        weights.unlink()
    else:
        weights.write_bytes(b"something else")
    done = call_edgeclf("train", "--resume", tmp_path / "cut")
    assert (done.code, "has changed since" in done.err) == (0, False), done.err
    for file in (*COMPARED, "run.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == FINISHED_FILES


def test_a_backbone_that_changed_meanwhile_is_refused_where_an_earlier_version_kept_no_copy(
    call_edgeclf, cut, photographs, tmp_path
):
    (tmp_path / "mine.weights.h5").write_bytes(b"one")
    run = tmp_path / "run"
    cut("head", 5, "train", photographs, "--run", run, *FINE_TUNE, "--weights", tmp_path / "mine.weights.h5")
    shutil.rmtree(run / WEIGHTS_FOLDER)
    (tmp_path / "mine.weights.h5").write_bytes(b"another")
    done = call_edgeclf("train", "--resume", run)
    assert done.code == 3
    assert "cannot resume" in done.err
    assert "got another content of the file of --weights than it began with" in done.err
    assert json.loads((run / "run.json").read_text())["began_with"]["--weights"] in done.err
    (tmp_path / "mine.weights.h5").unlink()
    done = call_edgeclf("train", "--resume", run)
    assert done.code == 3
    assert "mine.weights.h5: got no such file" in done.err
    assert "put it back" in done.err
