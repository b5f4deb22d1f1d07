"""What a training begins with - weights, an earlier run, a backbone - by content: recorded, and compared when it is resumed."""

from collections.abc import Mapping
from pathlib import Path

from edgeclf.runtime.errors import InputError, RunFolderError
from edgeclf.runtime.files import parse_failure
from edgeclf.training.fit.resolve import ResolvedOptions
from edgeclf.training.options import FINE_TUNE, WHOLE
from edgeclf.training.run.folder import Run, name_by_content


def identify_beginning(resolved: ResolvedOptions, earlier: Run | None) -> dict[str, str]:
    """The file that a training begins with, as name and digest by its option; empty where there is none.

    Raises:
        InputError: It cannot be read.
    """
    if earlier is not None:
        return {"--from": earlier.weights_identity()}
    if resolved.backbone is not None:
        return {"--backbone": resolved.backbone.content}
    if not isinstance(resolved.weights, Path):
        return {}
    try:
        return {"--weights": name_by_content(resolved.weights)}
    except OSError as error:
        raise InputError(
            f"cannot read the weights {resolved.weights}", got=parse_failure(error), expected="the file of --weights"
        ) from error


def compare_beginning(folder: Path, stage: str, recorded: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Compares what a training began with and what is there when it is resumed.

    Args:
        folder: The run folder.
        stage: The fit that its checkpoint is of.
        recorded: What `identify_beginning` gave when it began; empty for a run of an earlier version.
        now: What it gives now.

    Returns:
        A note where the file has changed and the checkpoint has all of its weights; None where it is as it was.

    Raises:
        RunFolderError: It has changed, and the training still takes weights from it.
    """
    flag = next((flag for flag, name in recorded.items() if now.get(flag) != name), None)
    if flag is None:
        return None
    what = "the network of --from" if flag == "--from" else f"the file of {flag}"
    if stage in {FINE_TUNE, WHOLE}:
        return f"{what} has changed since the training began, which goes on with the weights of its checkpoint"
    raise RunFolderError(
        f"cannot resume {folder}",
        got=f"another content of {what} than it began with: {now.get(flag, 'none')}",
        expected=recorded[flag],
        hint="put it back, or train again with --overwrite",
    )
