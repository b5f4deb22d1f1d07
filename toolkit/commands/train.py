"""`edgeclf train`: a folder of labelled images becomes a run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, print_result, print_table, progress_bar, warn
from edgeclf.toolkit.options import CacheFolderOption, IgnoreUnreadableOption, JsonOption

if TYPE_CHECKING:
    from edgeclf.training.train import TrainResult


def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of class folders, folder with train/ and test/ of these, or a CSV path,label[,split].",
            show_default=False,
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run folder to write.", show_default=False)] = None,
    arch: Annotated[str, typer.Option("--arch", help="The network; see --list.")] = "efficientnet-lite0",
    list_architectures: Annotated[bool, typer.Option("--list", help="List the networks and end.")] = False,
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
        float | None, typer.Option("--learning-rate", help="Of the optimizer.", show_default=False)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", min=1, help="Epochs without a lower validation loss before it stops.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of split, weights, order and dropout.")] = 0,
    val_fraction: Annotated[
        float | None,
        typer.Option("--val-fraction", help="Share that validates (0.15; 0.2 of train/).", show_default=False),
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option("--test-fraction", help="Share that tests (0.15); 0 for none.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    cache_folder: CacheFolderOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier; early stopping keeps the best weights, test images only report."""
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.labelled import end_with_unreadable
    from edgeclf.training.architectures import ARCHITECTURES
    from edgeclf.training.dataset import discover_dataset
    from edgeclf.training.train import TrainOptions
    from edgeclf.training.train import train as run_training

    if list_architectures:
        _list(as_json=as_json)
        return
    if data is None or run is None:
        raise UsageError(
            "nothing to train on" if data is None else "no run folder named",
            expected="edgeclf train DATA --run RUN",
            do="see edgeclf train --help",
        )
    if arch not in ARCHITECTURES:
        raise UsageError(
            f"unknown architecture {arch!r}", expected=" or ".join(ARCHITECTURES), do="see edgeclf train --list"
        )
    dataset = discover_dataset(data)
    options = TrainOptions(
        architecture=arch,
        image_size=image_size,
        fit=fit,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        patience=patience,
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
    )
    with progress_bar(enabled=not as_json) as progress:
        result = run_training(dataset, options, run, overwrite=overwrite, cache_folder=cache_folder, progress=progress)
    if as_json:
        print_json(_to_json(result))
    else:
        _show(result)
    if result.fit.ending == "diverged":
        warn(
            f"the loss stopped being a number in epoch {len(result.fit.history) + 1}; the weights of epoch "
            f"{result.fit.best_epoch} were kept; try a lower --learning-rate"
        )
    if result.fit.ending == "interrupted":
        note(f"interrupted: the weights of epoch {result.fit.best_epoch}, the best so far, are in {run}")
        raise SystemExit(130)
    end_with_unreadable(result.unreadable, ignore=ignore_unreadable)


def _list(*, as_json: bool) -> None:
    from edgeclf.training.architectures import ARCHITECTURES

    rows: list[dict[str, Any]] = [
        {
            "name": item.name,
            "default_size": item.default_size,
            "min_size": item.min_size,
            "default_fit": item.default_fit,
            "description": item.description,
        }
        for item in ARCHITECTURES.values()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        "",
        ["--arch", "default size", "smallest", "--fit", ""],
        [
            [row["name"], f"{row['default_size']} px", f"{row['min_size']} px", row["default_fit"], row["description"]]
            for row in rows
        ],
        numeric=False,
    )


def _show(result: "TrainResult") -> None:
    from edgeclf.toolkit.report import print_report
    from edgeclf.training.record import NO_TEST_PART

    history = result.fit.history
    images = result.spec.training["images"]
    endings = {"finished": "all epochs done", "early": "stopped early"}
    print_result(
        f"{result.spec.architecture}, {result.parameters:,} parameters, "
        f"{images['train']} training, {images['val']} validation and {images['test']} test images\n"
        f"{len(history)} epochs ({endings.get(result.fit.ending, result.fit.ending)}), "
        f"weights of epoch {result.fit.best_epoch} kept, {result.seconds:.0f} s"
    )
    print_report("Validation images (they chose the weights)", result.validation)
    if result.test is None:
        print_result(NO_TEST_PART)
    else:
        print_report("Test images (they chose nothing)", result.test)
    print_result(f"run folder: {result.folder}")
    note(f"next: edgeclf export {result.folder} --out model.onnx")


def _to_json(result: "TrainResult") -> dict[str, Any]:
    return {
        "run": str(result.folder),
        "architecture": result.spec.architecture,
        "parameters": result.parameters,
        "labels": list(result.spec.labels),
        "training": dict(result.spec.training),
        "history": list(result.fit.history),
        "validation": result.validation.to_json(),
        "test": None if result.test is None else result.test.to_json(),
        "unreadable": [{"source": str(path), "error": str(error)} for path, error in result.unreadable],
        "seconds": result.seconds,
    }
