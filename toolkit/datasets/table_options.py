"""Options for a CSV with columns of other names or bare ids, which the commands that judge on labelled images share."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgeclf.training.data.table_files import TableOptions

PathColumnOption = Annotated[
    str | None,
    typer.Option(
        "--path-column",
        help="A CSV: name of the column with the paths. Default: path. Parquet: that of the images.",
        show_default=False,
    ),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="A CSV or Parquet: name of the column with the classes. Default: label.",
        show_default=False,
    ),
]
ImageFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--image-folder", help="A CSV: folder of the images, where its paths begin there.", show_default=False
    ),
]
ImageSuffixOption = Annotated[
    str | None,
    typer.Option("--image-suffix", help="A CSV of bare ids: suffix of the files, such as .jpg.", show_default=False),
]


def table_options(
    path_column: PathColumnOption = None,
    label_column: LabelColumnOption = None,
    image_folder: ImageFolderOption = None,
    image_suffix: ImageSuffixOption = None,
) -> "TableOptions":
    """What the options say of a CSV."""
    from edgeclf.training.data.table_files import TableOptions

    return TableOptions(path_column, label_column, None if image_folder is None else str(image_folder), image_suffix)


def takes_tables(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `table_options`; it gets what they say in its parameter `table`.

    Args:
        command: A function whose parameters are options of Typer, but for `table`, which is None where none is given.
    """
    own, shared = inspect.signature(command), inspect.signature(table_options)

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:  # noqa: ANN401 - options of every type
        said = {name: values.pop(name, None) for name in shared.parameters}
        is_given = any(value is not None for value in said.values())
        command(**values, table=table_options(**said) if is_given else None)

    parameters = [
        item.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for item in (*own.parameters.values(), *shared.parameters.values())
        if item.name != "table"
    ]
    # Typer reads both.
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {item.name: item.annotation for item in parameters}
    return wrapped
