"""The output of `edgeclf train`: networks, results, learning-rate sweeps."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.errors import command_line
from edgeclf.toolkit.console import note, print_json, print_result, print_table, unreadable_json

if TYPE_CHECKING:
    from edgeclf.training.calibration.report import CalibrationResult
    from edgeclf.training.fit.lr_finder import LrSweep
    from edgeclf.training.fit.old_classes import OldClasses
    from edgeclf.training.run.results import TrainResult


def print_architectures(*, as_json: bool) -> None:
    """Prints the table of networks."""
    from edgeclf.training.networks.registry import ARCHITECTURES

    rows: list[dict[str, Any]] = [
        {
            "name": item.name,
            "default_size": item.default_size,
            "min_size": item.min_size,
            "default_fit": item.default_fit,
            "pretrained": item.pretrained,
            "description": item.description,
        }
        for item in ARCHITECTURES.values()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        "",
        ["--arch", "default size", "smallest", "--fit", ""],
        [
            [row["name"], f"{row['default_size']} px", f"{row['min_size']} px", row["default_fit"], row["description"]]
            for row in rows
        ],
        numeric=False,
    )
    print_result("keras:NAME is any model of keras.applications, such as keras:MobileNetV2 (needs its weights)")


def kept_weights(result: "TrainResult") -> str:
    """Which weights a training kept, in words: those of its best epoch, or those that a network that went on came with."""
    epoch = result.fit.best_epoch
    return f"weights of epoch {epoch}" if epoch else "weights that it began with"


def print_training(result: "TrainResult") -> None:
    """Prints the result of a training."""
    from edgeclf.toolkit.reports.classification import print_report
    from edgeclf.training.run.results import NO_TEST_SPLIT

    history, images = result.fit.history, result.spec.training["images"]
    endings = {"finished": "all epochs done", "early": "stopped early"}
    print_result(
        f"{result.spec.architecture}, {result.parameters:,} parameters, "
        f"{images['train']} training, {images['val']} validation and {images['test']} test images\n"
        f"{len(history)} epoch{'s' * (len(history) != 1)} ({endings.get(result.fit.ending, result.fit.ending)}), "
        f"the {kept_weights(result)} kept, {result.seconds:.0f} s"
    )
    if result.transfer is not None:
        print_result(_classes_text(result))
    match = result.spec.training.get("weights_match")
    if match is not None:
        from edgeclf.training.networks.weights.model_file_weights import WeightsMatch

        taken = WeightsMatch(**{name: tuple(values) for name, values in match.items()})
        print_result(
            f"began with the weights of {result.spec.training['weights'].split(' ', 1)[0]}: {taken.sentence()}"
        )
    print_report("Validation images (they chose the weights)", result.validation)
    if result.test is None:
        print_result(NO_TEST_SPLIT)
    else:
        print_report("Test images (they chose nothing)", result.test)
    if result.transfer is not None and result.old_classes is not None:
        _print_old_classes(result.transfer.folder, result.old_classes)
    print_result(calibration_text(result.calibration))
    print_result(f"run folder: {result.folder}")
    note(f"next: {command_line('export', result.folder, '--out', 'model.onnx')}")


def _classes_text(result: "TrainResult") -> str:
    if result.transfer is None:
        return ""
    changes = result.transfer.changes
    parts = [
        f"kept {', '.join(changes.kept) or 'none'}",
        *([f"new {', '.join(changes.added)}"] if changes.added else []),
        *(f"{old} is now {new}" for old, new in changes.renamed),
        *([f"gone {', '.join(changes.gone)}"] if changes.gone else []),
    ]
    return f"classes, against {result.transfer.folder}: {'; '.join(parts)}"


def _print_old_classes(folder: Path, old: "OldClasses") -> None:
    rows = [
        [
            label,
            str(its.images),
            *("-" if recall is None else f"{recall:.4f}" for recall in (its.first_accuracy, its.second_accuracy)),
            f"{its.difference * 100:+.1f}" if its.images else "-",
            str(its.lost),
            str(its.won),
        ]
        for label, its in (*old.classes, ("all", old.images))
    ]
    columns = ["class", "images", "recall before", "now", "change", "lost", "won"]
    print_result(f"Old classes before and after, on the test images that neither trained nor validated {folder}:")
    print_table("", columns, rows)


def old_classes_warning(old: "OldClasses", earlier: Path, run: Path) -> str | None:
    """Warning of old classes that a training lost, beyond what chance explains; None where it lost none.

    Args:
        old: The classes before and after.
        earlier: The run folder that the training went on from.
        run: Its own.
    """
    fallen = [
        f"{label} {its.first_accuracy:.4f} -> {its.second_accuracy:.4f}"
        for label, its in (*old.worse, *([("all together", old.images)] if old.all_worse else []))
    ]
    if not fallen:
        return None
    return (
        f"old classes were lost, by more than chance explains: {'; '.join(fallen)}; "
        f"{command_line('compare', earlier, run, '--plot', 'changed.png')} shows the images"
    )


def calibration_text(facts: "CalibrationResult") -> str:
    """Temperature and rejection threshold in words, and what they do to the images of each split."""
    split, (before, after) = (
        ("test", facts.test_ece) if facts.test_ece is not None else ("validation", facts.validation_ece)
    )
    error = f"expected calibration error on {split} images"
    if facts.temperature == 1.0:
        text = f"temperature 1, the validation images show no other: {error} {after:.4f}"
    else:
        text = f"temperature {facts.temperature:.3f}: {error} {before:.4f} before, {after:.4f} after"
    if facts.rejection_threshold is not None:
        text += (
            f"\nunknown below confidence {facts.rejection_threshold:.4f}: "
            f"{facts.rejected['val']:.2%} of the validation images"
        )
        if "test" in facts.rejected:
            text += f", {facts.rejected['test']:.2%} of the test images"
        text += f"; {_rejection_promise(facts)}"
    return text


def _rejection_promise(facts: "CalibrationResult") -> str:
    """What the validation images show of all images like them."""
    from edgeclf.export.verify.rejection import fewest_images

    rate, most, images = facts.false_rejection_rate, facts.rejected_at_most, len(facts.true_indices["val"])
    if rate is None or most is None:
        raise ValueError("a threshold has a rate")
    fewest = fewest_images(rate)
    if fewest is not None and images >= fewest:
        return f"at most {most:.2%} of all such images (95 % sure)"
    enough = "no number of them is enough" if fewest is None else f"{fewest} would be enough"
    return f"{images} validation images are too few to promise {rate:.2%}, only {most:.2%} (95 % sure); {enough}"


def training_json(result: "TrainResult") -> dict[str, Any]:
    """The result of a training as plain JSON values."""
    return {
        "run": str(result.folder),
        "architecture": result.spec.architecture,
        "parameters": result.parameters,
        "labels": list(result.spec.labels),
        "training": dict(result.spec.training),
        "history": list(result.fit.history),
        "validation": result.validation.to_json(),
        "test": None if result.test is None else result.test.to_json(),
        "calibration": result.calibration.to_json(),
        "classes": None if result.transfer is None else result.transfer.changes.to_json(),
        "old_classes": None if result.old_classes is None else result.old_classes.to_json(),
        "unreadable": unreadable_json(result.unreadable),
        "notes": list(result.notes),
        "epoch_seconds": list(result.fit.seconds),
        "seconds": result.seconds,
    }


def print_sweep(sweep: "LrSweep", picture: Path) -> None:
    """Prints the suggestion of a learning-rate sweep."""
    print_result(f"suggested: --learning-rate {sweep.suggestion:.2g} (losses in {picture})")
