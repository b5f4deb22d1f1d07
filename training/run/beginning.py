"""What a training begins with - weights, an earlier run, a backbone - by content: recorded, kept, and compared when it is resumed."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from edgeclf.runtime.errors import InputError, RunFolderError
from edgeclf.runtime.files import kind_of, parse_failure, replacing, write_bytes
from edgeclf.training.fit.resolve import ResolvedOptions
from edgeclf.training.options import FINE_TUNE, WHOLE
from edgeclf.training.run.folder import BACKBONE_FILE, WEIGHTS_FOLDER, Run, name_by_content


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
        raise _unreadable(resolved.weights, error) from error


def keep_beginning(folder: Path, resolved: ResolvedOptions) -> None:
    """Writes into a run folder the files that the training goes on from, should it be cut off and they be gone by then.

    Args:
        folder: The run folder.
        resolved: The backbone of `--backbone`, the file of `--weights`, or neither.

    Raises:
        InputError: The file of weights cannot be read.
        OutputError: A file cannot be written.
    """
    if resolved.backbone is not None:
        write_bytes(folder / BACKBONE_FILE, resolved.backbone.graph)
    elif isinstance(resolved.weights, Path):
        _copy_weights(resolved.weights, folder / WEIGHTS_FOLDER / resolved.weights.name)


def _copy_weights(weights: Path, copy: Path) -> None:
    if kind_of(copy) == "file" and copy.samefile(weights):
        return
    with replacing(copy) as temporary:
        try:
            source = weights.open("rb")
        except OSError as error:
            raise _unreadable(weights, error) from error
        with source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file)


def kept_weights(folder: Path, weights: str | None) -> str | None:
    """The copy in a run folder of the file that its `--weights` names; what it names itself where there is none.

    Args:
        folder: The run folder.
        weights: As the options have it.
    """
    if weights is None:
        return None
    copy = folder / WEIGHTS_FOLDER / Path(weights).name
    return str(copy) if kind_of(copy) == "file" else weights


def drop_beginning(folder: Path) -> None:
    """Removes from a run folder what a training that is cut off would go on from, once it has ended."""
    (folder / BACKBONE_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / WEIGHTS_FOLDER, ignore_errors=True)


def _unreadable(weights: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read the weights {weights}",
        got=parse_failure(error),
        expected="the file of --weights",
        hint="put it back",
    )


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
