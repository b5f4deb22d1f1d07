"""`edgeclf evaluate`: the accuracy and calibration of a model on labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeclf.toolkit.console import print_json, progress_bar, unreadable_json
from edgeclf.toolkit.datasets.table_options import takes_tables
from edgeclf.toolkit.foreign import (
    no_options,
    note_use,
    open_keras,
    refuse_idle_keras_options,
    refuse_idle_options,
    takes_foreign_files,
    use_json,
)
from edgeclf.toolkit.options import (
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
    refuse_idle,
)

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel
    from edgeclf.runtime.batch.jobs import ProbabilityModel
    from edgeclf.training.data.table_files import TableOptions


@takes_foreign_files
@takes_tables
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            help="An .onnx file, a run folder, or a Keras model that others made: a .keras or .h5 file, a SavedModel folder, or "
            "module:name.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path, typer.Argument(help="The images: a folder of class folders, a CSV, or Parquet files.", show_default=False)
    ],
    split: SplitOption = "auto",
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
    """Measure accuracy, per-class precision and recall, confusion and calibration error on labelled images."""
    import numpy as np

    from edgeclf.export.source.keras_files.kinds import KerasOptions, keras_kind
    from edgeclf.export.verify.probabilities import classify_files
    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.files import kind_of
    from edgeclf.runtime.metrics import classification_report
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable, list_images
    from edgeclf.toolkit.reports.classification import print_report

    opened: ProbabilityModel
    used_as = None
    keras = KerasOptions(custom_objects, signature, is_trusted=unsafe_load)
    refuse_idle_keras_options(keras, model)
    if keras_kind(model) is not None or kind_of(model) == "folder":
        idle = {"--device": device, "--provider-option": provider_option, "--engine-cache": engine_cache}
        refuse_idle({**idle, "--threads": threads}, f"with {model}, which Keras runs")
    if keras_kind(model) is not None:
        network = open_keras(model, foreign or no_options(), keras)
        note_use(network)
        used_as = use_json(network)
        opened, ran_on = network, network.runtime
    elif kind_of(model) == "folder":
        from edgeclf.training import load_run

        opened, ran_on = load_run(model).load_classifier().as_trained(), "Keras"
        refuse_idle_options(foreign or no_options(), [opened])
    else:
        session = ModelSession(
            model,
            device=chosen_device(device, provider_option, engine_cache),
            threads=threads,
            foreign=foreign,
        )
        note_use(session)
        used_as = use_json(session)
        opened, ran_on = session, session.provider
    with progress_bar(enabled=not as_json) as progress:
        images = list_images(data, [(model, opened)], split, need_labels=True, table=table, progress=progress)
        classified = classify_files(opened, images.paths, f"evaluate on {images.name}", progress)
    if images.true_indices is None:  # need_labels=True
        raise AssertionError(images)
    true = np.asarray(images.true_indices)[list(classified.rows)]
    report = classification_report(classified.probabilities, true, opened.spec.labels)
    if as_json:
        unreadable = unreadable_json(classified.unreadable)
        print_json(
            {
                "model": str(model),
                "part": images.name,
                "ran_on": ran_on,
                "used_as": used_as,
                **report.to_json(),
                "unreadable": unreadable,
                "selection": images.selection.to_json(),
            }
        )
    else:
        print_report(f"{model} on {report.count} {images.name} images ({ran_on})", report)
    end_with_unreadable(classified.unreadable, ignore=ignore_unreadable)
