"""The last resort of an int8 export: a run that no recipe suits is trained for 8 bits, and that network takes its place.

It is another network. Its file is compared with it in 8-bit arithmetic, which says that the file computes what was trained;
and with the run before, on the same images, which says what the user loses.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from edgeclf.export import (
    DEFAULT_RULE,
    ExportImages,
    ExportOptions,
    ExportReport,
    ParityGateError,
    export_classifier,
)
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.source.classifier import SourceClassifier
from edgeclf.runtime.errors import EdgeclfError, RunFolderError, command_line
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.training import Run, TrainOptions, load_run, train
from edgeclf.training.data.dataset import Dataset
from edgeclf.training.data.discovery import folder_of
from edgeclf.training.run.folder import may_be_replaced

# Options of a run that are about its data and its use, not about how its weights were found.
_KEPT_OPTIONS = ("seed", "balance", "monitor", "false_rejection_rate", "augment")


@dataclass(frozen=True)
class LastResort:
    """What came of a training for 8 bits.

    Attributes:
        run: The run that was trained for 8 bits.
        reused: Whether an earlier export, or the user, had trained it already.
        seconds: Time of the training and of the export.
        report: The export of it.
        failure: What it failed by; None where its file was written.
    """

    run: Run
    reused: bool
    seconds: float
    report: ExportReport
    failure: ParityGateError | None

    def to_json(self) -> dict[str, Any]:
        """What happened, as plain JSON values, without the report."""
        written = self.failure is None
        return {"run": str(self.run.folder), "reused": self.reused, "seconds": self.seconds, "written": written}


@dataclass(frozen=True)
class ExportedRun:
    """An export, and that of the run trained for 8 bits where it was tried.

    Attributes:
        run: The run; None where a model that others made is exported.
        options: How it was exported.
        report: Its export.
        failure: What that failed by; None where a file was written, be it the fp32 file.
        last_resort: The training for 8 bits; None where none was tried.
    """

    run: Run | None
    options: ExportOptions
    report: ExportReport
    failure: ParityGateError | None
    last_resort: LastResort | None

    @property
    def final(self) -> ExportReport:
        """The export that says what the file is: that of the run trained for 8 bits where it was written."""
        if self.last_resort is not None and self.last_resort.failure is None:
            return self.last_resort.report
        return self.report

    @property
    def failures(self) -> tuple[str, ...]:
        """What the int8 files failed by, a phrase each, that of the run trained for 8 bits last."""
        failures = self.report.candidates[-1].failures
        if self.last_resort is None:
            return failures
        after = "; ".join(self.last_resort.report.candidates[-1].failures)
        return (*failures, f"{self.last_resort.run.folder}, trained for 8 bits: {after}")

    def error(self) -> ParityGateError:
        """The error where nothing was written, with what every try failed by."""
        return ParityGateError(self.report, self.failures)


def can_help(run: Run | None, report: ExportReport) -> TypeGuard[Run]:
    """Whether a training for 8 bits may give the int8 file that an export could not: not where it was done, or fp32 fails too."""
    refused = report.precision == "int8" and report.written_precision != "int8"
    return (
        run is not None
        and refused
        and not report.candidates[0].failures
        and not run.spec.training.get("quantization_aware")
        # TensorFlow cannot train the graph of an ONNX file.
        and not run.spec.architecture.startswith("onnx:")
    )


def folder_beside(run: Path) -> Path:
    """Where a run trained for 8 bits has its place: the folder of the run with `-qat` behind its name."""
    named = run if run.name not in {"", ".."} else run.resolve()
    return named.with_name(f"{named.name}-qat")


def free_folder_beside(run: Path) -> Path:
    """The same, or where something is there, the first such name with a number that is free."""
    folder, number = folder_beside(run), 2
    while folder.exists():
        folder, number = folder_beside(run).with_name(f"{folder_beside(run).name}-{number}"), number + 1
    return folder


def find_trained(run: Run) -> Run | None:
    """Finds the run beside another that was trained for 8 bits from its network, on its training images alone.

    Returns:
        The run; None where its place is free.

    Raises:
        RunFolderError: There is something else in its place.
    """
    folder = folder_beside(run.folder)
    if not folder.exists() or (folder.is_dir() and may_be_replaced(folder)):
        return None
    # Says by itself where it is no run, or not finished.
    found = load_run(folder)
    training = found.spec.training
    if training.get("ending") == "interrupted":
        raise RunFolderError(
            f"the training of {folder} was interrupted",
            expected="a finished run",
            hint=f"run {command_line('train', '--resume', folder)}",
        )
    if (reason := _why_of_another(run, found)) is not None:
        raise RunFolderError(
            f"{folder} is not {run.folder} trained for 8 bits",
            got=reason,
            expected="that, or nothing in its place",
            hint=f"move it away; or {training_command(run)}, and export that run",
        )
    return found


def _why_of_another(run: Run, found: Run) -> str | None:
    """Why a run was not trained for 8 bits from another as an export would do it; None where it was."""
    training = found.spec.training
    if not training.get("quantization_aware"):
        return "a run that was not trained for 8 bits"
    if training.get("trained_from") != run.weights_identity():
        return "a run that was trained from another network"
    if found.spec.labels != run.spec.labels or found.spec.preprocess != run.spec.preprocess:
        return "a run with other classes or other preprocessing"
    trained_on, may_train = (
        {sample.digest for sample in one.split if sample.split == "train" and sample.digest is not None}
        for one in (found, run)
    )
    # The images that judge the file must not have trained it.
    return None if trained_on <= may_train else "a run that was trained on other images"


def training_command(run: Run, data: Path | None = None) -> str:
    """The command that trains a run for 8 bits into a new folder."""
    folder = free_folder_beside(run.folder)
    return command_line("train", data or run.folder / "split.csv", "--from", run.folder, "--qat", "--run", folder)


def train_for_8_bits(
    run: Run,
    *,
    data: Path | None = None,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> Run:
    """Trains the network of a run for 8 bits, into the folder beside it, with its own split and seed.

    Args:
        run: The run.
        data: The data set's folder or CSV where it has moved since; None where it has not.
        cache_folder: Where preprocessed images are kept; None takes the default.
        progress: Called with each step.

    Returns:
        The new run.

    Raises:
        InputError: The network cannot be trained for 8 bits, or the loss stopped being a number in the first epoch.
        EdgeclfError: As `edgeclf.training.train`.
        KeyboardInterrupt: Ctrl-C; after the first epoch the folder holds a training that can be resumed.
    """
    folder = folder_beside(run.folder)
    root = (run.images_root() if data is None else folder_of(data, run.options.get("path_column"))).resolve()
    samples = tuple(replace(sample, digest=None) for sample in run.split)
    kept: Mapping[str, Any] = {name: run.options[name] for name in _KEPT_OPTIONS if name in run.options}
    options = TrainOptions(from_run=str(run.folder.absolute()), qat=True, **kept)
    result = train(Dataset(root, samples, root), folder, options, cache_folder=cache_folder, progress=progress)
    if result.fit.ending == "interrupted":
        raise KeyboardInterrupt
    return load_run(folder)


def train_and_export(
    run: Run,
    images: ExportImages,
    out: Path,
    options: ExportOptions,
    *,
    classifier: SourceClassifier,
    data: Path | None = None,
    spent_s: float = 0.0,
    use_recipe_cache: bool = True,
    cache_folder: CacheFolder | None = None,
    say: Callable[[str], None],
    progress: Progress = no_progress,
) -> LastResort | None:
    """Trains a run for 8 bits, unless that was done before, and exports it in the place of that run.

    Args:
        run: The run.
        images: Its images, which judge both.
        out: The file to write.
        options: Of its export, which failed; its `replaced_limits` say what the new file must keep of the run.
        classifier: Its network, whose accuracy in float must be kept.
        data: As for `train_for_8_bits`.
        spent_s: Seconds of the budget that are gone.
        use_recipe_cache: Whether recipes that an earlier export tried are not tried again.
        cache_folder: Where preprocessed images and recipes are kept; None keeps images in the default and no recipes.
        say: Called with a sentence when the training begins, when it has ended, and where there is none.
        progress: Called at each step.

    Returns:
        What came of it; None where there is no run trained for 8 bits, and `say` was told why.

    Raises:
        EdgeclfError: As `export_classifier`, but for the gate.
    """
    started = time.perf_counter()
    try:
        trained, reused = _find_or_train(run, data=data, cache_folder=cache_folder, say=say, progress=progress)
    except EdgeclfError as error:
        say(f"not trained for 8 bits: {error}")
        return None
    spent_s += time.perf_counter() - started
    # What is asked of the file is asked of it beside the run; beside the network trained anew, that it computes what was
    # trained. The fp32 file of that network is nothing that was asked for.
    options = replace(options, limits=DEFAULT_RULE, or_fp32=False, budget_s=max(0.0, options.budget_s - spent_s))
    failure = None
    try:
        report = export_classifier(
            trained.load_classifier(),
            images,
            out,
            options,
            replaces=classifier,
            cache_folder=cache_folder if use_recipe_cache else None,
            progress=progress,
        )
    except ParityGateError as error:
        report, failure = error.report, error
    return LastResort(trained, reused, time.perf_counter() - started, report, failure)


def _find_or_train(
    run: Run, *, data: Path | None, cache_folder: CacheFolder | None, say: Callable[[str], None], progress: Progress
) -> tuple[Run, bool]:
    """The run trained for 8 bits, and whether it was there already; says which."""
    started, trained = time.perf_counter(), find_trained(run)
    reused = trained is not None
    if trained is None:
        folder = folder_beside(run.folder)
        say(
            f"no recipe passes: {run.folder} is trained for 8 bits now, into {folder}; that takes minutes (--no-qat: not)"
        )
        trained = train_for_8_bits(run, data=data, cache_folder=cache_folder, progress=progress)
    training = trained.spec.training
    if not training.get("ranges_8bit"):
        raise RunFolderError(
            f"{trained.folder} has the network of {run.folder} as it was",
            got="no epoch with a better validation figure than rounding alone",
            expected="one that is worth exporting",
            hint="train it with other options, such as --epochs",
        )
    if reused:
        say(f"{trained.folder} was trained for 8 bits before, and is used again")
    else:
        say(
            f"trained {trained.folder} for 8 bits in {time.perf_counter() - started:.0f} s: epoch {training['best_epoch']} of "
            f"{training['epochs_run']} is kept; now its int8 file"
        )
    return trained, reused
