"""A run folder appears with its first epoch, keeps an old run until then, and holds whole files from then on."""

import csv
import errno
import subprocess
import sys

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


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_its_run(tmp_path, monkeypatch, code):
    def flock(_descriptor, _operation):
        raise OSError(code, "no locks here")

    monkeypatch.setattr("fcntl.flock", flock)
    with writing_run(tmp_path / "run", resumed=False) as writer:
        writer.write_json("run.json", {})
        # A second training is not noticed; none of the two is lost.
        with writing_run(tmp_path / "run", resumed=False) as second:
            writer.write_epoch(epoch(1))
            second.write_epoch(epoch(2))
    assert names(tmp_path) == ["run", "run-2"]
    assert [len(load_checkpoint(tmp_path / run / "checkpoint.npz").state.history) for run in ("run", "run-2")] == [1, 2]


def make_folder(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")


def add_file(folder):
    (folder / "thesis.txt").write_text("mine")


def make_again(folder):
    # Kept elsewhere, so that the new folder does not get its number.
    folder.rename(folder.with_name("kept"))
    make_folder(folder)


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [(None, make_folder), (lambda folder: folder.mkdir(), add_file), (make_folder, make_again), (None, lambda folder: folder.write_text("mine"))],
)  # fmt: skip
def test_what_others_put_at_its_place_meanwhile_is_never_removed(tmp_path, before, meanwhile):
    folder = tmp_path / "run"
    if before is not None:
        before(folder)
    (tmp_path / "run-2").mkdir()
    with writing_run(folder, resumed=False) as writer:
        meanwhile(folder)
        writer.write_epoch(epoch(1))
        writer.write_epoch(epoch(2))
        assert writer.folder == tmp_path / "run-3"
        assert "the run is" in writer.note
    kept = folder if folder.is_file() else folder / "thesis.txt"
    assert kept.read_text() == "mine"
    assert len(load_checkpoint(tmp_path / "run-3" / "checkpoint.npz").state.history) == 2
    assert names(tmp_path / "run-2") == []


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


def test_a_second_training_into_a_run_is_refused_and_the_first_goes_on(tmp_path):
    folder = tmp_path / "run"
    with writing_run(folder, resumed=False) as writer:
        for resumed in (False, True):
            with pytest.raises(RunFolderError, match="another training writes"), writing_run(folder, resumed=resumed):
                pass
        with writing_run(tmp_path / "other", resumed=False):
            pass
        writer.write_epoch(epoch(1))
        with pytest.raises(RunFolderError, match="another training writes"), writing_run(folder, resumed=True):
            pass
        writer.write_epoch(epoch(2))
    assert names(tmp_path) == ["run"]
    with writing_run(folder, resumed=True) as writer:
        writer.write_epoch(epoch(3))
    assert len(load_checkpoint(folder / "checkpoint.npz").state.history) == 3


@pytest.mark.parametrize("is_resumed", [False, True])
def test_what_killed_trainings_left_goes_with_the_next_one(tmp_path, is_resumed):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".0123456789ab.part.npz").write_bytes(b"half a checkpoint")
    (folder / "history.csv").write_bytes(b"epoch\n")
    for name in (".run.0a1b2c3d.part", ".run.0a1b2c3d.old", ".other.0a1b2c3d.part", ".run.my own.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.keras").touch()
    with writing_run(folder, resumed=is_resumed) as writer:
        # Of other runs, and of users, nothing.
        kept = {".other.0a1b2c3d.part", ".run.my own.part", ".run.lock", "run"}
        assert set(names(tmp_path)) == kept | {writer.folder.name}
        writer.write_epoch(epoch(1))
    assert names(folder) == ["checkpoint.npz", "curves.png", "history.csv"]


def test_a_run_comes_back_whose_successor_was_killed_as_it_took_its_place(tmp_path):
    aside = tmp_path / ".run.0a1b2c3d.old"
    aside.mkdir()
    (aside / "model.keras").write_bytes(b"old")

    def begin():
        with writing_run(tmp_path / "run", resumed=False):
            assert (tmp_path / "run" / "model.keras").read_bytes() == b"old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begin()
    assert names(tmp_path) == ["run"]


def test_the_lock_of_a_killed_process_is_none(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from edgeclf.training.run.writer import writing_run\n"
        "with writing_run(Path(sys.argv[1]), resumed=False): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=False).returncode == 9
    assert ".run.lock" in names(tmp_path)
    with writing_run(tmp_path / "run", resumed=False) as writer:
        writer.write_epoch(epoch(1))
    assert ".run.lock" not in names(tmp_path)


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


@pytest.mark.parametrize("place", ["cache/pixels.array", "run.array", ".other.0a1b2c3d.part/model.keras", "", None])
def test_an_error_of_another_file_is_not_called_one_of_the_run(tmp_path, place):
    """A cache beside the run, or a descriptor without a name, fails as itself."""
    named = () if place is None else (str(tmp_path / place),)
    with pytest.raises(OSError, match="Input/output error"), writing_run(tmp_path / "run", resumed=False):
        raise OSError(errno.EIO, "Input/output error", *named)


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
