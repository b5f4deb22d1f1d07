"""`edgeclf train`: a folder of labelled images becomes a run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar, warn
from edgeclf.toolkit.options import CacheFolderOption, CacheSizeOption, IgnoreUnreadableOption, JsonOption

if TYPE_CHECKING:
    from edgeclf.export.cache_folder import CacheFolder
    from edgeclf.training.options import TrainOptions
    from edgeclf.training.run.results import TrainResult

_GOING_ON = {"resume", "data", "tensorboard", "cache_folder", "cache_size", "ignore_unreadable", "as_json"}


def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of class folders, folder with train/ and test/ of these, or a CSV path,label[,split].",
            show_default=False,
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run folder to write.", show_default=False)] = None,
    arch: Annotated[
        str, typer.Option("--arch", help="The network, or keras:NAME for any of keras.applications; see --list.")
    ] = "efficientnet-lite0",
    list_architectures: Annotated[bool, typer.Option("--list", help="List the networks and end.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="imagenet, none (random: the whole network is trained) or a file of weights.",
            show_default=False,
        ),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option("--from", help="Go on from this run's network, for other or more classes.", show_default=False),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", help="Finish this run after a crash, Ctrl-C or kill, with its own options.", show_default=False
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Input height and width in pixels.", show_default=False)
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit", help="How images become square: crop, stretch or letterbox; see --list.", show_default=False
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Most epochs.", show_default=False)] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images in one step.", show_default=False)
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", help="adam, adamw, nadam, rmsprop or sgd.", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Of the optimizer; --find-lr suggests one.", show_default=False),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="Of the learning rate: constant or cosine.", show_default=False)
    ] = None,
    warmup_epochs: Annotated[
        float | None,
        typer.Option("--warmup-epochs", min=0, help="Epochs over which the learning rate rises.", show_default=False),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", min=0, help="Decoupled weight decay.", show_default=False)
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option("--label-smoothing", help="Share of each target spread over all classes.", show_default=False),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option("--augment", help="none, light or strong; see --show-augmentation.", show_default=False),
    ] = None,
    mixup: Annotated[
        float | None,
        typer.Option("--mixup", min=0, help="Blend pairs of images by Beta(ALPHA, ALPHA) shares.", show_default=False),
    ] = None,
    dropout_scale: Annotated[
        float | None,
        typer.Option(
            "--dropout-scale",
            help="Of the network's own dropout rates: 1 for all of it, 0 for none.",
            show_default=False,
        ),
    ] = None,
    batch_norm: Annotated[
        bool | None,
        typer.Option(
            "--batch-norm/--no-batch-norm",
            help="Train with batch normalisation that is folded into the weights at the end; for networks without.",
            show_default=False,
        ),
    ] = None,
    progressive: Annotated[
        bool | None,
        typer.Option("--progressive/--no-progressive", help="Begin with smaller images: quicker.", show_default=False),
    ] = None,
    average_epochs: Annotated[
        float | None,
        typer.Option(
            "--average-epochs",
            min=0.0,
            help="Keep a moving average of the weights over about so many epochs; 0 for the weights themselves.",
            show_default=False,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", min=1, help="Epochs without a better --monitor before it stops.", show_default=False
        ),
    ] = None,
    monitor: Annotated[
        str, typer.Option("--monitor", help="What chooses the epoch: val_loss, val_accuracy or val_macro_f1.")
    ] = "val_loss",
    balance: Annotated[
        str, typer.Option("--balance", help="For uneven classes: none, weights (of the loss) or sampling.")
    ] = "none",
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Train the pretrained backbone as well, after the head.")
    ] = False,
    fine_tune_blocks: Annotated[
        int | None,
        typer.Option("--fine-tune-blocks", min=1, help="Only this many of its last blocks.", show_default=False),
    ] = None,
    fine_tune_epochs: Annotated[
        int | None, typer.Option("--fine-tune-epochs", min=1, help="Most epochs of it.", show_default=False)
    ] = None,
    fine_tune_learning_rate: Annotated[
        float | None, typer.Option("--fine-tune-learning-rate", help="Its learning rate.", show_default=False)
    ] = None,
    qat: Annotated[
        bool, typer.Option("--qat", help="With --from: train its network in the arithmetic of its int8 file.")
    ] = False,
    false_rejection_rate: Annotated[
        float | None,
        typer.Option(
            "--false-rejection-rate",
            help="Call images unknown below a confidence that this share of the validation images misses.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of split, weights, order, augmentation and dropout.")] = 0,
    val_fraction: Annotated[
        float | None,
        typer.Option("--val-fraction", help="Share that validates (0.15; 0.2 of train/).", show_default=False),
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option("--test-fraction", help="Share that tests (0.15); 0 for none.", show_default=False)
    ] = None,
    find_lr: Annotated[
        Path | None,
        typer.Option(
            "--find-lr", help="Sweep the learning rate, draw the losses into this PNG, and end.", show_default=False
        ),
    ] = None,
    show_augmentation: Annotated[
        Path | None,
        typer.Option(
            "--show-augmentation", help="Draw augmented training images into this PNG, and end.", show_default=False
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard logs into the run folder.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    cache_folder: CacheFolderOption = None,
    cache_size: CacheSizeOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier; the best epoch on validation images is kept, test images only report."""
    from edgeclf.toolkit.reports.training import print_architectures

    if list_architectures:
        print_architectures(as_json=as_json)
        return
    from edgeclf.export.cache_folder import chosen_cache_folder

    cache = chosen_cache_folder(cache_folder, cache_size)
    if resume is not None:
        _refuse_options(context)
        result = _resume(resume, data, tensorboard=tensorboard, cache_folder=cache, as_json=as_json)
        _end(result, ignore_unreadable=ignore_unreadable, as_json=as_json)
        return
    from edgeclf.training.options import TrainOptions

    options = TrainOptions(
        architecture=arch,
        weights=weights,
        from_run=None if from_run is None else str(from_run.absolute()),
        image_size=image_size,
        fit=fit,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        augment=augment,
        mixup=mixup,
        dropout_scale=dropout_scale,
        batch_norm=batch_norm,
        progressive=progressive,
        average_epochs=average_epochs,
        patience=patience,
        monitor=monitor,
        balance=balance,
        fine_tune=fine_tune,
        fine_tune_blocks=fine_tune_blocks,
        fine_tune_epochs=fine_tune_epochs,
        fine_tune_learning_rate=fine_tune_learning_rate,
        qat=qat,
        false_rejection_rate=false_rejection_rate,
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
    )
    _check_places(data, run, find_lr, show_augmentation)
    if data is None:
        raise AssertionError("checked above")
    if find_lr is not None or show_augmentation is not None:
        _look(data, options, find_lr, show_augmentation, cache, as_json=as_json)
        return
    if run is None:
        raise AssertionError("checked above")
    from edgeclf.training.data.dataset import discover_dataset
    from edgeclf.training.trainer import train as run_training

    dataset = discover_dataset(data)
    with progress_bar(enabled=not as_json) as progress:
        result = run_training(
            dataset,
            options,
            run,
            overwrite=overwrite,
            tensorboard=tensorboard,
            cache_folder=cache,
            progress=progress,
        )
    _end(result, ignore_unreadable=ignore_unreadable, as_json=as_json)


