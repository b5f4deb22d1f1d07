"""`edgeclf doctor`: examines a data set, a run or a model file and reports findings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar
from edgeclf.toolkit.datasets.table_options import takes_tables
from edgeclf.toolkit.foreign import note_use_of, takes_foreign_files
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    CacheFolderOption,
    CacheSizeOption,
    JsonOption,
    output_file,
    refuse_beside,
)

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel
    from edgeclf.training.data.table_files import TableOptions


@takes_foreign_files
@takes_tables
def doctor(
    context: typer.Context,
    subject: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA_RUN_OR_MODEL",
            help="Before training: folder of class folders, train/ + test/ folders, a CSV, or Parquet files. After: a run folder. Or any "
            ".onnx classifier, with --data.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write a page with the images into this file.",
            parser=output_file("report.html"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and when each finds something.")] = False,
    max_images: Annotated[
        int | None,
        typer.Option(
            "--max-images",
            min=1,
            help="Look at so many images at most, of every class in every part the same share. Default: all.",
            show_default=False,
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at the files only, show no image to the pretrained network.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Of a model file: photographs, best in class folders. Of a run: where its images are now, if they have moved.",
            show_default=False,
        ),
    ] = None,
    int8: Annotated[
        Path | None,
        typer.Option(
            "--int8", help="An int8 file of the run or model, to compare where errors gather.", show_default=False
        ),
    ] = None,
    cache_folder: CacheFolderOption = None,
    cache_size: CacheSizeOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Of samples and folds.")] = 0,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
    foreign_words: dict[str, str] | None = None,
    table: "TableOptions | None" = None,
) -> None:
    """Say why a classifier does not learn, or will not hold up: data, split, run, model; ends with 4 on a problem.

    Of any .onnx classifier, also one that others made, it says on photographs whether it is used as it was trained: scaling,
    channel order, fit, order of the labels.

    pip install "edgeclf[train,doctor]" brings all that it uses: the pretrained network that images are shown to, and what
    looks for wrong labels.
    """
    from edgeclf.runtime.errors import UsageError

    if list_checks:
        refuse_beside(context, "--list", "which lists the checks")
        from edgeclf.toolkit.doctor.report.terminal import print_checks

        print_checks(as_json=as_json)
        return
    if subject is None:
        raise UsageError(
            "nothing to look at", expected="a data set, a run folder or an .onnx file", hint="run edgeclf doctor DATA"
        )
    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.toolkit.doctor.examination import ExaminationOptions, examine_path
    from edgeclf.toolkit.doctor.gather.data import MAX_FEATURES
    from edgeclf.toolkit.doctor.report.terminal import print_examination

    _refuse_idle_options(subject, {"--data": data, "--int8": int8}, foreign_words or {})
    _refuse_columns_of_runs(subject, data, table)
    cache = chosen_cache_folder(cache_folder, cache_size)
    settings = ExaminationOptions(
        max_images, 0 if fast else MAX_FEATURES, seed, cache, data, int8, foreign, foreign_words or {}, table
    )
    with progress_bar() as progress:
        examination = examine_path(subject, settings, progress)
    if examination.used_as is not None:
        note_use_of(subject, examination.used_as)
    if html is not None:
        from edgeclf.runtime.files import write_text
        from edgeclf.toolkit.doctor.report.page import page

        write_text(html, page(examination))
    if as_json:
        print_json(examination.to_json())
    else:
        print_examination(examination)
    if html is not None:
        note(f"page with the images: {html}")
    if examination.has_problem:
        raise typer.Exit(4)


def _refuse_columns_of_runs(subject: Path, data: Path | None, table: "TableOptions | None") -> None:
    """Raises UsageError where columns are named of a run's data set, whose images the run itself lists."""
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.doctor.examination import is_run

    if table is None or not is_run(subject):
        return
    # Images in Parquet files have to be extracted again.
    idle = [flag for flag in table.given if flag != "--path-column" or data is None]
    if idle:
        raise UsageError(
            f"{idle[0]} does nothing for a run, which lists its images itself", got=str(subject), hint="leave it out"
        )


def _refuse_idle_options(subject: Path, of_models: Mapping[str, object], of_files: Mapping[str, str]) -> None:
    """Raises UsageError where an option is given that the subject does nothing with."""
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.doctor.examination import is_model, is_run

    given = [option for option, value in of_models.items() if value is not None]
    if given and not (is_run(subject) or is_model(subject)):
        raise UsageError(
            f"{given[0]} is for runs and models",
            got=f"{subject}, which is none",
            expected="a run folder or an .onnx file",
            hint=f"leave {given[0]} out",
        )
    if of_files and not is_model(subject):
        raise UsageError(
            f"{next(iter(of_files))} is for model files",
            got=f"{subject}, which is none",
            expected="an .onnx file",
            hint="leave it out",
        )
