"""`edgeclf export`: a run, or a model that others made, becomes one verified `.onnx` file."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar, warn
from edgeclf.toolkit.datasets.table_options import takes_tables
from edgeclf.toolkit.foreign import no_options, takes_foreign_files
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    CacheFolderOption,
    CacheSizeOption,
    CustomObjectsOption,
    IgnoreUnreadableOption,
    JsonOption,
    MaxAccuracyDropOption,
    MinAgreementOption,
    SignatureOption,
    UnsafeLoadOption,
    given_limits,
    output_file,
    output_png,
    refuse_idle,
    refuse_idle_limits,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeclf.export import ExportOptions, ExportReport
    from edgeclf.export.source.images import ExportImages
    from edgeclf.runtime import ForeignModel, ModelSpec
    from edgeclf.training.data.table_files import TableOptions

_ENTRANCES = ("auto", "int8")
_CALIBRATION_IMAGES = 256
# Fewer images leave ranges and corrections to chance.
_FEW_IMAGES = 100


@takes_foreign_files
@takes_tables
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="The run folder that edgeclf train wrote; or an image classifier that others made: an .onnx file, a .keras or "
            ".h5 file, a SavedModel folder, or module:name of a Keras model or a function that gives one.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The .onnx file to write.",
            parser=output_file("model.onnx"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ],
    precision: Annotated[str, typer.Option("--precision", help="fp32, int8, or fp16 for GPUs.")] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="A run: its data set, if it has moved since. Other models: photographs, in class folders named like the "
            "labels or unlabelled: some calibrate int8, others judge the file, divided by their content.",
            show_default=False,
        ),
    ] = None,
    min_agreement: MinAgreementOption = None,
    max_accuracy_drop: MaxAccuracyDropOption = None,
    calibration_images: Annotated[
        int | None,
        typer.Option(
            "--calibration-images",
            min=1,
            help=f"int8: images, of a run its training images, that activation ranges are fitted to. Default: {_CALIBRATION_IMAGES}.",
            show_default=False,
        ),
    ] = None,
    effort: Annotated[
        str,
        typer.Option(
            "--effort", help="int8: quick, normal or max: how many recipes are tried, and on how many images."
        ),
    ] = "normal",
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="int8: the CPUs that the file is for: any (the same result on all), x86-avx2, x86-vnni or arm64 (full 8-bit "
            "weights for the last two), or this, the kind of this machine's CPU. After a comma, those to try where nothing "
            "else passes: any,this.",
        ),
    ] = "any",
    keep_float: Annotated[
        list[str] | None,
        typer.Option("--keep-float", help="int8, fp16: name of a layer to keep in float; may be repeated."),
    ] = None,
    entrance: Annotated[
        str,
        typer.Option(
            "--entrance",
            help="int8: auto keeps the first layers in float (a float prefix) as far as that is no slower, for a --target of "
            "this CPU's kind, and for others where nothing else passes; int8 never does, and with --target any keeps every "
            "layer out of float: a portable file or none; a number is how many first layers stay in float: closer to float, "
            "slower, not portable.",
            metavar="auto|int8|N",
        ),
    ] = "auto",
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget-s",
            min=0.0,
            help="int8: seconds after which no further recipe, and no training, is begun.",
            show_default=False,
        ),
    ] = None,
    qat: Annotated[
        bool | None,
        typer.Option(
            "--qat/--no-qat",
            help="int8: where no recipe passes, train the run for 8 bits (minutes), into RUN-qat, and export that network if "
            "it keeps the accuracy of RUN. Default: yes, unless --min-agreement asks for the labels of RUN.",
            show_default=False,
        ),
    ] = None,
    or_fp32: Annotated[
        bool,
        typer.Option(
            "--or-fp32", help="int8: where nothing passes, write the fp32 file, with exit code 0, and say so."
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="int8: a PNG of the recipes' latency and agreement.",
            parser=output_png("--plot", "recipes.png"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="int8: try every recipe again, also those that an earlier export has tried."),
    ] = False,
    custom_objects: CustomObjectsOption = None,
    signature: SignatureOption = None,
    unsafe_load: UnsafeLoadOption = False,
    cache_folder: CacheFolderOption = None,
    cache_size: CacheSizeOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
    table: "TableOptions | None" = None,
) -> None:
    """Write one .onnx file, verified against the original on images it was not made with; nothing if it differs."""
    from edgeclf.export import DEFAULT_RULE, ExportOptions, ParityGateError, export_classifier
    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.export.source.keras_files.kinds import KerasOptions
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.export.last_resort import ExportedRun, can_help, train_and_export
    from edgeclf.toolkit.export.outcome import end_with_left_out, note_next_steps, note_outcome
    from edgeclf.toolkit.export.records import export_document, recipe_points
    from edgeclf.toolkit.export.sources import open_source

    if entrance not in _ENTRANCES and not entrance.isdecimal():
        expected = f"{', '.join(_ENTRANCES)} or a number of layers"
        raise UsageError(f"unknown entrance {entrance!r}", expected=expected, hint="choose one of them")
    given = given_limits(min_agreement, max_accuracy_drop)
    options = ExportOptions(
        # Any text is accepted here: what is none of the choices is refused with a sentence.
        precision=cast("Any", precision),
        limits=given or DEFAULT_RULE,
        effort=cast("Any", effort),
        target=target,
        calibration_images=_CALIBRATION_IMAGES if calibration_images is None else calibration_images,
        keep_float=tuple(keep_float or ()),
        float_prefix=entrance != "int8",
        first_in_float=int(entrance) if entrance.isdecimal() else None,
        budget_s=math.inf if budget_s is None else budget_s,
        or_fp32=or_fp32,
        # Labels of the run are asked for with --min-agreement alone.
        replaced_limits=DEFAULT_RULE if given is None else replace(given, min_agreement=min_agreement or 0.0),
    )
    _check_precision(
        options,
        {
            "--effort": effort != "normal",
            "--target": target != "any",
            "--entrance": entrance != "auto",
            "--budget-s": budget_s is not None,
            "--or-fp32": or_fp32,
            "--qat": qat is True,
            "--no-qat": qat is False,
            "--plot": plot is not None,
            "--fresh": fresh,
            "--calibration-images": calibration_images is not None,
        },
    )
    started = time.perf_counter()
    cache = chosen_cache_folder(cache_folder, cache_size)
    opened = open_source(
        source,
        foreign or no_options(),
        KerasOptions(custom_objects, signature, is_trusted=unsafe_load),
        precision=options.precision,
        data=data,
        table=table,
    )
    if opened.run is None:
        of_images = {
            "--ignore-unreadable": ignore_unreadable,
            "--cache-folder": cache_folder,
            "--cache-size": cache_size,
        }
        _refuse_idle_for_others(source, qat, of_images if data is None else {})
    failure: ParityGateError | None = None
    with progress_bar(enabled=not as_json) as progress:
        classifier = opened.load_classifier()
        refuse_idle_limits(given, classifier.spec.precision, options.precision)
        images = opened.load_images(data, options, cache, progress)
        options = _without_accuracy(options, images, is_asked=max_accuracy_drop is not None)
        if precision == "int8":
            _warn_of_int8(classifier.spec, min(options.max_calibration_images, images.training_count))
        try:
            report = export_classifier(
                classifier, images, out, options, cache_folder=None if fresh else cache, progress=progress
            )
        except ParityGateError as error:
            report, failure = error.report, error
    if not as_json:
        _print(report)
    last_resort = None
    if can_help(opened.run, report) and _wants_training(
        qat, opened.run.folder, min_agreement, options.budget_s - (time.perf_counter() - started)
    ):
        with progress_bar(enabled=not as_json) as progress:
            last_resort = train_and_export(
                opened.run,
                images,
                out,
                options,
                classifier=classifier,
                data=data,
                spent_s=time.perf_counter() - started,
                use_recipe_cache=not fresh,
                cache_folder=cache,
                say=note,
                progress=progress,
            )
    exported = ExportedRun(opened.run, options, report, failure, last_resort)
    if last_resort is not None and not as_json:
        _print(last_resort.report)
    if plot is not None:
        from edgeclf.toolkit.reports.plots import plot_recipes

        plot_recipes(recipe_points(exported.final), min_agreement, plot)
    if as_json:
        print_json(export_document(exported, classifier.spec))
    note_outcome(exported, data)
    note_next_steps(exported.final, opened.original, classifier.spec.source)
    end_with_left_out(source, images, ignore_unreadable=ignore_unreadable)


def _refuse_idle_for_others(source: str, qat: bool | None, of_images: "Mapping[str, object]") -> None:
    """Refuses options that do nothing for a model that others made.

    Args:
        source: The model.
        qat: Whether a training for 8 bits is asked for.
        of_images: Values by option, of those that are about images; none where there are images.
    """
    from edgeclf.runtime.errors import UsageError

    if qat is not None:
        raise UsageError(
            "a training for 8 bits needs a run",
            got=f"{'--qat' if qat else '--no-qat'} for {source}",
            expected="neither for a model that others made",
            hint="leave it out",
        )
    refuse_idle(of_images, "without --data, which names images to read")


def _without_accuracy(options: "ExportOptions", images: "ExportImages", *, is_asked: bool) -> "ExportOptions":
    """The options as they apply to the images: without labels no limit on accuracy can be kept.

    Args:
        options: The options.
        images: The images.
        is_asked: Whether a limit on accuracy was asked for.

    Raises:
        UsageError: It was, and there are no labels.
    """
    from edgeclf.export import ParityLimits
    from edgeclf.runtime.errors import UsageError

    if images.validation.true_indices is not None:
        return options
    if is_asked:
        raise UsageError(
            "--max-accuracy-drop needs labels",
            got="images without",
            expected="class folders that are named like the labels of the model",
            hint="sort the images by class, or pass --min-agreement",
        )
    if isinstance(options.limits, ParityLimits):
        return replace(options, limits=replace(options.limits, max_accuracy_drop=None))
    return options


def _warn_of_int8(spec: "ModelSpec", count: int) -> None:
    """Warns where int8 ranges have little to go by.

    Args:
        spec: What is known of the network.
        count: Calibration images.
    """
    from edgeclf.export.int8.qat_ranges import lacks_weight_scales

    if count < _FEW_IMAGES:
        warn(
            f"int8 is fitted to {count} images; with fewer than {_FEW_IMAGES} its ranges and corrections may "
            "not hold for others: check the figures on test images"
        )
    if lacks_weight_scales(spec.training):
        warn(
            "this run was trained for 8 bits by a version that did not record its weight scales: they are chosen anew; "
            "for those that were trained, train it again with --from RUN --qat"
        )


def _wants_training(qat: bool | None, run: Path, min_agreement: float | None, left_s: float) -> bool:
    """Whether a training for 8 bits is to be tried; says why not, where that was not asked for."""
    if qat is False:
        return False
    if qat is None and min_agreement:
        note(
            f"not trained for 8 bits: that changes labels, and --min-agreement asks for those of {run}; --qat tries it"
        )
        return False
    if left_s <= 0:
        note("not trained for 8 bits: --budget-s is used up")
        return False
    return True


def _check_precision(options: "ExportOptions", given: dict[str, bool]) -> None:
    """Refuses options that have no effect on a precision.

    Args:
        options: The options.
        given: The options of the command line that are about int8 alone, and whether each is given.
    """
    from edgeclf.runtime.errors import UsageError

    got = f"--precision {options.precision}"
    if options.keep_float and options.precision == "fp32":
        raise UsageError("--keep-float is about int8 and fp16", got=got, expected="--precision int8 or fp16")
    for flag, is_given in given.items():
        if is_given and options.precision != "int8":
            raise UsageError(f"{flag} is about int8", got=got, expected="--precision int8")


def _print(report: "ExportReport") -> None:
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.toolkit.reports.parity import print_export

    print_export(report, cpu_info().model)
