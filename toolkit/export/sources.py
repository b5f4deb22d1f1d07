"""What `edgeclf export` takes: a run, an `.onnx` file, a Keras model; each opened as a classifier with the way to its images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.options import ExportOptions
from edgeclf.export.source.classifier import ForeignClassifier, SourceClassifier
from edgeclf.export.source.images import ExportImages, LabelledImages
from edgeclf.export.source.keras_files.kinds import KerasOptions, keras_kind
from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.files import content_kind, kind_of
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session.self_test import GoldenImage
from edgeclf.runtime.spec import ModelSpec
from edgeclf.toolkit.console import note
from edgeclf.toolkit.foreign import refuse_idle_keras_options, refuse_idle_options

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel
    from edgeclf.training import Run
    from edgeclf.training.data.table_files import TableOptions

# Colour grids as in a self-test: without photographs an fp32 file is verified on so many.
_COMPUTED_IMAGES = 32

LoadImages: TypeAlias = Callable[[Path | None, ExportOptions, CacheFolder, Progress], ExportImages]


@dataclass(frozen=True)
class OpenedSource:
    """A classifier to export.

    Attributes:
        load_classifier: Gives the classifier: of a run loaded now, anything else opened already.
        load_images: Gives its images, preprocessed, from the place that `--data` names, or None.
        run: The run that it is of, which may be trained for 8 bits where no recipe passes; None for what others made.
        original: The file or folder that others made; None for a run.
    """

    load_classifier: Callable[[], SourceClassifier]
    load_images: LoadImages
    run: "Run | None" = None
    original: Path | None = None


def open_source(
    source: str,
    foreign: "ForeignModel",
    keras: KerasOptions,
    *,
    precision: str,
    data: Path | None,
    table: "TableOptions | None" = None,
) -> OpenedSource:
    """Opens what is to be exported; no image is read.

    Args:
        source: A run folder, an `.onnx` file, a `.keras` or `.h5` file, a SavedModel folder, or `module:name`.
        foreign: What the options say of a file without a spec.
        keras: What they say of opening a Keras model.
        precision: The precision of the export.
        data: The photographs that `--data` names; None for none.
        table: What the options say of a CSV of those; None for nothing.

    Raises:
        UsageError: Options for files without a spec are given for a run or a file that has one, `--data` is missing, or
            columns are named of a run's data set or of none.
        EdgeclfError: As `load_run`, `open_onnx_source` and `open_keras_source`.
    """
    path = Path(source)
    is_keras = keras_kind(source) is not None
    if kind_of(path) is None and not is_keras:
        raise ModelFileError(
            f"cannot export {source}",
            got=content_kind(path),
            expected="a run folder, an .onnx, .keras or .h5 file, a SavedModel folder, or module:name of a Keras model",
            hint="check the path",
        )
    refuse_idle_keras_options(keras, source)
    if kind_of(path) == "folder" and not is_keras:
        if table is not None:
            raise UsageError(
                "the columns of a run's data set are those that it was trained with",
                got=f"options for a CSV with {source}",
                expected="neither --path-column, --label-column, --image-folder nor --image-suffix",
                hint="leave them out",
            )
        return _open_run(path, foreign)
    if data is None and table is not None:
        raise UsageError(
            "there is no CSV to name columns of", got="no --data", expected="--data LIST.csv", hint="pass --data"
        )
    if data is None and precision != "fp32":
        raise UsageError(
            f"an {precision} file of a model that others made needs photographs",
            got="no --data",
            expected="a folder of images, in class folders where their classes are known",
            hint="pass --data PHOTOS",
        )
    return _open_keras(source, foreign, keras, table) if is_keras else _open_onnx(path, foreign, table)


def _open_run(folder: Path, foreign: "ForeignModel") -> OpenedSource:
    from edgeclf.training import load_run

    run = load_run(folder)
    refuse_idle_options(foreign, [run])

    def load_images(data: Path | None, _: ExportOptions, cache: CacheFolder, progress: Progress) -> ExportImages:
        return run.load_images(data, cache_folder=cache, progress=progress)

    return OpenedSource(run.load_classifier, load_images, run=run)


def _open_onnx(path: Path, foreign: "ForeignModel", table: "TableOptions | None") -> OpenedSource:
    from edgeclf.export.source.onnx_file import open_onnx_source

    return _of_foreign_classifier(open_onnx_source(path, foreign), path, table)


def _open_keras(
    source: str, foreign: "ForeignModel", keras: KerasOptions, table: "TableOptions | None"
) -> OpenedSource:
    from edgeclf.export.source.keras_files.source import open_keras_source

    return _of_foreign_classifier(open_keras_source(source, foreign, keras), None, table)


def _of_foreign_classifier(
    classifier: ForeignClassifier, original: Path | None, table: "TableOptions | None"
) -> OpenedSource:
    """A classifier that others made, whose images are photographs of the user or, without, computed ones; says how it is used."""
    for text in classifier.notes:
        note(text)

    def load_images(data: Path | None, options: ExportOptions, cache: CacheFolder, progress: Progress) -> ExportImages:
        from edgeclf.toolkit.export.photographs import load_photographs

        if data is None:
            note(
                f"no --data: verified on {_COMPUTED_IMAGES} computed images, which show that the same is computed, no more"
            )
            return computed_images(classifier.spec)
        photographs = load_photographs(
            data,
            classifier.spec,
            precision=options.precision,
            calibration_images=options.calibration_images,
            table=table,
            cache_folder=cache,
            progress=progress,
        )
        note(photographs.sentence())
        if not photographs.are_labelled:
            note(f"{data} has no folders named like the model's classes: agreement is judged, accuracy is not")
        return photographs.images

    return OpenedSource(lambda: classifier, load_images, original=original)


def computed_images(spec: ModelSpec) -> ExportImages:
    """Images that arithmetic defines, from coarse to fine, for a model without photographs."""
    import numpy as np

    sides = [2 + number % 15 for number in range(_COMPUTED_IMAGES)]
    images = [
        GoldenImage(100 + number, (side,) if number % 2 else (side, 4 * side)).pixels(spec.preprocess.size_hw)
        for number, side in enumerate(sides)
    ]
    return ExportImages(LabelledImages(np.stack(images)), are_computed=True)
