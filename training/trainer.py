"""A training from a folder of labelled images to a run folder: resolve options, prepare data, fit, calibrate, write."""

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import check_training_packages
from edgeclf.runtime.errors import RunFolderError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.training.calibration.report import calibrate
from edgeclf.training.data.dataset import Dataset
from edgeclf.training.data.discovery import discover_dataset, table_options
from edgeclf.training.data.seen_images import changed_images, changed_words
from edgeclf.training.data.training_data import TrainingData
from edgeclf.training.fit.checkpoint import Checkpoint
from edgeclf.training.fit.loop import DivergedError, FitState
from edgeclf.training.fit.old_classes import answer_with_earlier, compare_old_classes, learned_before
from edgeclf.training.fit.resolve import ResolvedOptions, resolve_options
from edgeclf.training.fit.stages import run_stages, with_temperature_layer
from edgeclf.training.inputs import prepare_inputs
from edgeclf.training.options import FINE_TUNE, Stage, TrainOptions
from edgeclf.training.run.beginning import (
    compare_beginning,
    drop_beginning,
    identify_beginning,
    keep_beginning,
    kept_weights,
)
from edgeclf.training.run.earlier import open_earlier
from edgeclf.training.run.folder import BACKBONE_FILE, Run, UnfinishedRun, check_run_target, load_run, open_unfinished
from edgeclf.training.run.results import TrainResult, summarise, write_result, write_start
from edgeclf.training.run.tensorboard import check_tensorboard, tensorboard_log
from edgeclf.training.run.writer import RunWriter, writing_run


