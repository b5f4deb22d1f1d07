"""A labelled data set becomes a run folder: split, cache, fit, calibrate, measure, write; and goes on where it was cut off."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import check_training_packages
from edgeclf.runtime.errors import RunFolderError, UsageError
from edgeclf.runtime.metrics import classification_report
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import ModelSpec
from edgeclf.training.calibration.report import calibrate
from edgeclf.training.data.dataset import Dataset
from edgeclf.training.data.split import read_split
from edgeclf.training.fit.checkpoint import Checkpoint, load_checkpoint
from edgeclf.training.fit.loop import DivergedError, FitState
from edgeclf.training.fit.stages import FINE_TUNE, Stages, Trained, with_temperature_layer
from edgeclf.training.inputs import Loaded, Plan, load, plan_training
from edgeclf.training.options import TrainOptions, options_from_json
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.results import TrainResult, package_versions, training_summary, write_result, write_start
from edgeclf.training.run.tensorboard import check_tensorboard, tensorboard_log
from edgeclf.training.run.writer import RunWriter, writing_run


def train(
    dataset: Dataset,
    options: TrainOptions,
    folder: Path,
    *,
    overwrite: bool = False,
    tensorboard: bool = False,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Trains a classifier and writes its run folder.

    Args:
        dataset: The labelled images.
        options: How to train.
        folder: The run folder to write; it appears with the first finished epoch, and holds a usable model when
            training ends, is interrupted or diverges. Where it diverges before that, the folder holds what the doctor
            needs, and may be written again.
        overwrite: Whether a run that stands there may be replaced.
        tensorboard: Whether TensorBoard logs are written into the run folder.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Told of each stage.

    Raises:
        UsageError: An option is out of range, or names an architecture or optimizer that does not exist.
        DatasetError: The data set is too small, or a class has no readable image.
        RunFolderError: The folder already holds a run, or something else; or there is no run to go on from.
        InputError: No image can be read, weights do not fit, or the loss stopped being a number in the first epoch.
        OutputError: The run folder or the cache cannot be written.
        MissingPackageError: A package of the extra [train] is not installed.
        KeyboardInterrupt: Ctrl-C before the first epoch was complete; nothing is written.
    """
    plan = plan_training(dataset, options, cache_folder)
    if plan.earlier is not None and plan.earlier.folder.resolve() == folder.resolve():
        raise UsageError(
            "a run cannot be replaced while it is gone on from",
            got=f"{folder} for --run and --from",
            expected="two folders",
            do="choose another --run",
        )
    run_folder.check_run_target(folder, overwrite=overwrite)
    return _train(plan, folder, None, tensorboard=tensorboard, progress=progress)


