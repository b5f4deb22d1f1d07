"""The run folder: its files, checks before one is written, and reading one back."""

import fnmatch
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import KerasModel
from edgeclf.export.source.classifier import TrainedClassifier
from edgeclf.export.source.images import ExportImages
from edgeclf.runtime.errors import (
    DatasetError,
    ModelFileError,
    OutputError,
    RunFolderError,
    UsageError,
    command_line,
)
from edgeclf.runtime.files import content_kind, kind_of, output_error, parse_failure
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import ModelSpec, spec_from_json
from edgeclf.training.data.dataset import FACTS_NAME, SPLIT_NAME, Dataset, Sample, read_run_facts
from edgeclf.training.data.discovery import check_place, folder_of
from edgeclf.training.data.packed.dataset import restore_images
from edgeclf.training.data.seen_images import SeenImages, images_of_split, record_images
from edgeclf.training.data.training_data import read_split
from edgeclf.training.fit.checkpoint import Checkpoint, load_checkpoint
from edgeclf.training.networks.own_network import is_own_network
from edgeclf.training.options import TrainOptions, options_from_json
from edgeclf.training.run.export_inputs import export_images
from edgeclf.training.run.own_module import NETWORK_FILE, check_own_network
from edgeclf.training.run.saved_network import load_saved_network, model_error

