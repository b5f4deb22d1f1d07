"""A run folder appears with its first epoch, keeps an old run until then, and holds whole files from then on."""

import csv

import numpy as np
import pytest

from edgeclf.runtime.errors import OutputError, RunFolderError
from edgeclf.training.fit.checkpoint import Checkpoint, load_checkpoint
from edgeclf.training.fit.loop import Best, FitState
from edgeclf.training.run.writer import writing_run


def state(epochs, epoch_s=60.0):
    figures = {"loss": 1 / 3, "accuracy": 0.5, "val_loss": 0.1 + 0.2, "val_accuracy": 0.5, "val_macro_f1": 0.5}
    history = [{"epoch": n + 1, "stage": "fit", **figures, "learning_rate": 0.001} for n in range(epochs)]
    weights = [np.zeros(3, np.float32)]
    return FitState(history, 0, Best(0.3, 1, weights), weights, [epoch_s] * epochs)


def epoch(number, epoch_s=60.0):
    return Checkpoint("fit", state(number, epoch_s), "images")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_with_the_first_epoch(tmp_path):
    folder = tmp_path / "runs" / "new"
    with writing_run(folder, resumed=False) as writer:
        writer.write_json("run.json", {"a": 1})
        assert not folder.exists()
        assert writer.folder != folder
        writer.write_epoch(epoch(1))
        assert writer.folder == folder
        assert names(folder) == ["checkpoint.npz", "curves.png", "history.csv", "run.json"]
        writer.write_epoch(epoch(2))
    assert names(tmp_path / "runs") == ["new"]
    assert len(load_checkpoint(folder / "checkpoint.npz").state.history) == 2
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == [0.1 + 0.2] * 2
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, RunFolderError("bad")])
def test_what_fails_before_the_first_epoch_leaves_the_old_run_and_nothing_else(tmp_path, error):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.keras").write_bytes(b"old")

    def fail(target):
        with writing_run(target, resumed=False) as writer:
            writer.write_json("run.json", {})
            raise error

    for target in (folder, tmp_path / "other"):
        with pytest.raises(error if isinstance(error, type) else type(error)):
            fail(target)
    assert names(tmp_path) == ["run"]
    assert names(folder) == ["model.keras"]


def test_what_fails_after_the_first_epoch_leaves_what_resuming_needs(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.keras").write_bytes(b"old")

    def fail():
        with writing_run(folder, resumed=False) as writer:
            writer.write_epoch(epoch(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["run"]
    assert names(folder) == ["checkpoint.npz", "curves.png", "history.csv"]


def test_a_resumed_run_is_written_in_place(tmp_path):
    folder = tmp_path / "run"
    with writing_run(folder, resumed=False) as writer:
        writer.write_epoch(epoch(1))
    (folder / "split.csv").write_text("kept")
    with writing_run(folder, resumed=True) as writer:
        assert writer.folder == folder
        writer.write_epoch(epoch(2))
    assert (folder / "split.csv").read_text() == "kept"
    assert len(load_checkpoint(folder / "checkpoint.npz").state.history) == 2


def test_a_link_to_a_folder_leads_to_the_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with writing_run(tmp_path / "link", resumed=False) as writer:
        writer.write_epoch(epoch(1))
    assert names(tmp_path) == ["link", "real"]
    assert "checkpoint.npz" in names(tmp_path / "real")


def test_what_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"), writing_run(tmp_path / "file" / "run", resumed=False):
        pass
    with pytest.raises(OutputError, match="no space left"), writing_run(tmp_path / "run", resumed=False) as writer:
        raise OSError(28, "No space left on device", str(writer.folder / "model.keras"))
    with pytest.raises(FileNotFoundError), writing_run(tmp_path / "run", resumed=False):
        open("/nowhere/photograph.jpg")  # noqa: PTH123, SIM115 - raises
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("epoch_s", "drawn_after"), [(0.01, []), (1.0, [5, 15, 25]), (60.0, list(range(1, 31)))])
def test_drawing_the_curves_takes_a_tenth_of_the_time_at_most(tmp_path, monkeypatch, epoch_s, drawn_after):
    drawn = []
    monkeypatch.setattr(
        "edgeclf.training.run.writer.plot_curves",
        lambda history, best, path: drawn.append(len(history)) or path.touch(),
    )
    # The clock ticks once a look, so that drawing takes a second.
    clock = iter(range(1000))
    monkeypatch.setattr("edgeclf.training.run.writer.time.perf_counter", lambda: float(next(clock)))
    with writing_run(tmp_path / "run", resumed=False) as writer:
        for number in range(1, 31):
            writer.write_epoch(epoch(number, epoch_s))
    assert drawn == drawn_after
