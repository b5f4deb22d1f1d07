"""The run folder while training goes on: published with the first epoch, files replaced atomically, an old run kept till then."""

import contextlib
import csv
import io
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeclf.export.cache_folder import LOCK_EXCLUSIVE, LOCK_WITHOUT_WAITING, lock_file
from edgeclf.runtime.errors import RunFolderError
from edgeclf.runtime.files import output_error, replacing, sync, write_text
from edgeclf.runtime.spec.json_documents import json_text
from edgeclf.training.fit.checkpoint import Checkpoint, save_checkpoint
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.plots import plot_curves

# Curves are drawn after an epoch only when that costs at most a tenth of the epochs since they were last drawn.
_DRAWING_SHARE = 0.1
# What drawing them takes, as long as it has not been measured.
_FIRST_DRAWING_S = 0.5
# Names of the folders beside a run, and of what `replacing` writes first.
_OF_A_RUN = re.compile(r"\.(?P<run>.+)\.[0-9a-f]{8}\.(?P<kind>part|old)", re.DOTALL)
_UNFINISHED_FILE = re.compile(r"\.[0-9a-f]{12}\.part(\..*)?")


class RunWriter:
    """Writer of the run folder of a training in progress.

    Attributes:
        folder: Folder that files are written to; with the first finished epoch, the run folder itself.
        note: Why the run is in another folder than the one named, one sentence; None where it is not.
    """

    def __init__(self, target: Path, *, resumed: bool) -> None:
        self._target = target
        self._token = secrets.token_hex(4)
        self._published = resumed
        self._drawn_at_s = 0.0
        self._drawing_s = _FIRST_DRAWING_S
        self._found = _state_of(target)
        self.folder = target if resumed else target.with_name(f".{target.name}.{self._token}.part")
        self.note: str | None = None

    def write_epoch(self, checkpoint: Checkpoint) -> None:
        """Writes checkpoint, history and - unless epochs are too quick for it - the curves."""
        state = checkpoint.state
        save_checkpoint(checkpoint, self.folder / run_folder.CHECKPOINT_FILE)
        write_text(self.folder / run_folder.HISTORY_FILE, history_csv(state.history))
        trained_s = sum(state.seconds)
        if trained_s - self._drawn_at_s >= self._drawing_s / _DRAWING_SHARE and state.best is not None:
            self.draw_curves(state.history, state.best.epoch)
            self._drawn_at_s = trained_s
        self._publish()

    def draw_curves(self, history: Sequence[dict[str, Any]], best_epoch: int) -> None:
        """Draws the curves."""
        started = time.perf_counter()
        with replacing(self.folder / run_folder.CURVES_FILE) as temporary:
            plot_curves(history, best_epoch, temporary)
        self._drawing_s = time.perf_counter() - started

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Writes a JSON document."""
        write_text(self.folder / name, json_text(document) + "\n")

    def _publish(self) -> None:
        """Gives the folder its name; a run that stood there when the training began goes, and nothing else does."""
        if self._published:
            return
        now = _state_of(self._target)
        if now is not None and (self._found is None or now[0] != self._found[0] or not now[1] <= self._found[1]):
            named, number = self._target, 2
            while self._target.exists():
                self._target = named.with_name(f"{named.name}-{number}")
                number += 1
            self.note = f"{named} was made or changed by something else meanwhile, and is left as it is: the run is {self._target}"
        retired = self._target.with_name(f".{self._target.name}.{self._token}.old")
        try:
            if self._target.exists():
                self._target.rename(retired)
            self.folder.rename(self._target)
            sync(self._target.parent)
        finally:
            if retired.exists() and not self._target.exists():
                retired.rename(self._target)
        self._published = True
        self.folder = self._target
        shutil.rmtree(retired, ignore_errors=True)

    def publish_failure(self) -> bool:
        """Gives the folder its name though no epoch was finished, unless that would cost a run that stands there."""
        if not self._published and run_folder.may_be_replaced(self._target):
            self._publish()
        return self._published

    def discard(self) -> None:
        """Removes what was written where no epoch was finished."""
        if not self._published:
            shutil.rmtree(self.folder, ignore_errors=True)


def _state_of(folder: Path) -> tuple[tuple[int, int], set[str]] | None:
    """Which folder or file it is, and the names in it; None for none."""
    try:
        status = folder.stat()
        names = {child.name for child in folder.iterdir()} if folder.is_dir() else set()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino), names


@contextlib.contextmanager
def writing_run(folder: Path, *, resumed: bool) -> Iterator[RunWriter]:
    """Yields the writer of a run folder.

    Until the first epoch is finished everything lies in a hidden folder beside it, which is removed when the block
    raises; a run that stands at `folder` stays until then. What killed processes have left of this run is removed first.

    Args:
        folder: The run folder.
        resumed: Whether it is an unfinished run that goes on.

    Raises:
        OutputError: The folder cannot be made or written, or the disk is full. Errors of the operating system that name no
            file of the run are the block's own.
        RunFolderError: Another process writes this run.
    """
    folder = folder.resolve()
    writer = RunWriter(folder, resumed=resumed)
    with contextlib.ExitStack() as stack:
        stack.callback(writer.discard)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(_alone(folder)):
                _clear_up(folder)
            writer.folder.mkdir(exist_ok=resumed)
        except OSError as error:
            raise output_error(folder, error) from error
        try:
            yield writer
        except OSError as error:
            if not _is_of_run(error, folder):
                raise
            raise output_error(folder, error) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Holds the lock of a run folder, a hidden file beside it; the system lets go of it where the process is killed.

    Yields whether it is held: where the file system has no locks, a second training is not noticed, but takes another folder when
    it is published, and what may be the files of a first one stays.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            is_alone = lock_file(descriptor, LOCK_EXCLUSIVE | LOCK_WITHOUT_WAITING)
            # Who held it before may have removed the file between the two calls.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                break
        except BlockingIOError as error:
            os.close(descriptor)
            raise RunFolderError(
                f"another training writes {folder}",
                got="its lock is held",
                expected="one training a run folder",
                hint="wait for it, or choose another --run",
            ) from error
        os.close(descriptor)
    try:
        yield is_alone
    finally:
        # One that stays is that of a killed process.
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _clear_up(folder: Path) -> None:
    """Removes what killed processes have left of a run whose lock is held, and puts back a run that one had put aside."""
    try:
        beside = sorted(folder.parent.iterdir())
    except PermissionError:
        # A folder that may be written into, but not listed.
        return
    for path in beside:
        if match := _OF_A_RUN.fullmatch(path.name):
            if match["run"] != folder.name:
                continue
            if match["kind"] == "old" and not folder.exists():
                path.rename(folder)
            else:
                shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.part*"):
        if _UNFINISHED_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def history_csv(history: Sequence[dict[str, Any]]) -> str:
    """The epochs as the text of `history.csv`; every number with all its digits."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    return text.getvalue()


def _is_of_run(error: OSError, folder: Path) -> bool:
    """Whether an error names a file of the run, or of the hidden folders beside it that it is written and put aside in."""
    # An error of a descriptor has its number there.
    if not isinstance(error.filename, str | bytes):
        return False
    path = Path(os.fsdecode(error.filename))
    beside = next((part.name for part in (path, *path.parents) if part.parent == folder.parent), "")
    match = _OF_A_RUN.fullmatch(beside)
    return beside == folder.name or (match is not None and match["run"] == folder.name)
