"""The result of a training: reports, the model's description, and the files of its run folder."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeclf.export.keras_backend import KerasModel
from edgeclf.export.source.feature_layer import frozen_parameters
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.files import replacing, write_text
from edgeclf.runtime.metrics import ClassificationReport, classification_report
from edgeclf.runtime.spec import ModelSpec
from edgeclf.training.calibration.plot import plot_reliability
from edgeclf.training.calibration.report import CalibrationResult
from edgeclf.training.data.dataset import Dataset, Sample, Split
from edgeclf.training.data.seen_images import record_images
from edgeclf.training.data.training_data import TrainingData, split_to_csv
from edgeclf.training.fit.loop import FitResult
from edgeclf.training.fit.old_classes import OldClasses
from edgeclf.training.fit.resolve import ResolvedOptions
from edgeclf.training.fit.transfer import Transfer
from edgeclf.training.networks.own_network import is_own_network, own_module_folder, own_source
from edgeclf.training.networks.weights.layer_weights import PRETRAINED, RANDOM
from edgeclf.training.networks.weights.model_file_weights import match_with_file
from edgeclf.training.options import TrainOptions
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.beginning import drop_beginning
from edgeclf.training.run.own_module import NETWORK_FILE
from edgeclf.training.run.plots import plot_confusion
from edgeclf.training.run.writer import RunWriter, history_csv

NO_TEST_SPLIT = "no test split: the validation figures chose this model and are therefore too good by a little"


@dataclass(frozen=True, eq=False)
class TrainResult:
    """The result of a training.

    Attributes:
        folder: The run folder.
        spec: The model's description.
        parameters: Number of parameters of the whole network.
        fit: The epochs, and how they ended.
        validation: Report on the images that chose the weights.
        test: Report on the images that chose nothing; None where there are none.
        calibration: Temperature, rejection threshold, and what they change.
        transfer: The earlier run's network and classes; None for a training that began anew.
        unreadable: Images that were left out, and why.
        seconds: Time of the whole training in this process.
        old_classes: The classes of the earlier run before and after, on test images that it has not seen; None where there
            are none.
        notes: What a user has to know of the splits, one sentence each.
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
    old_classes: OldClasses | None = None
    notes: tuple[str, ...] = ()


def summarise(
    folder: Path,
    options: TrainOptions,
    resolved: ResolvedOptions,
    data: TrainingData,
    transfer: Transfer | None,
    *,
    began_with: Mapping[str, str],
    model: KerasModel,
    fit: FitResult,
    calibration: CalibrationResult,
) -> TrainResult:
    """Reports on the validation and test images and describes the model.

    Args:
        folder: The run folder.
        options: As the user gave them.
        resolved: The same, resolved.
        data: The images.
        transfer: The earlier run's network; None for none.
        began_with: What `identify_beginning` gave when the training began.
        model: The whole network.
        fit: The result of all fits.
        calibration: Probabilities at the chosen temperature.

    Returns:
        The result, `seconds` still 0.
    """
    reports = {
        split: classification_report(probabilities, data.subset(split).true_indices, data.labels)
        for split, probabilities in calibration.probabilities.items()
    }
    validation, test = reports["val"], reports.get("test")
    fine_tune = resolved.fine_tune
    weights = began_with.get("--weights", str(resolved.weights)) if transfer is None else transfer.began_with
    # Everything to train again, and what came out. Files are named by their content, not by where they lay.
    training: dict[str, Any] = {
        **asdict(resolved.first),
        "weights": weights,
        **_weights_match(resolved, model, transfer),
        "freezes_backbone": resolved.freezes_backbone,
        "quantization_aware": resolved.is_quantization_aware,
        **({} if fit.scales_8bit is None else fit.scales_8bit.to_json()),
        "fine_tune": fine_tune and {**asdict(fine_tune), "blocks": resolved.fine_tune_blocks or "all"},
        "trained_from": began_with.get("--from"),
        "classes_before": None if transfer is None else transfer.changes.to_json(),
        "epochs_run": len(fit.history),
        "best_epoch": fit.best_epoch,
        "ending": fit.ending,
        "images": {split: len(positions) for split, positions in data.positions.items()},
        "val_fraction": options.val_fraction,
        "test_fraction": options.test_fraction,
        "calibration": calibration.to_json(),
        "val_accuracy": validation.accuracy,
        "test_accuracy": None if test is None else test.accuracy,
    }
    spec = ModelSpec(
        labels=data.labels,
        preprocess=resolved.preprocess,
        temperature=calibration.temperature,
        rejection_threshold=calibration.rejection_threshold,
        architecture=resolved.architecture.name,
        training=training,
        dataset_fingerprint=data.fingerprint,
        seen_images=record_images(data.samples, None if transfer is None else transfer.seen_images),
        package_versions=_package_versions(),
    )
    unreadable = data.cached.unreadable
    return TrainResult(
        folder,
        spec,
        int(model.count_params()) + frozen_parameters(model),
        fit,
        validation,
        test,
        calibration,
        transfer,
        unreadable,
        0.0,
        notes=data.notes,
    )