MODEL_FILE = "model.keras"
SPLIT_FILE = SPLIT_NAME
RUN_FILE = FACTS_NAME
SPEC_FILE = "spec.json"
HISTORY_FILE = "history.csv"
METRICS_FILE = "metrics.json"
CURVES_FILE = "curves.png"
CONFUSION_FILE = "confusion.png"
RELIABILITY_FILE = "reliability.png"
# There while a training is not finished, or was interrupted.
CHECKPOINT_FILE = "checkpoint.npz"
# As long, of a training with --backbone; a finished run has it in its model.
BACKBONE_FILE = "backbone.onnx"
# As long, with the file of --weights under its own name, by which Keras tells its formats apart.
WEIGHTS_FOLDER = "weights"
TENSORBOARD_FOLDER = "tensorboard"
RUN_FILES = (
    MODEL_FILE,
    SPEC_FILE,
    SPLIT_FILE,
    HISTORY_FILE,
    METRICS_FILE,
    CURVES_FILE,
    CONFUSION_FILE,
    RELIABILITY_FILE,
    RUN_FILE,
    NETWORK_FILE,
    CHECKPOINT_FILE,
    BACKBONE_FILE,
    WEIGHTS_FOLDER,
    TENSORBOARD_FOLDER,
)


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: The run folder.
        spec: The model's description.
        split: The images with their splits; paths relative to `data_root`.
        data_root: Folder of the images when the run was made.
        options: Its options, as `TrainOptions.to_json` gives them.
        source: Its data set as it was given; None where that is not recorded.
    """

    folder: Path
    spec: ModelSpec
    split: tuple[Sample, ...]
    data_root: Path
    options: dict[str, Any]
    source: Path | None = None

    def images_root(self) -> Path:
        """Folder of the images: `data_root`, where images of a packed data set are extracted again if the cache has lost them."""
        restore_images(self.data_root, self.source, self.options.get("path_column"))
        return self.data_root

    @property
    def recorded_spec(self) -> ModelSpec:
        """The spec with the images that trained and validated the network, also where an earlier version left them out."""
        if self.spec.seen_images is not None:
            return self.spec
        return self.spec.with_changes(seen_images=record_images(self.split))

    @property
    def seen_images(self) -> SeenImages:
        """The images that the training used, and for what."""
        return images_of_split(self.split, self.spec.seen_images, self.data_root)

    def weights_identity(self) -> str:
        """The network by the content of its file, as runs that are trained from this one record it.

        Raises:
            RunFolderError: The file cannot be read.
        """
        path = self.folder / MODEL_FILE
        try:
            return name_by_content(path)
        except OSError as error:
            raise model_error(path, parse_failure(error)) from error

    def load_model(self) -> KerasModel:
        """Loads the Keras model with the best weights; code that the file may hold is not run.

        Raises:
            RunFolderError: The file is damaged, has code or unknown layers in it, or is of a newer Keras.
            MissingPackageError: TensorFlow is not installed.
        """
        path = self.folder / MODEL_FILE
        model = load_saved_network(path, str(self.options.get("architecture")))
        got = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
        if got != [(None, *self.spec.preprocess.size_hw, 3), (None, len(self.spec.labels))]:
            raise model_error(path, f"shapes {', '.join(map(str, got))}, which are not those of {SPEC_FILE}")
        if (dtype := str(model.inputs[0].dtype)) != "uint8":
            raise model_error(path, f"a network of {dtype} pixels, not of uint8")
        return model

    def load_classifier(self) -> TrainedClassifier:
        """Loads the Keras model as an export takes it, and as exported files are compared with it.

        Raises:
            RunFolderError: The model's file is damaged.
            MissingPackageError: TensorFlow is not installed.
        """
        from edgeclf.training.qat.model import simulated_network

        model = self.load_model()
        in_8_bits = bool(self.spec.training.get("ranges_8bit"))
        simulate = (lambda: simulated_network(model, self.spec)) if in_8_bits else None
        return TrainedClassifier(model, self.recorded_spec, simulate)

    def load_images(
        self, data: Path | None = None, *, cache_folder: CacheFolder | None = None, progress: Progress = no_progress
    ) -> ExportImages:
        """Loads the images of the run, preprocessed, as an export takes them.

        Args:
            data: The data set's folder or CSV where it has moved since; None where it has not.
            cache_folder: Folder of the cache of preprocessed images; None takes the default.
            progress: Called with the number of images decoded.

        Raises:
            DatasetError: The data set is gone, or no validation image can be read.
            InputError: None of the files is a readable image.
            OutputError: The cache cannot be written.
        """
        if data is not None:
            check_place(data)
        root = self.images_root() if data is None else folder_of(data, self.options.get("path_column"))
        if kind_of(root) != "folder":
            raise DatasetError(
                f"cannot find the images of {self.folder}",
                got=f"no folder {root}",
                expected="the folder it was trained on",
                hint="pass --data with its present place",
            )
        images = export_images(self.split, root, self.spec, cache_folder=cache_folder, progress=progress)
        if not len(images.validation):
            raise DatasetError(
                f"no validation image of {self.folder} can be used",
                got=f"{len(images.unreadable)} unreadable files, {images.changed} that have changed since",
                expected="the images it was trained on",
                hint="pass --data with their present place",
            )
        return images


def name_by_content(path: Path) -> str:
    """The name of a file with a digest of its bytes: what a record calls it, wherever it lies."""
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{path.name} (blake2b-128 {digest.hexdigest()})"


def may_be_replaced(folder: Path) -> bool:
    """Whether there is nothing to lose at a path: no folder, an empty one, or a training that diverged at once."""
    if not folder.exists():
        return True
    names = {child.name for child in folder.iterdir()}
    left = {RUN_FILE, SPLIT_FILE, NETWORK_FILE, BACKBONE_FILE, TENSORBOARD_FOLDER}
    return not names or (names <= left and read_divergence(folder) is not None)


def read_divergence(folder: Path) -> dict[str, Any] | None:
    """`DivergedError.facts` of a training that diverged in its first epoch; None for any other."""
    try:
        diverged: dict[str, Any] | None = read_run_facts(folder).get("diverged")
    except (OSError, ValueError):
        return None
    return diverged


def check_run_target(folder: Path, *, overwrite: bool, earlier: Run | None = None) -> None:
    """Refuses a folder that must not be replaced by a new run, before any work is done.

    Args:
        folder: The run folder to be written.
        overwrite: Whether a run that stands there may be replaced.
        earlier: The run that the training goes on from; None for none.

    Raises:
        UsageError: It is the folder of the earlier run.
        RunFolderError: The folder holds a run and `overwrite` is off, or holds other files.
        OutputError: The path is a file, is the current folder, or cannot be looked into.
    """
    if earlier is not None and earlier.folder.resolve() == folder.resolve():
        raise UsageError(
            "a run cannot be replaced while it is gone on from",
            got=f"{folder} for --run and --from",
            expected="two folders",
            hint="choose another --run",
        )
    try:
        folder = folder.resolve()
        names = {child.name for child in folder.iterdir()} if folder.exists() else set()
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, NotADirectoryError):
            raise OutputError(
                f"cannot write run {folder}", got="a file", expected="a new folder", hint="choose another --run"
            ) from error
        raise output_error(folder, error if isinstance(error, OSError) else OSError(str(error))) from error
    if folder.is_mount() or folder == Path.cwd():
        # A run appears by taking the folder's place, which neither of these can give up.
        raise OutputError(
            f"cannot write run {folder}",
            got="the current folder" if folder == Path.cwd() else "a mounted folder",
            expected="a new folder",
            hint="name a folder inside it",
        )
    # A killed process may leave a temporary file of `replacing`.
    others = sorted(name for name in names - set(RUN_FILES) if not fnmatch.fnmatch(name, ".*.part*"))
    if others:
        raise RunFolderError(
            f"will not write a run into {folder}",
            got=f"a folder with other files ({', '.join(others[:3])}{', …' if len(others) > 3 else ''})",
            expected="a new or empty folder",
            hint="choose another --run or move them away",
        )
    if names and not overwrite and not may_be_replaced(folder):
        raise RunFolderError(
            f"{folder} already holds a run",
            expected="a new or empty folder",
            hint="choose another --run, pass --overwrite, or --resume it where it is not finished",
        )


@dataclass(frozen=True, eq=False)
class UnfinishedRun:
    """A training that was cut off.

    Attributes:
        checkpoint: Its last finished epoch.
        options: As they were given.
        resolved: What `ResolvedOptions.record` gave; None for a run of an earlier version.
        dataset: Its images with the splits of the beginning, whatever has been added to their folders since.
        began_with: What `identify_beginning` gave; empty for a run of an earlier version.
    """

    checkpoint: Checkpoint
    options: TrainOptions
    resolved: Mapping[str, Any] | None
    dataset: Dataset
    began_with: Mapping[str, str]


def open_unfinished(folder: Path, data: Path | None, architecture: str | None = None) -> UnfinishedRun:
    """Opens the run folder of a training that was cut off.

    Args:
        folder: The run folder.
        data: Folder of the images now, or CSV that lists them; None where they were.
        architecture: The run's network that the user wrote, named by the user once more: its module may then be imported from the
            folder that the run records; None for none.

    Raises:
        UsageError: Another network is named, or one of edgeclf's, or the module of the network came with the run.
        RunFolderError: There is nothing to resume, a file is damaged, or a link leads out of the folder.
        DatasetError: `data` is neither a folder nor a CSV.
    """
    checkpoint_path = folder / CHECKPOINT_FILE
    if kind_of(checkpoint_path) != "file":
        finished = kind_of(folder / SPEC_FILE) == "file"
        got = "a finished run" if finished else "no checkpoint"
        raise RunFolderError(
            f"nothing to resume in {folder}",
            got=got if kind_of(folder) == "folder" else content_kind(folder),
            expected="the run folder of a training that was cut off after its first epoch",
            hint="train again, or go on from its network with --from" if finished else "check the path, or train again",
        )
    if data is not None:
        check_place(data)
    _check_links(folder)
    checkpoint = load_checkpoint(checkpoint_path)
    try:
        document = read_run_facts(folder)
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"cannot resume {folder}", got=parse_failure(error), expected="what edgeclf train wrote", hint="train again"
        ) from error
    options = options_from_json(document["options"], folder / RUN_FILE)
    root = Path(document["data_root"]) if data is None else folder_of(data, options.path_column)
    began_with: dict[str, str] = document.get("began_with", {})
    if architecture is not None and (architecture != options.network or not is_own_network(architecture)):
        raise UsageError(
            "--arch does not go with --resume",
            got=f"{architecture}, of a run of {options.network}",
            expected="a training that goes on as it began",
            hint="leave it out, or train anew",
        )
    module_folder = document.get("module_folder")
    check_own_network(
        folder,
        options.network,
        None if module_folder is None else Path(module_folder),
        may_use_folder=architecture is not None,
    )
    source = Path(document.get("data", root)) if data is None else data
    restore_images(root, source, options.path_column)
    dataset = Dataset(root, read_split(folder / SPLIT_FILE), source)
    return UnfinishedRun(checkpoint, options, document.get("resolved"), dataset, began_with)


def _check_links(folder: Path) -> None:
    """Refuses links that lead out of a run folder: a training that goes on writes into its files, wherever they are.

    Raises:
        RunFolderError: There is one.
    """
    root = folder.resolve()
    logs = folder / TENSORBOARD_FOLDER
    try:
        paths = [*folder.iterdir(), *(logs.rglob("*") if logs.is_dir() and not logs.is_symlink() else ())]
    except OSError as error:
        raise output_error(folder, error) from error
    for path in paths:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            raise RunFolderError(
                f"will not go on writing into {folder}",
                got=f"{path.name}, a link to {path.readlink()}",
                expected="files that lie in the run folder",
                hint="put the file itself in the place of the link",
            )


def load_run(folder: Path | str) -> Run:
    """Opens the run folder of a finished training.

    Raises:
        RunFolderError: It is missing, or a file in it is missing or damaged.
    """
    folder = Path(folder)
    missing = [name for name in (MODEL_FILE, SPEC_FILE, SPLIT_FILE, RUN_FILE) if kind_of(folder / name) != "file"]
    if missing and kind_of(folder / CHECKPOINT_FILE) == "file":
        raise RunFolderError(
            f"the training of {folder} is not finished",
            got=f"no {', '.join(missing)} yet",
            expected="a finished run",
            hint=f"run {command_line('train', '--resume', folder)}",
        )
    if missing and read_divergence(folder) is not None:
        raise RunFolderError(
            f"the training of {folder} diverged in its first epoch",
            got="no model",
            expected="a finished run",
            hint=f"train again with a lower --learning-rate; {command_line('doctor', folder)} says more",
        )
    if missing:
        raise RunFolderError(
            f"{folder} is not a run folder",
            got=f"no {', '.join(missing)}" if kind_of(folder) == "folder" else content_kind(folder),
            expected="a folder that edgeclf train wrote",
            hint="name the run folder" if kind_of(folder) is not None else "check the path",
        )
    try:
        spec = spec_from_json((folder / SPEC_FILE).read_text(encoding="utf-8"), str(folder / SPEC_FILE))
        facts = read_run_facts(folder)
    except (OSError, ValueError, ModelFileError) as error:
        raise RunFolderError(
            f"cannot read run {folder}",
            got=parse_failure(error),
            expected="what edgeclf train wrote",
            hint="train again",
        ) from error
    split = read_split(folder / SPLIT_FILE)
    if {sample.label for sample in split} != set(spec.labels):
        raise RunFolderError(
            f"cannot read run {folder}",
            got=f"{SPLIT_FILE} and {SPEC_FILE} with different classes",
            expected="what edgeclf train wrote",
            hint="train again",
        )
    source = Path(facts["data"]) if "data" in facts else None
    return Run(folder, spec, split, Path(facts["data_root"]), facts["options"], source)
