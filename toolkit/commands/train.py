"""`edgeclf train`: a folder of labelled images becomes a run folder."""

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar, warn
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    CacheFolderOption,
    CacheSizeOption,
    IgnoreUnreadableOption,
    JsonOption,
    output_png,
    refuse_beside,
    refuse_idle,
)
from edgeclf.training.options import TrainingOption, TrainOptions, training_options

if TYPE_CHECKING:
    from edgeclf.export.cache_folder import CacheFolder
    from edgeclf.training import TrainResult
    from edgeclf.training.data.dataset import Dataset

# Options that a resumed training takes; it has the others from its run folder. That it is of the network that --arch names, is checked.
_WITH_RESUME = {
    "resume",
    "architecture",
    "data",
    "tensorboard",
    "cache_folder",
    "cache_size",
    "ignore_unreadable",
    "as_json",
}


def _train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of class folders, folder with train/ and test/ of these, a CSV path,label[,split], or Parquet files.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run folder to write.", show_default=False)] = None,
    list_architectures: Annotated[bool, typer.Option("--list", help="List the networks and end.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Finish this run after a crash, Ctrl-C or kill, with its own options. --arch beside it lets the module of a network of "
            "your own be imported from the folder in which the training began.",
            show_default=False,
        ),
    ] = None,
    find_lr: Annotated[
        Path | None,
        typer.Option(
            "--find-lr",
            help="Sweep the learning rate, draw the losses into this PNG, and end.",
            parser=output_png("--find-lr", "sweep.png"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    show_augmentation: Annotated[
        Path | None,
        typer.Option(
            "--show-augmentation",
            help="Draw augmented training images into this PNG, and end.",
            parser=output_png("--show-augmentation", "grid.png"),
            metavar=FILE_METAVAR,
            show_default=False,
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
    **options: Any,  # noqa: ANN401 - the options of the table
) -> None:
    """Train a classifier; the best epoch on validation images is kept, test images only report."""
    from edgeclf.toolkit.reports.training import print_architectures

    if list_architectures:
        refuse_beside(context, "--list", "which lists the networks")
        print_architectures(as_json=as_json)
        return
    from edgeclf.export.cache_folder import chosen_cache_folder

    cache = chosen_cache_folder(cache_folder, cache_size)
    if resume is not None:
        _refuse_options(context)
        result = _resume(
            resume, data, options["architecture"], tensorboard=tensorboard, cache_folder=cache, as_json=as_json
        )
        _end(result, ignore_unreadable=ignore_unreadable, as_json=as_json)
        return
    # What a run records must not depend on the folder it was begun in.
    for name in ("from_run", "backbone"):
        options[name] = None if options[name] is None else str(options[name].absolute())
    options["image_folder"] = None if options["image_folder"] is None else str(options["image_folder"])
    train_options = TrainOptions(**options)
    _check_places(data, run, find_lr, show_augmentation)
    if data is None:
        raise AssertionError("checked above")
    if find_lr is not None or show_augmentation is not None:
        idle = {"--overwrite": overwrite, "--tensorboard": tensorboard, "--ignore-unreadable": ignore_unreadable}
        refuse_idle(idle, f"with {'--show-augmentation' if find_lr is None else '--find-lr'}, which writes no run")
        _preview(data, train_options, find_lr, show_augmentation, cache, as_json=as_json)
        return
    if run is None:
        raise AssertionError("checked above")
    from edgeclf import training
    from edgeclf.training.data.discovery import discover_dataset, table_options

    with progress_bar(enabled=not as_json) as progress:
        dataset = discover_dataset(
            data,
            table=table_options(train_options),
            group_by=train_options.group_by,
            cache_folder=cache,
            progress=progress,
        )
    _tell_not_read(dataset)
    with progress_bar(enabled=not as_json) as progress:
        result = training.train(
            dataset,
            run,
            train_options,
            overwrite=overwrite,
            tensorboard=tensorboard,
            cache_folder=cache,
            progress=progress,
        )
    _end(result, dataset.not_read, ignore_unreadable=ignore_unreadable, as_json=as_json)


def _tell_not_read(dataset: "Dataset") -> None:
    from edgeclf.runtime.batch.listing import unread_sentence

    text = unread_sentence(dataset.not_read, "the class folders")
    if text is not None:
        warn(text)


def _parameter(row: TrainingOption) -> inspect.Parameter:
    """A row of the table as a parameter that Typer makes an option of."""
    flags = row.flag if row.negative_flag is None else f"{row.flag}/{row.negative_flag}"
    is_whole = row.type in {int, int | None}
    largest = row.bounds[1] - 1 if is_whole and row.bounds is not None and row.bounds[1] < math.inf else None
    option = typer.Option(flags, min=row.minimum, max=largest, help=row.help, show_default=row.default is not None)
    return inspect.Parameter(
        row.name, inspect.Parameter.KEYWORD_ONLY, default=row.default, annotation=Annotated[row.type, option]
    )


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """The function with the table's options in its signature, which Typer reads; they arrive as `**options`."""
    table = {row.name: _parameter(row) for row in training_options()}
    own = inspect.signature(function, eval_str=True).parameters
    names = [name for name in own if name != "options"]
    at_run, at_list, at_resume = (names.index(name) + 1 for name in ("run", "list_architectures", "resume"))
    # In the order of --help: the network beside the folders, what it begins with, then the rest of the table.
    order = [*names[:at_run], "architecture", *names[at_run:at_list], "weights", "from_run", *names[at_list:at_resume]]
    order += [name for name in table if name not in order]
    order += names[at_resume:]
    parameters = [(table.get(name) or own[name]).replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in order]

    def command(**arguments: Any) -> None:  # noqa: ANN401 - whatever Typer parsed
        function(**arguments)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what Typer reads
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    return command


def _check_places(data: Path | None, run: Path | None, find_lr: Path | None, show_augmentation: Path | None) -> None:
    from edgeclf.runtime.errors import UsageError

    if data is None or (run is None and find_lr is None and show_augmentation is None):
        raise UsageError(
            "nothing to train on" if data is None else "no run folder named",
            expected="edgeclf train DATA --run RUN",
            hint="see edgeclf train --help",
        )
    for option, path in (("--find-lr", find_lr), ("--show-augmentation", show_augmentation)):
        if path is not None and run is not None:
            raise UsageError(f"{option} does not train", got=f"--run {run} as well", expected="one of the two")


def _refuse_options(context: typer.Context) -> None:
    """Raises UsageError where an option is given that a resumed training, which keeps its own, cannot follow."""
    from edgeclf.runtime.errors import UsageError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in _WITH_RESUME:
            raise UsageError(
                f"{parameter.opts[0]} does not go with --resume",
                got="both",
                expected="a training that goes on as it began",
                hint="leave it out, or train anew",
            )


def _resume(
    folder: Path,
    data: Path | None,
    architecture: str | None,
    *,
    tensorboard: bool,
    cache_folder: "CacheFolder | None",
    as_json: bool,
) -> "TrainResult":
    from edgeclf import training

    with progress_bar(enabled=not as_json) as progress:
        return training.resume(
            folder,
            data=data,
            architecture=architecture,
            tensorboard=tensorboard,
            cache_folder=cache_folder,
            progress=progress,
        )


def _preview(
    data: Path,
    options: TrainOptions,
    find_lr: Path | None,
    show_augmentation: Path | None,
    cache_folder: "CacheFolder | None",
    *,
    as_json: bool,
) -> None:
    from edgeclf.toolkit.reports.training import print_sweep
    from edgeclf.training.data.discovery import discover_dataset, table_options
    from edgeclf.training.inspect.preview import draw_augmentation, sweep_learning_rate

    with progress_bar(enabled=not as_json) as progress:
        dataset = discover_dataset(
            data, table=table_options(options), group_by=options.group_by, cache_folder=cache_folder, progress=progress
        )
    _tell_not_read(dataset)
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


def _end(
    result: "TrainResult", not_read: Mapping[str, int] | None = None, *, ignore_unreadable: bool, as_json: bool
) -> None:
    from edgeclf.runtime.errors import command_line
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable
    from edgeclf.toolkit.reports.training import kept_weights, old_classes_warning, print_training, training_json

    if as_json:
        print_json(training_json(result) | ({} if not_read is None else {"not_read": dict(not_read)}))
    else:
        print_training(result)
    for sentence in result.notes:
        warn(sentence)
    if result.transfer is not None and result.transfer.leaked:
        warn(
            f"{result.transfer.leaked} test images were training or validation images of {result.transfer.folder}: "
            "the test figures are too good"
        )
    if result.transfer is not None and result.old_classes is not None:
        text = old_classes_warning(result.old_classes, result.transfer.folder, result.folder)
        if text is not None:
            warn(text)
    if result.fit.ending == "diverged":
        warn(
            f"the loss stopped being a number in epoch {len(result.fit.history) + 1}; the "
            f"{kept_weights(result)} were kept; try a lower --learning-rate"
        )
    if result.fit.ending == "interrupted":
        note(
            f"interrupted: the {kept_weights(result)}, the best so far, are in {result.folder}; "
            f"{command_line('train', '--resume', result.folder)} goes on"
        )
        raise SystemExit(130)
    end_with_unreadable(result.unreadable, ignore=ignore_unreadable)


train = _command(_train)
train.__name__ = "train"
