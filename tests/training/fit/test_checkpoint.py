"""A checkpoint comes back bit for bit, and a damaged one is refused."""

import numpy as np
import pytest

from edgeclf.runtime.errors import RunFolderError
from edgeclf.training.fit.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeclf.training.fit.loop import Best, FitState


@pytest.fixture
def checkpoint():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 4)).astype(np.float32), np.array(7, np.int64), np.array([1, 2], np.uint32)]
    history = [{"epoch": 1, "stage": "fit", "loss": 0.1 + 0.2, "val_loss": 1 / 3}]
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
    flipped = bytearray(good)
    flipped[len(good) // 3] ^= 0xFF
    for data in (b"", b"text", good[:-30], good[: len(good) // 2], bytes(flipped)):
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
