"""`edgeclf compare`: two classifiers on the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar, unreadable_json
from edgeclf.toolkit.datasets.table_options import takes_tables
from edgeclf.toolkit.foreign import no_options, takes_foreign_files
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    CustomObjectsOption,
    DeviceOption,
    EngineCacheOption,
    IgnoreUnreadableOption,
    JsonOption,
    ProviderOptionOption,
    SignatureOption,
    SplitOption,
    ThreadsOption,
    UnsafeLoadOption,
    chosen_device,
    output_file,
    output_png,
    refuse_idle,
)

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel
    from edgeclf.training.data.table_files import TableOptions


@takes_foreign_files
@takes_tables
def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="The one before: a run folder, an .onnx file, or a Keras model that others made.",
            show_default=False,
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="The one after, likewise.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="The images: a folder of class folders, or a CSV. Default: the test images of the runs.",
            show_default=False,
        ),
    ] = None,
    split: SplitOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A CSV of the images that get another label.",
            parser=output_file("changed.csv"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="A PNG of the images that get another label.",
            parser=output_png("--plot", "changed.png"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    provider_option: ProviderOptionOption = None,
    engine_cache: EngineCacheOption = None,
    threads: ThreadsOption = None,
    custom_objects: CustomObjectsOption = None,
    signature: SignatureOption = None,
    unsafe_load: UnsafeLoadOption = False,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
    table: "TableOptions | None" = None,
) -> None:
    """Compare two classifiers on the same images: accuracy with the interval of the difference, classes, images that changed."""
    from edgeclf.export.source.keras_files.kinds import KerasOptions, keras_kind
    from edgeclf.runtime.errors import UsageError
    from edgeclf.runtime.files import kind_of
    from edgeclf.toolkit.compare.comparison import compare_answers
    from edgeclf.toolkit.compare.images import answer_images, images_to_compare, shared_names
    from edgeclf.toolkit.compare.sides import open_sides
    from edgeclf.toolkit.compare.tables import print_comparison, write_changed
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable, unknown_training_note

    if data is None and table is not None:
        words = "--path-column, --label-column, --image-folder or --image-suffix"
        raise UsageError(f"{words} needs images", got="no DATA", expected="edgeclf compare A B DATA")
    _check_outputs(first, second, data, out, plot)
    if all(keras_kind(path) is not None or kind_of(path) == "folder" for path in (first, second)):
        idle = {"--device": device, "--provider-option": provider_option, "--engine-cache": engine_cache}
        refuse_idle({**idle, "--threads": threads}, "where Keras runs both")
    sides = open_sides(
        (first, second),
        device=chosen_device(device, provider_option, engine_cache),
        threads=threads,
        foreign=foreign or no_options(),
        keras=KerasOptions(custom_objects, signature, is_trusted=unsafe_load),
    )
    with progress_bar(enabled=not as_json) as progress:
        images = images_to_compare(sides, data, split, progress, table)
        for text in (
            images.selection.sentence("A or B", "one of them"),
            *(unknown_training_note(side.path, side.spec, side.seen) for side in sides),
        ):
            if text is not None:
                note(text)
        answers = answer_images(sides, images.paths, progress)
    facts = compare_answers(
        [images.paths[row] for row in answers.rows],
        [images.labels[row] for row in answers.rows],
        answers.answers,
        shared_names(sides),
    )
    if out is not None:
        write_changed(facts.changed, out)
        note(f"wrote {out}")
    if plot is not None:
        from edgeclf.toolkit.compare.contact_sheet import draw_contact_sheet

        draw_contact_sheet(facts.changed, f"A: {_tail(first)}   B: {_tail(second)}", plot)
        note(f"wrote {plot}")
    if as_json:
        print_json(
            {
                **{
                    side.letter.lower(): {
                        "model": str(side.path),
                        "architecture": side.spec.architecture,
                        "precision": side.spec.precision,
                        "ran_on": side.ran_on,
                        "used_as": side.used_as,
                    }
                    for side in sides
                },
                "data": images.data,
                "part": images.selection.name,
                "selection": images.selection.to_json(),
                **facts.to_json(),
                "unreadable": unreadable_json(answers.unreadable),
            }
        )
    else:
        print_comparison(sides, facts, images.selection.name, images.data)
    end_with_unreadable(answers.unreadable, ignore=ignore_unreadable)


def _tail(path: Path, most: int = 48) -> str:
    text = str(path)
    return text if len(text) <= most else f"…{text[-most:]}"


def _check_outputs(first: Path, second: Path, data: Path | None, out: Path | None, plot: Path | None) -> None:
    """Refuses outputs that would replace an input or each other, or cannot be drawn, before there is any work to lose."""
    from edgeclf.runtime.errors import UsageError

    if plot is not None:
        from edgeclf.training.drawing import import_figure

        import_figure()
    taken = {path.resolve() for path in (first, second, data) if path is not None}
    for option, path in (("--out", out), ("--plot", plot)):
        if path is not None and path.resolve() in taken:
            raise UsageError(f"bad {option}", got=f"{path} once more", expected="a file of its own")
        if path is not None:
            taken.add(path.resolve())