def resume(
    folder: Path,
    *,
    data_root: Path | None = None,
    tensorboard: bool = False,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Goes on with a training that was killed, crashed or interrupted, from its last finished epoch.

    What comes out is what would have come out without the interruption.

    Args:
        folder: The run folder.
        data_root: Where the images are now; None where they were.
        tensorboard: As in `train`.
        cache_folder: As in `train`.
        progress: Told of each stage.

    Raises:
        RunFolderError: There is nothing to resume, or the images have changed.
        EdgeclfError: As `train`.
    """
    checkpoint_path = folder / run_folder.CHECKPOINT_FILE
    if not checkpoint_path.is_file():
        finished = (folder / run_folder.SPEC_FILE).is_file()
        raise RunFolderError(
            f"nothing to resume in {folder}",
            got="a finished run" if finished else "no checkpoint",
            expected="a training that was cut off after its first epoch",
            do="train again, or go on from its network with --from" if finished else "train again",
        )
    checkpoint = load_checkpoint(checkpoint_path)
    run_path = folder / run_folder.RUN_FILE
    try:
        document = json.loads(run_path.read_text(encoding="utf-8"))
        options = options_from_json(document["options"], run_path)
        root = data_root or Path(document["data_root"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"cannot resume {folder}", got=str(error), expected="what edgeclf train wrote", do="train again"
        ) from error
    # The parts are those of the beginning, whatever may have been added to the folders since.
    source = Path(document.get("data", root)) if data_root is None else data_root
    split = read_split(folder / run_folder.SPLIT_FILE)
    dataset = Dataset(root, tuple(replace(s, digest=None) for s in split), source)
    plan = plan_training(dataset, options, cache_folder, resumed=True)
    return _train(plan, folder, checkpoint, tensorboard=tensorboard, progress=progress)


def _train(
    plan: Plan, folder: Path, checkpoint: Checkpoint | None, *, tensorboard: bool, progress: Progress
) -> TrainResult:
    started = time.perf_counter()
    settings = plan.settings
    # What may be missing is looked for before any image is read.
    check_training_packages()
    if tensorboard:
        check_tensorboard()
    if plan.earlier is None:
        settings.architecture.check_available(settings.weights)
    with writing_run(folder, resumed=checkpoint is not None) as writer:
        loaded = load(plan, progress, with_features=checkpoint is None or checkpoint.stage != FINE_TUNE)
        data = loaded.data
        if checkpoint is not None and checkpoint.fingerprint != data.fingerprint:
            raise RunFolderError(
                f"cannot resume {folder}",
                got="images that have changed since it began",
                expected="the images it was training on",
                do="put them back, or train again with --overwrite",
            )
        write_start(writer, samples=data.samples, dataset=plan.dataset, options=plan.options)
        import keras

        keras.utils.set_random_seed(plan.options.seed)
        log = tensorboard_log(writer) if tensorboard else nullcontext(lambda _: None)
        with log as write_log:
            on_epoch = _epoch_writer(writer, data.fingerprint, write_log)
            stages = Stages(settings, loaded, on_epoch, progress)
            try:
                trained = stages.run(checkpoint)
            except DivergedError as error:
                write_start(
                    writer, samples=data.samples, dataset=plan.dataset, options=plan.options, diverged=error.facts
                )
                if not writer.publish_failure():
                    raise
                raise error.with_run(folder) from error
        result, model = _measure(plan, loaded, trained, folder)
        write_result(writer, result, model)
    return replace(result, seconds=time.perf_counter() - started)


def _epoch_writer(
    writer: RunWriter, fingerprint: str, write_log: Callable[[dict[str, Any]], None]
) -> Callable[[str, FitState], None]:
    def on_epoch(stage: str, state: FitState) -> None:
        writer.write_epoch(Checkpoint(stage, state, fingerprint))
        write_log(state.history[-1])

    return on_epoch


def _measure(plan: Plan, loaded: Loaded, trained: Trained, folder: Path) -> tuple[TrainResult, Any]:
    options, settings = plan.options, plan.settings
    data, transfer = loaded.data, loaded.transfer
    calibration = calibrate(
        {part: (values, data.part(part).true_indices) for part, values in trained.probabilities.items()},
        options.false_rejection_rate,
    )
    reports = {
        part: classification_report(values, data.part(part).true_indices, data.labels)
        for part, values in calibration.probabilities.items()
    }
    validation, test = reports["val"], reports.get("test")
    model = with_temperature_layer(trained.model, calibration.temperature)
    spec = ModelSpec(
        labels=data.labels,
        preprocess=settings.preprocess,
        temperature=calibration.temperature,
        rejection_threshold=calibration.rejection_threshold,
        architecture=settings.architecture.name,
        training=training_summary(
            options,
            settings,
            history=trained.result.history,
            best_epoch=trained.result.best_epoch,
            ending=trained.result.ending,
            images={part: len(rows) for part, rows in data.rows.items()},
            validation=validation,
            test=test,
            calibration=calibration.to_json(),
            changes=None if transfer is None else transfer.changes.to_json(),
            ranges_8bit=trained.ranges_8bit,
        ),
        dataset_fingerprint=data.fingerprint,
        package_versions=package_versions(),
    )
    parameters = int(model.count_params())
    unreadable = data.cached.unreadable
    return (
        TrainResult(folder, spec, parameters, trained.result, validation, test, calibration, transfer, unreadable, 0.0),
        model,
    )
