"""What a training leaves in its run folder: the summary in the spec, and the files."""

import csv
import importlib.metadata
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.metrics import ClassificationReport
from edgeclf.training import run_folder
from edgeclf.training.dataset import Sample
from edgeclf.training.fit import FitOptions, FitResult
from edgeclf.training.plots import plot_confusion, plot_curves
from edgeclf.training.split import split_to_csv

if TYPE_CHECKING:
    from edgeclf.training.train import TrainOptions, TrainResult

NO_TEST_PART = "no test part: the validation figures chose this model and are therefore too good by a little"


def training_summary(
    options: "TrainOptions",
    fit_options: FitOptions,
    result: FitResult,
    *,
    images: dict[str, int],
    validation: ClassificationReport,
    test: ClassificationReport | None,
) -> dict[str, Any]:
    """The training in short, as plain JSON values for the spec: options, epochs, counts, accuracies."""
    return {
        **asdict(fit_options),
        "epochs_run": len(result.history),
        "best_epoch": result.best_epoch,
        "ending": result.ending,
        "images": images,
        "val_fraction": options.val_fraction,
        "test_fraction": options.test_fraction,
        "val_accuracy": validation.accuracy,
        "test_accuracy": None if test is None else test.accuracy,
    }


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that have a part in a trained model."""
    versions = {}
    for name in ("edgeclf", "tensorflow", "keras", "numpy", "opencv-python", "opencv-python-headless"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_run(
    staged: Path,
    result: "TrainResult",
    model: Any,  # noqa: ANN401 - keras carries no types
    *,
    samples: Sequence[Sample],
    data_root: Path,
    options: "TrainOptions",
) -> None:
    """Writes a run's files into a folder that becomes the run folder afterwards.

    Args:
        staged: The folder to write into.
        result: What the training did.
        model: The whole network with its best weights.
        samples: All samples with their split, readable or not.
        data_root: What the samples' paths are relative to.
        options: As they were given.
    """
    model.save(staged / run_folder.MODEL_FILE)
    (staged / run_folder.SPLIT_FILE).write_text(split_to_csv(samples), encoding="utf-8", errors="surrogateescape")
    (staged / run_folder.HISTORY_FILE).write_text(_history_csv(result.fit), encoding="utf-8")
    plot_curves(result.fit.history, result.fit.best_epoch, staged / run_folder.CURVES_FILE)
    shown, part = (result.validation, "Validation") if result.test is None else (result.test, "Test")
    plot_confusion(shown, f"{part} images", staged / run_folder.CONFUSION_FILE)
    metrics = {
        "validation": result.validation.to_json(),
        "test": None if result.test is None else result.test.to_json(),
        "note": NO_TEST_PART if result.test is None else None,
        "parameters": result.parameters,
        "unreadable": [{"source": str(path), "error": str(error)} for path, error in result.unreadable],
    }
    _write_json(staged / run_folder.METRICS_FILE, metrics)
    _write_json(staged / run_folder.RUN_FILE, {"data_root": str(data_root), "options": asdict(options)})
    (staged / run_folder.SPEC_FILE).write_text(result.spec.to_json() + "\n", encoding="utf-8")


def _history_csv(result: FitResult) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(result.history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.history)
    return text.getvalue()


def _write_json(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A file name that is not Unicode: escapes keep its bytes.
        text = json.dumps(document, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
