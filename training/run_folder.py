"""The folder that a training leaves behind: written whole or not at all, and read back with a sentence for what is wrong."""

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeclf.export._packages import import_tensorflow
from edgeclf.runtime.errors import ModelFileError, OutputError, RunFolderError
from edgeclf.runtime.files import output_error
from edgeclf.runtime.spec import ModelSpec, spec_from_json
from edgeclf.training.dataset import Sample
from edgeclf.training.split import read_split

MODEL_FILE = "model.keras"
SPEC_FILE = "spec.json"
SPLIT_FILE = "split.csv"
HISTORY_FILE = "history.csv"
METRICS_FILE = "metrics.json"
CURVES_FILE = "curves.png"
CONFUSION_FILE = "confusion.png"
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: The run folder.
        spec: What the model is.
        split: Which images trained, validated and tested; paths relative to `data_root`.
        data_root: Where the images were when the run was made.
    """

    folder: Path
    spec: ModelSpec
    split: tuple[Sample, ...]
    data_root: Path

    def load_model(self) -> Any:  # noqa: ANN401 - keras carries no types
        """Loads the Keras model with the best weights.

        Raises:
            RunFolderError: The file is damaged.
            MissingPackageError: TensorFlow is not installed.
        """
        import_tensorflow()
        import keras

        try:
            return keras.saving.load_model(self.folder / MODEL_FILE, compile=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"cannot load {self.folder / MODEL_FILE}",
                got=str(error).split("\n", 1)[0][:200],
                expected="the Keras model that edgeclf train wrote",
                do="train again",
            ) from error


def check_run_target(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that must not be replaced by a new run, before any work is done.

    Raises:
        RunFolderError: The folder holds a run and `overwrite` is off, or holds other files.
        OutputError: The path is a file.
    """
    if folder.is_file():
        raise OutputError(
            f"cannot write run {folder}", got="a file", expected="a new folder", do="choose another --run"
        )
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / SPEC_FILE).exists():
        raise RunFolderError(
            f"will not write a run into {folder}",
            got="a folder with other files",
            expected="a new or empty folder",
            do="choose another --run",
        )
    if not overwrite:
        raise RunFolderError(
            f"{folder} already holds a run",
            expected="a new or empty folder",
            do="choose another --run or pass --overwrite",
        )


@contextlib.contextmanager
def staged_run_folder(folder: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `folder` that takes its place when the block ends without an exception.

    A run that stands at `folder` stays until then, and stays for good when the block raises.

    Raises:
        OutputError: The folder cannot be made or written, or the disk is full.
    """
    token = secrets.token_hex(4)
    staged = folder.with_name(f".{folder.name}.{token}.part")
    retired = folder.with_name(f".{folder.name}.{token}.old")
    try:
        staged.mkdir(parents=True)
        yield staged
        if folder.exists():
            folder.rename(retired)
        staged.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)


def load_run(folder: Path | str) -> Run:
    """Opens a run folder.

    Raises:
        RunFolderError: It is missing, or a file in it is missing or damaged.
    """
    folder = Path(folder)
    missing = [name for name in (MODEL_FILE, SPEC_FILE, SPLIT_FILE, RUN_FILE) if not (folder / name).is_file()]
    if missing:
        raise RunFolderError(
            f"{folder} is not a run folder",
            got=f"no {', '.join(missing)}" if folder.is_dir() else "no such folder",
            expected="what edgeclf train wrote",
            do="check the path",
        )
    try:
        spec = spec_from_json((folder / SPEC_FILE).read_text(encoding="utf-8"), str(folder / SPEC_FILE))
        data_root = Path(json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["data_root"])
    except (OSError, ValueError, KeyError, TypeError, ModelFileError) as error:
        raise RunFolderError(
            f"cannot read run {folder}", got=str(error), expected="what edgeclf train wrote", do="train again"
        ) from error
    return Run(folder, spec, read_split(folder / SPLIT_FILE), data_root)
