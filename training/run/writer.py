"""The run folder while training goes on: published with the first epoch, files replaced atomically, an old run kept till then."""

import contextlib
import csv
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeclf.runtime.files import output_error, replacing, write_text
from edgeclf.training.fit.checkpoint import Checkpoint, save_checkpoint
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.plots import plot_curves

# Curves are drawn after an epoch only when that costs at most a tenth of the epochs since they were last drawn.
_DRAWING_SHARE = 0.1
# What drawing them takes, as long as it has not been measured.
_FIRST_DRAWING_S = 0.5


class RunWriter:
    """Writer of the run folder of a training in progress.

    Attributes:
        folder: Folder that files are written to; with the first finished epoch, the run folder itself.
    """

    def __init__(self, target: Path, *, resumed: bool) -> None:
        self._target = target
        self._token = secrets.token_hex(4)
        self._published = resumed
        self._drawn_at_s = 0.0
        self._drawing_s = _FIRST_DRAWING_S
        self.folder = target if resumed else target.with_name(f".{target.name}.{self._token}.part")

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
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            # A file name that is not Unicode: escapes keep its bytes.
            text = json.dumps(document, indent=2, allow_nan=False)
        write_text(self.folder / name, text + "\n")

    def _publish(self) -> None:
        """Gives the folder its name; a run that stood there goes."""
        if self._published:
            return
        retired = self._target.with_name(f".{self._target.name}.{self._token}.old")
        try:
            if self._target.exists():
                self._target.rename(retired)
            self.folder.rename(self._target)
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


@contextlib.contextmanager
def writing_run(folder: Path, *, resumed: bool) -> Iterator[RunWriter]:
    """Yields the writer of a run folder.

    Until the first epoch is finished everything lies in a hidden folder beside it, which is removed when the block
    raises; a run that stands at `folder` stays until then.

    Args:
        folder: The run folder.
        resumed: Whether it is an unfinished run that goes on.

    Raises:
        OutputError: The folder cannot be made or written, or the disk is full.
    """
    folder = folder.resolve()
    writer = RunWriter(folder, resumed=resumed)
    try:
        writer.folder.mkdir(parents=True, exist_ok=resumed)
        yield writer
    except OSError as error:
        # Only a failure of writing here is an output error; one that names another file is the block's own business.
        if error.filename is not None and not _is_below(Path(os.fsdecode(error.filename)), folder.parent):
            raise
        raise output_error(folder, error) from error
    finally:
        writer.discard()


def history_csv(history: Sequence[dict[str, Any]]) -> str:
    """The epochs as the text of `history.csv`; every number with all its digits."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    return text.getvalue()


def _is_below(path: Path, folder: Path) -> bool:
    # A parent that could not be made is named by the error as well.
    return path.is_relative_to(folder) or folder.is_relative_to(path)
