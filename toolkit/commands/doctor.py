"""`edgeclf doctor`: examines a data set or a run and reports findings."""

from pathlib import Path
from typing import Annotated

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar
from edgeclf.toolkit.options import FILE_METAVAR, CacheFolderOption, CacheSizeOption, JsonOption, output_file


def doctor(
    subject: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA_OR_RUN",
            help="Before training: folder of class folders, train/ + test/ folders, or a CSV. After: a run folder.",
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
        typer.Option("--data", help="Where a run's images are now, if they have moved.", show_default=False),
    ] = None,
    int8: Annotated[
        Path | None,
        typer.Option("--int8", help="An int8 file of the run, to compare where errors gather.", show_default=False),
    ] = None,
    cache_folder: CacheFolderOption = None,
    cache_size: CacheSizeOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of samples and folds.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say why a classifier does not learn, or will not hold up: data, split, run and model; ends with 4 on a problem.

    pip install "edgeclf[train,doctor]" brings all that it uses: the pretrained network that images are shown to, and what
    looks for wrong labels.
    """
    if list_checks:
        from edgeclf.toolkit.doctor.report.terminal import print_checks

        print_checks(as_json=as_json)
        return
    from edgeclf.runtime.errors import UsageError

    if subject is None:
        raise UsageError("nothing to look at", expected="a data set or a run folder", hint="run edgeclf doctor DATA")
    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.toolkit.doctor.examination import ExaminationOptions, examine_path, is_run
    from edgeclf.toolkit.doctor.gather.data import MAX_FEATURES
    from edgeclf.toolkit.doctor.report.terminal import print_examination

    for option, value in (("--data", data), ("--int8", int8)):
        if value is not None and not is_run(subject):
            raise UsageError(f"{option} is for runs", got=f"{subject}, which is none", expected="a run folder")
    cache = chosen_cache_folder(cache_folder, cache_size)
    settings = ExaminationOptions(max_images, 0 if fast else MAX_FEATURES, seed, cache, data, int8)
    with progress_bar() as progress:
        examination = examine_path(subject, settings, progress)
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
