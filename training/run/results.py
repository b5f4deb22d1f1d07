"""What a finished training leaves in its run folder: the summary in the spec, and the files."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeclf.export.int8.ranges import QuantParams
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.files import replacing, write_text
from edgeclf.runtime.metrics import ClassificationReport
from edgeclf.runtime.spec import ModelSpec
from edgeclf.training.calibration.plot import plot_reliability
from edgeclf.training.calibration.report import CalibrationResult
from edgeclf.training.data.dataset import Dataset, Sample, Split
from edgeclf.training.data.split import split_to_csv
from edgeclf.training.fit.loop import FitResult
from edgeclf.training.options import Settings, TrainOptions
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.plots import plot_confusion
from edgeclf.training.run.transfer import Transfer
from edgeclf.training.run.writer import RunWriter, history_csv

NO_TEST_PART = "no test part: the validation figures chose this model and are therefore too good by a little"


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a training did.

    Attributes:
        folder: The run folder.
        spec: What the model is.
        parameters: Number of parameters of the whole network.
        fit: Epochs, and how they ended.
        validation: Figures on the images that chose the weights.
        test: Figures on the images that chose nothing; None where there are none.
        calibration: Temperature, rejection threshold, and what they change.
        transfer: What an earlier run gave; None where there was none.
        unreadable: Images that were left out, and why.
        seconds: How long all of it took, in this process.
    """

    folder: Path
    spec: ModelSpec
    parameters: int
    fit: FitResult
    validation: ClassificationReport
    test: ClassificationReport | None
    calibration: CalibrationResult
    transfer: Transfer | None
    unreadable: tuple[tuple[Path, EdgeclfError], ...]
    seconds: float


def training_summary(
    options: TrainOptions,
    settings: Settings,
    *,
    history: Sequence[dict[str, Any]],
    best_epoch: int,
    ending: str,
    images: dict[str, int],
    validation: ClassificationReport,
    test: ClassificationReport | None,
    calibration: dict[str, Any],
    changes: dict[str, Any] | None,
    ranges_8bit: Mapping[str, QuantParams],
) -> dict[str, Any]:
    """The training in short, as plain JSON values for the spec: all that is needed to do it again, and what came out.

    Files are named by what is in them, not by where they lay.
    """
    return {
        **asdict(settings.fit),
        "weights": settings.weights if isinstance(settings.weights, str) else _file_identity(settings.weights),
        "freezes_backbone": settings.freezes,
        "quantization_aware": settings.qat,
        **({"ranges_8bit": {name: params.to_json() for name, params in ranges_8bit.items()}} if ranges_8bit else {}),
        "fine_tune": None
        if settings.fine_tune is None
        else {**asdict(settings.fine_tune), "blocks": settings.fine_tune_blocks or "all"},
        "classes_before": changes,
        "epochs_run": len(history),
        "best_epoch": best_epoch,
        "ending": ending,
        "images": images,
        "val_fraction": options.val_fraction,
        "test_fraction": options.test_fraction,
        "calibration": calibration,
        "val_accuracy": validation.accuracy,
        "test_accuracy": None if test is None else test.accuracy,
    }


def _file_identity(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{path.name} (blake2b-128 {digest.hexdigest()})"


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that have a part in a trained model."""
    versions = {}
    for name in ("edgeclf", "tensorflow", "keras", "numpy", "opencv-python", "opencv-python-headless", "onnxruntime"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_start(
    writer: RunWriter,
    *,
    samples: Sequence[Sample],
    dataset: Dataset,
    options: TrainOptions,
    diverged: Mapping[str, Any] | None = None,
) -> None:
    """Writes what resuming needs besides the checkpoint.

    Args:
        writer: The run folder.
        samples: All samples with their split, readable or not.
        dataset: Where they are.
        options: As they were given.
        diverged: Where training ended before there was anything to keep.
    """
    with replacing(writer.folder / run_folder.SPLIT_FILE) as temporary:
        temporary.write_text(split_to_csv(samples), encoding="utf-8", errors="surrogateescape")
    document: dict[str, Any] = {
        "data_root": str(dataset.root),
        "data": str(dataset.source or dataset.root),
        "options": options.to_json(),
    }
    if diverged is not None:
        document["diverged"] = dict(diverged)
    writer.write_json(run_folder.RUN_FILE, document)


def write_result(writer: RunWriter, result: TrainResult, model: Any) -> None:  # noqa: ANN401 - keras carries no types
    """Writes what a finished or interrupted training came to; the spec last, so that a run that has one has the rest.

    Args:
        writer: The run folder.
        result: What the training did.
        model: The whole network with its best weights and its temperature.
    """
    folder = writer.folder
    with replacing(folder / run_folder.MODEL_FILE) as temporary:
        model.save(temporary)
    write_text(folder / run_folder.HISTORY_FILE, history_csv(result.fit.history))
    writer.draw_curves(result.fit.history, result.fit.best_epoch)
    shown, part = (result.validation, "Validation") if result.test is None else (result.test, "Test")
    with replacing(folder / run_folder.CONFUSION_FILE) as temporary:
        plot_confusion(shown, f"{part} images", temporary)
    reliability_part: Split = "val" if result.test is None else "test"
    with replacing(folder / run_folder.RELIABILITY_FILE) as temporary:
        plot_reliability(
            result.calibration.uncalibrated[reliability_part],
            result.calibration.probabilities[reliability_part],
            result.calibration.true_indices[reliability_part],
            f"{part} images",
            temporary,
        )
    metrics = {
        "validation": result.validation.to_json(),
        "test": None if result.test is None else result.test.to_json(),
        "note": NO_TEST_PART if result.test is None else None,
        "training_after_last_epoch": result.fit.training,
        "calibration": result.calibration.to_json(),
        "parameters": result.parameters,
        "unreadable": [{"source": str(path), "error": str(error)} for path, error in result.unreadable],
    }
    writer.write_json(run_folder.METRICS_FILE, metrics)
    write_text(folder / run_folder.SPEC_FILE, result.spec.to_json() + "\n")
    if result.fit.ending != "interrupted":
        (folder / run_folder.CHECKPOINT_FILE).unlink(missing_ok=True)