def _check_places(data: Path | None, run: Path | None, find_lr: Path | None, show_augmentation: Path | None) -> None:
    from edgeclf.runtime.errors import UsageError

    if data is None or (run is None and find_lr is None and show_augmentation is None):
        raise UsageError(
            "nothing to train on" if data is None else "no run folder named",
            expected="edgeclf train DATA --run RUN",
            do="see edgeclf train --help",
        )
    for option, path in (("--find-lr", find_lr), ("--show-augmentation", show_augmentation)):
        if path is not None and path.suffix.lower() != ".png":
            raise UsageError(f"{option} draws a picture", got=str(path), expected="a .png file", do="name one")
        if path is not None and run is not None:
            raise UsageError(f"{option} does not train", got=f"--run {run} as well", expected="one of the two")


def _refuse_options(context: typer.Context) -> None:
    """Raises UsageError where an option is given that a resumed training, which keeps its own, cannot follow."""
    from edgeclf.runtime.errors import UsageError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in _GOING_ON:
            raise UsageError(
                f"{parameter.opts[0]} does not go with --resume",
                got="both",
                expected="a training that goes on as it began",
                do="leave it out, or train anew",
            )


def _resume(
    folder: Path, data: Path | None, *, tensorboard: bool, cache_folder: "CacheFolder | None", as_json: bool
) -> "TrainResult":
    from edgeclf.training.trainer import resume

    root = data if data is None or data.is_dir() else data.parent
    with progress_bar(enabled=not as_json) as progress:
        return resume(folder, data_root=root, tensorboard=tensorboard, cache_folder=cache_folder, progress=progress)


def _look(
    data: Path,
    options: "TrainOptions",
    find_lr: Path | None,
    show_augmentation: Path | None,
    cache_folder: "CacheFolder | None",
    *,
    as_json: bool,
) -> None:
    from edgeclf.toolkit.reports.training import print_sweep
    from edgeclf.training.data.dataset import discover_dataset
    from edgeclf.training.inspect.preview import draw_augmentation, sweep_learning_rate

    dataset = discover_dataset(data)
    document: dict[str, Any] = {}
    with progress_bar(enabled=not as_json) as progress:
        if show_augmentation is not None:
            draw_augmentation(dataset, options, show_augmentation, cache_folder=cache_folder, progress=progress)
            document["augmentation"] = str(show_augmentation)
        if find_lr is not None:
            sweep = sweep_learning_rate(dataset, options, find_lr, cache_folder=cache_folder, progress=progress)
            document["sweep"] = sweep.to_json() | {"picture": str(find_lr)}
    if as_json:
        print_json(document)
        return
    if show_augmentation is not None:
        note(f"wrote {show_augmentation}")
    if find_lr is not None:
        print_sweep(sweep, find_lr)


def _end(result: "TrainResult", *, ignore_unreadable: bool, as_json: bool) -> None:
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable
    from edgeclf.toolkit.reports.training import print_training, training_json

    if as_json:
        print_json(training_json(result))
    else:
        print_training(result)
    if result.transfer is not None and result.transfer.leaked:
        warn(
            f"{result.transfer.leaked} test images were training or validation images of {result.transfer.run.folder}: "
            "the test figures are too good"
        )
    if result.fit.ending == "diverged":
        warn(
            f"the loss stopped being a number in epoch {len(result.fit.history) + 1}; the weights of epoch "
            f"{result.fit.best_epoch} were kept; try a lower --learning-rate"
        )
    if result.fit.ending == "interrupted":
        note(
            f"interrupted: the weights of epoch {result.fit.best_epoch}, the best so far, are in {result.folder}; "
            f"edgeclf train --resume {result.folder} goes on"
        )
        raise SystemExit(130)
    end_with_unreadable(result.unreadable, ignore=ignore_unreadable)