def _weights_match(resolved: ResolvedOptions, model: KerasModel, transfer: Transfer | None) -> dict[str, Any]:
    """What was taken of the weights of a saved Keras model, for a network that need not take all; empty for any other."""
    if resolved.architecture.pretrained or not isinstance(resolved.weights, Path) or transfer is not None:
        return {}
    match = match_with_file(model, resolved.weights, custom_objects=resolved.architecture.custom_objects())
    return {"weights_match": match.to_json()}


def _package_versions() -> dict[str, str]:
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
    resolved: ResolvedOptions,
    began_with: Mapping[str, str],
    diverged: Mapping[str, Any] | None = None,
) -> None:
    """Writes the split and the options, with which a training can be resumed from its checkpoint.

    Args:
        writer: The run folder.
        samples: All samples with their split, readable or not.
        dataset: The data set, for its paths.
        options: As the user gave them.
        resolved: The same, resolved.
        began_with: What `identify_beginning` gave when the training began.
        diverged: `DivergedError.facts` of a training that diverged in its first epoch; None for any other.
    """
    with replacing(writer.folder / run_folder.SPLIT_FILE) as temporary:
        temporary.write_text(split_to_csv(samples), encoding="utf-8", errors="surrogateescape")
    document: dict[str, Any] = {
        "data_root": str(dataset.root.absolute()),
        "data": str((dataset.source or dataset.root).absolute()),
        "options": _with_absolute_paths(options).to_json(),
        "resolved": resolved.record(),
        "began_with": dict(began_with),
    }
    if is_own_network(options.network):
        # For people, and to know whether it has changed: what is loaded later is the saved network.
        write_text(writer.folder / NETWORK_FILE, own_source(options.network))
        document["module_folder"] = str(own_module_folder(options.network))
    if diverged is not None:
        document["diverged"] = dict(diverged)
    writer.write_json(run_folder.RUN_FILE, document)


def _with_absolute_paths(options: TrainOptions) -> TrainOptions:
    """The options with files and folders that are found from any folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    is_file = options.weights not in {None, PRETRAINED, RANDOM}
    return replace(
        options,
        backbone=absolute(options.backbone),
        from_run=absolute(options.from_run),
        weights=absolute(options.weights) if is_file else options.weights,
    )


def write_result(writer: RunWriter, result: TrainResult, model: KerasModel) -> None:
    """Writes the files of a finished or interrupted training; the spec last, so that a run that has one has the rest.

    Args:
        writer: The run folder.
        result: The result of the training.
        model: The whole network with its best weights and its temperature.
    """
    folder = writer.folder
    with replacing(folder / run_folder.MODEL_FILE) as temporary:
        model.save(temporary)
    write_text(folder / run_folder.HISTORY_FILE, history_csv(result.fit.history))
    writer.draw_curves(result.fit.history, result.fit.best_epoch)
    split: Split = "val" if result.test is None else "test"
    shown, title = (result.validation, "Validation images") if result.test is None else (result.test, "Test images")
    with replacing(folder / run_folder.CONFUSION_FILE) as temporary:
        plot_confusion(shown, title, temporary)
    calibration = result.calibration
    with replacing(folder / run_folder.RELIABILITY_FILE) as temporary:
        plot_reliability(
            calibration.uncalibrated[split],
            calibration.probabilities[split],
            calibration.true_indices[split],
            title,
            temporary,
        )
    metrics = {
        "validation": result.validation.to_json(),
        "test": None if result.test is None else result.test.to_json(),
        "note": NO_TEST_SPLIT if result.test is None else None,
        "training_after_last_epoch": result.fit.training,
        "calibration": result.calibration.to_json(),
        "parameters": result.parameters,
        **({} if result.old_classes is None else {"old_classes": result.old_classes.to_json()}),
        "unreadable": [{"source": str(path), "error": str(error)} for path, error in result.unreadable],
    }
    writer.write_json(run_folder.METRICS_FILE, metrics)
    write_text(folder / run_folder.SPEC_FILE, result.spec.to_json() + "\n")
    if result.fit.ending != "interrupted":
        (folder / run_folder.CHECKPOINT_FILE).unlink(missing_ok=True)
        drop_beginning(folder)
