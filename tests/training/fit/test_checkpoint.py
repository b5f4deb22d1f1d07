"""A checkpoint comes back bit for bit, and a damaged one is refused."""

import io
import json
import zipfile

import numpy as np
import pytest

from edgeclf.runtime.errors import RunFolderError
from edgeclf.training.fit.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeclf.training.fit.loop import Best, FitState


@pytest.fixture
def checkpoint():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 4)).astype(np.float32), np.array(7, np.int64), np.array([1, 2], np.uint32)]
    figures = {"loss": 0.1 + 0.2, "accuracy": 0.5, "val_loss": 1 / 3, "val_accuracy": 0.25}
    history = [{"epoch": 1, "stage": "fit", **figures}]
    state = FitState(history, 0, Best(1 / 3, 1, arrays[:1]), arrays, [0.25])
    return Checkpoint("fit", state, "fingerprint")


def test_what_is_saved_is_what_is_loaded(checkpoint, tmp_path):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(checkpoint, path)
    loaded = load_checkpoint(path)
    assert (loaded.stage, loaded.fingerprint) == ("fit", "fingerprint")
    assert loaded.state.history == checkpoint.state.history
    assert loaded.state.seconds == [0.25]
    assert (loaded.state.best.value, loaded.state.best.epoch) == (1 / 3, 1)
    for mine, theirs in zip(loaded.state.variables, checkpoint.state.variables, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_state_before_the_first_epoch_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="finished epoch"):
        save_checkpoint(Checkpoint("fit", FitState(), "x"), tmp_path / "checkpoint.npz")
    assert not list(tmp_path.iterdir())


def test_damage_is_refused(checkpoint, tmp_path):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(checkpoint, path)
    good = path.read_bytes()
    flipped = [bytearray(good) for _ in range(2)]
    flipped[0][good.index(b'"val_loss"') + 13] ^= 1
    flipped[1][good.index(checkpoint.state.variables[0].tobytes()) + 5] ^= 1
    for data in (b"", b"text", good[:-30], good[: len(good) // 2], *map(bytes, flipped)):
        path.write_bytes(data)
        with pytest.raises(RunFolderError, match="cannot resume from"):
            load_checkpoint(path)
    path.unlink()
    with pytest.raises(RunFolderError, match="cannot resume from"):
        load_checkpoint(path)


def test_another_version_is_refused(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    monkeypatch.setattr("edgeclf.training.fit.checkpoint._VERSION", 2)
    save_checkpoint(checkpoint, path)
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="version 2"):
        load_checkpoint(path)


def facts_of(path):
    with np.load(path) as arrays:
        return json.loads(arrays["facts"].tobytes()), {name: arrays[name] for name in arrays if name != "facts"}


def write_facts(path, facts, arrays, write=np.savez):
    write(path, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": True}, "version: expected a whole number, got True"),
        ({"version": 2}, "version 2, this edgeclf reads 1"),
        ({"stage": 3}, "stage: expected a text, got 3"),
        ({"fingerprint": None}, "no 'fingerprint'"),
        ({"history": {}}, "history: expected a list"),
        ({"history": []}, "a history without an epoch"),
        ({"history": [{"epoch": 1, "stage": "fit"}]}, "an epoch without all its figures"),
        (
            {"history": [{"epoch": 1, "stage": "fit", "loss": "0.5"}]},
            r"history\[0\].loss: expected a number, got '0.5'",
        ),
        ({"first": 7}, "another number of epochs"),
        ({"seconds": []}, "epochs that do not follow each other"),
        ({"seconds": ["1"]}, "seconds"),
        ({"best": {"value": None, "epoch": 1}}, "another number of epochs"),
        ({"best": {"value": 0.5, "epoch": 9}}, "another number of epochs"),
        ({"best": [1]}, "best: expected a record"),
        ({"variables": 99}, "variable3"),
        ({"weights": "1"}, "weights: expected a whole number"),
    ],
)
def test_facts_of_other_types_are_refused(checkpoint, tmp_path, changes, words):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(checkpoint, path)
    facts, arrays = facts_of(path)
    write_facts(path, facts, arrays)
    assert load_checkpoint(path).state.seconds == [0.25]
    write_facts(path, facts | changes, arrays)
    with pytest.raises(RunFolderError, match=words):
        load_checkpoint(path)


def test_what_unpacks_to_more_than_it_is_and_what_says_it_is_huge_are_refused(checkpoint, tmp_path):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(checkpoint, path)
    facts, arrays = facts_of(path)
    write_facts(path, facts, arrays, np.savez_compressed)
    with pytest.raises(RunFolderError, match="a compressed archive"):
        load_checkpoint(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**58,)})
    write_facts(path, facts, arrays)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**entries, "variable0.npy": header.getvalue()}.items():
            archive.writestr(name, data)
    with pytest.raises(RunFolderError, match="cannot resume from"):
        load_checkpoint(path)
