"""`edgeclf evaluate`: the accuracy and calibration of a model on labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeclf.toolkit.console import print_json, progress_bar, unreadable_json
from edgeclf.toolkit.foreign import note_use, takes_foreign_files, use_json
from edgeclf.toolkit.options import (
    DeviceOption,
    EngineCacheOption,
    IgnoreUnreadableOption,
    JsonOption,
    ProviderOptionOption,
    SplitOption,
    ThreadsOption,
    chosen_device,
)

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel
    from edgeclf.runtime.batch.jobs import ProbabilityModel


@takes_foreign_files
def evaluate(
    model: Annotated[Path, typer.Argument(help="An .onnx file or a run folder.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="The images: a folder of class folders, or a CSV.", show_default=False)],
    split: SplitOption = "auto",
    device: DeviceOption = "auto",
    provider_option: ProviderOptionOption = None,
    engine_cache: EngineCacheOption = None,
    threads: ThreadsOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
) -> None:
    """Measure accuracy, per-class precision and recall, confusion and calibration error on labelled images."""
    import numpy as np

    from edgeclf.export.verify.probabilities import classify_files
    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.metrics import classification_report
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable, list_images, note_selection
    from edgeclf.toolkit.datasets.selection import seen_images_of
    from edgeclf.toolkit.reports.classification import print_report

    opened: ProbabilityModel
    used_as = None
    if model.is_dir():
        from edgeclf.training import load_run

        opened, ran_on = load_run(model).load_classifier().as_trained(), "Keras"
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
    seen = seen_images_of(model, opened.spec)
    with progress_bar(enabled=not as_json) as progress:
        images = list_images(data, opened.spec.labels, split, need_labels=True, models=[seen], progress=progress)
        classified = classify_files(opened, images.paths, f"evaluate on {images.name}", progress)
    note_selection(images.selection, model, opened.spec, seen)
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