def train(
    data: Path | str | Dataset,
    folder: Path | str,
    options: TrainOptions | None = None,
    *,
    overwrite: bool = False,
    tensorboard: bool = False,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Trains a classifier and writes its run folder.

    Args:
        data: Folder of class folders, folder with train/ and test/ of these, or a CSV path,label[,split]; or what
            `discover_dataset` lists of these.
        folder: The run folder to write; it appears with the first finished epoch, and holds a usable model when
            training ends, is interrupted or diverges. Where it diverges before that, the folder holds what the doctor
            needs, and may be written again.
        options: None trains the head of the default network.
        overwrite: Whether a run that stands there may be replaced.
        tensorboard: Whether TensorBoard logs are written into the run folder.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Called with the name of a stage, the work done and the work in all.

    Raises:
        UsageError: An option is out of range, contradicts another, or names something that does not exist.
        DatasetError: The data set is missing or too small, or a class has no readable image.
        RunFolderError: The folder already holds a run, or something else; or there is no run to go on from.
        InputError: No image can be read, weights do not fit, or the loss stopped being a number in the first epoch.
        OutputError: The run folder or the cache cannot be written.
        MissingPackageError: A package of the extra [train] is not installed.
        KeyboardInterrupt: Ctrl-C before the first epoch was complete; nothing is written.
    """
    folder, options = Path(folder), options or TrainOptions()
    dataset = (
        data
        if isinstance(data, Dataset)
        else discover_dataset(
            data,
            table=table_options(options),
            group_by=options.group_by,
            cache_folder=cache_folder,
            progress=progress,
        )
    )
    options, earlier = open_earlier(options)
    check_run_target(folder, overwrite=overwrite, earlier=earlier)
    return _train(
        dataset, folder, options, earlier, None, tensorboard=tensorboard, cache_folder=cache_folder, progress=progress
    )


def resume(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    architecture: str | None = None,
    tensorboard: bool = False,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Resumes a training that was killed, crashed or interrupted, from its last finished epoch.

    The run is, bit for bit, that of a training without the interruption.

    Args:
        folder: The run folder.
        data: Where the images are now, as for `train`; None where they were.
        architecture: `module:function` of the run's own network once more: the module is then imported also from the folder in which
            the training began, which the run folder alone names; None takes it from the current folder, or what is installed.
        tensorboard: As for `train`.
        cache_folder: As for `train`.
        progress: As for `train`.

    Raises:
        RunFolderError: There is nothing to resume, the images have changed, or the module of the network is not there.
        UsageError: `architecture` is another network, or the module of the network came with the run folder.
        EdgeclfError: As `train`.
    """
    folder, data = Path(folder), None if data is None else Path(data)
    unfinished = open_unfinished(folder, data, architecture)
    earlier = None if unfinished.options.from_run is None else load_run(unfinished.options.from_run)
    return _train(
        unfinished.dataset,
        folder,
        unfinished.options,
        earlier,
        unfinished,
        tensorboard=tensorboard,
        cache_folder=cache_folder,
        progress=progress,
    )


def _train(
    dataset: Dataset,
    folder: Path,
    options: TrainOptions,
    earlier: Run | None,
    unfinished: UnfinishedRun | None,
    *,
    tensorboard: bool,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> TrainResult:
    started = time.perf_counter()
    checkpoint = None if unfinished is None else unfinished.checkpoint
    resolved = _resolve(options, earlier) if unfinished is None else _resolve_again(unfinished, earlier, folder)
    # A missing package is reported before any image is read.
    check_training_packages()
    if tensorboard:
        check_tensorboard()
    if earlier is None:
        resolved.check_available()
    began_with, note = _beginning(resolved, earlier, unfinished, folder)
    with writing_run(folder, resumed=checkpoint is not None) as writer:
        data, transfer, backbone = prepare_inputs(
            dataset,
            # The images of an unfinished run are divided already.
            options if checkpoint is None else replace(options, val_fraction=None, test_fraction=None),
            resolved,
            earlier,
            with_features=checkpoint is None or checkpoint.stage != FINE_TUNE,
            cache_folder=cache_folder,
            progress=progress,
        )
        fingerprint = data.fingerprint
        if checkpoint is not None:
            data = _noted(_check_unchanged(checkpoint, dataset, data, folder), note)
        start = partial(
            write_start,
            writer,
            samples=data.samples,
            dataset=dataset,
            options=options,
            resolved=resolved,
            began_with=began_with,
        )
        start()
        keep_beginning(writer.folder, resolved)
        # Before the fits, which change the earlier network's weights.
        earlier_answers = None
        if transfer is not None and earlier is not None:
            earlier_answers = answer_with_earlier(transfer, earlier.seen_images, data, progress)
            data = _noted(data, learned_before(transfer, earlier.seen_images, data))
        import keras

        keras.utils.set_random_seed(options.seed)
        with tensorboard_log(writer) if tensorboard else nullcontext(lambda _: None) as write_log:

            def on_epoch(stage: Stage, state: FitState) -> None:
                writer.write_epoch(Checkpoint(stage, state, fingerprint))
                write_log(state.history[-1])

            try:
                network, fit, probabilities = run_stages(
                    resolved, data, transfer, backbone, checkpoint=checkpoint, on_epoch=on_epoch, progress=progress
                )
            except DivergedError as error:
                start(diverged=error.facts)
                drop_beginning(writer.folder)
                if not writer.publish_failure():
                    raise
                raise error.with_run(folder) from error
        scored = {split: (values, data.subset(split).true_indices) for split, values in probabilities.items()}
        calibration = calibrate(scored, options.false_rejection_rate)
        model = with_temperature_layer(network, calibration.temperature)
        folder, data = _place(writer, folder, data)
        result = summarise(
            folder,
            options,
            resolved,
            data,
            transfer,
            began_with=began_with,
            model=model,
            fit=fit,
            calibration=calibration,
        )
        if earlier_answers is not None:
            old_classes = compare_old_classes(earlier_answers, calibration.probabilities["test"], data)
            result = replace(result, old_classes=old_classes)
        write_result(writer, result, model)
    return replace(result, seconds=time.perf_counter() - started)


def _beginning(
    resolved: ResolvedOptions, earlier: Run | None, unfinished: UnfinishedRun | None, folder: Path
) -> tuple[dict[str, str], str | None]:
    """What the training began with, and a note where that is no longer there."""
    now = identify_beginning(resolved, earlier)
    if unfinished is None:
        return now, None
    began_with = unfinished.began_with
    return {**now, **began_with}, compare_beginning(folder, unfinished.checkpoint.stage, began_with, now)


def _place(writer: RunWriter, folder: Path, data: TrainingData) -> tuple[Path, TrainingData]:
    """The run folder, and the data with a note where it is another one than was named."""
    if writer.note is None:
        return folder, data
    return writer.folder, replace(data, notes=(*data.notes, writer.note))


def _check_unchanged(checkpoint: Checkpoint, dataset: Dataset, data: TrainingData, folder: Path) -> TrainingData:
    """The data of a training that goes on, with a note where test images have changed.

    Raises:
        RunFolderError: Training or validation images have.
    """
    changed = changed_words(changed_images(dataset.samples, data.samples))
    checkpoint.check_images(data.fingerprint, folder, changed)
    goes_on = "test images, so that the training goes on; the test figures are of the new ones"
    return _noted(data, None if changed is None else f"{changed}: {goes_on}")


def _noted(data: TrainingData, text: str | None) -> TrainingData:
    """The data with one note more, where there is one."""
    return data if text is None else replace(data, notes=(*data.notes, text))


def _resolve(options: TrainOptions, earlier: Run | None) -> ResolvedOptions:
    """The options resolved; a training with `--from` has its preprocessing from that run, whose parts no option says."""
    resolved = resolve_options(options)
    return resolved if earlier is None else replace(resolved, preprocess=earlier.spec.preprocess)


def _resolve_again(unfinished: UnfinishedRun, earlier: Run | None, folder: Path) -> ResolvedOptions:
    """The options as they were resolved when a training began, its ONNX backbone and file of weights from the run folder."""
    options, backbone_copy = unfinished.options, folder / BACKBONE_FILE
    options = replace(options, weights=kept_weights(folder, options.weights))
    if options.backbone is not None and backbone_copy.is_file():
        options = replace(
            options,
            backbone=str(backbone_copy),
            backbone_output=None,
            preprocess=None,
            mean=None,
            std=None,
            channels=None,
        )
    resolved = _resolve(options, earlier)
    if unfinished.resolved is None:
        return resolved
    try:
        return resolved.with_record(unfinished.resolved)
    except ValueError as error:
        raise RunFolderError(
            f"cannot resume {folder}",
            got=f"options of another version of edgeclf ({error})",
            expected="those of this one",
            hint="resume with the version that began it, or train again",
        ) from error
