"""A training worked out before it runs: its options, its settings, and the run it goes on from."""

from dataclasses import dataclass, replace
from pathlib import Path

from edgeclf.runtime.errors import UsageError
from edgeclf.training.data.dataset import Dataset
from edgeclf.training.options import Settings, TrainOptions, options_from_json, work_out
from edgeclf.training.run import folder as run_folder


@dataclass(frozen=True, eq=False)
class Plan:
    """A training worked out.

    Attributes:
        dataset: The labelled images.
        options: What was said, with what an earlier run decides.
        settings: What it comes to.
        earlier: The run that it goes on from; None for none.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
    """

    dataset: Dataset
    options: TrainOptions
    settings: Settings
    earlier: run_folder.Run | None
    cache_folder: Path | None


def plan_training(dataset: Dataset, options: TrainOptions, cache_folder: Path | None, *, resumed: bool = False) -> Plan:
    """Works a training out.

    Args:
        dataset: The labelled images.
        options: What was said.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        resumed: Whether the options are those of a training that goes on, with what an earlier run decided.

    Raises:
        UsageError: An option is out of range, names something that does not exist, or contradicts another.
        RunFolderError: The run to go on from is missing or damaged.
    """
    earlier = None if options.from_run is None else run_folder.load_run(Path(options.from_run))
    if earlier is not None and not resumed:
        options = _as_in_run(options, earlier)
    return Plan(dataset, options, work_out(options), earlier, cache_folder)


def _as_in_run(options: TrainOptions, earlier: run_folder.Run) -> TrainOptions:
    """The options with what an earlier run decides: architecture, input size and fit mode.

    Raises:
        UsageError: An option says something else.
        RunFolderError: The run was written by another version.
    """
    before = options_from_json(earlier.options, earlier.folder / run_folder.RUN_FILE)
    size = earlier.spec.preprocess.size_hw[0]
    for flag, given, theirs in (
        (
            "--arch",
            None if options.architecture == TrainOptions.architecture else options.architecture,
            before.architecture,
        ),
        ("--weights", options.weights, None),
        ("--image-size", options.image_size, size),
        ("--fit", options.fit, earlier.spec.preprocess.fit),
    ):
        if given is not None and given != theirs:
            raise UsageError(
                f"{flag} does not go with --from",
                got=str(given),
                expected=f"{theirs}, as in {earlier.folder}" if theirs else "none: the run has its weights",
                do=f"leave {flag} out",
            )
    # A run that was trained from random weights is trained on as a whole.
    weights = "none" if before.weights == "none" else None
    return replace(
        options,
        architecture=before.architecture,
        weights=weights,
        image_size=size,
        fit=earlier.spec.preprocess.fit,
    )
