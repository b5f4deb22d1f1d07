"""The module of a run whose network the user wrote: whether it may be imported, and whether it is the one that the run began with.

A run folder may come from somebody else, and names the module in `run.json`: code that came with it must not be imported because of
that. What the user has is imported - a module of the current folder, an installed one -, and what the user names.
"""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from edgeclf.runtime.errors import RunFolderError, UsageError
from edgeclf.runtime.files import parse_failure
from edgeclf.training.networks.own_network import import_also_from, is_own_network, own_source

# The module of a network that the user wrote, as it was.
NETWORK_FILE = "network.py"


def check_own_network(folder: Path, architecture: str, module_folder: Path | None, *, may_use_folder: bool) -> None:
    """Checks that the module of a network that the user wrote is what it was when the training began, which imports it.

    Args:
        folder: The run folder.
        architecture: As the run's options name it.
        module_folder: The folder that the module was imported from, as the run records it; None where it does not.
        may_use_folder: Whether the user said that the module may be imported from that folder as well.

    Raises:
        UsageError: The module lies in the run folder, or came with it.
        RunFolderError: There is no such module, or it is another one.
        InputError: It cannot be imported.
    """
    if not is_own_network(architecture):
        return
    named_folder = module_folder if may_use_folder else None
    check_module_place(architecture, folder, named_folder=named_folder)
    if named_folder is not None:
        import_also_from(named_folder)
    copy = folder / NETWORK_FILE
    try:
        began_with = copy.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"cannot resume {folder}",
            got=f"{NETWORK_FILE}: {parse_failure(error)}",
            expected=f"a copy of the module of {architecture}",
            hint="train again",
        ) from error
    try:
        source = own_source(architecture)
    except UsageError as error:
        elsewhere = f"--arch {architecture}, which lets it be imported from {module_folder}, where the training began"
        raise RunFolderError(
            f"cannot resume {folder}",
            got=error.what,
            expected="a module in the current folder, or an installed one",
            hint="run edgeclf in the folder of that module"
            + ("" if module_folder is None or may_use_folder else f", or pass {elsewhere}"),
        ) from error
    if source != began_with:
        raise RunFolderError(
            f"cannot resume {folder}",
            got=f"another module of {architecture} than it began with",
            expected=f"the one of which {copy} is a copy",
            hint="put it back, or train again with --overwrite",
        )


def check_module_place(architecture: str, folder: Path, *, named_folder: Path | None = None) -> None:
    """Refuses to import the module of a network that came with its run; nothing is imported.

    Came with it: it lies in the run folder, or with it in one folder below the current one. In the current folder itself, and where
    Python looks for modules anyway, lies what the user put there.

    Args:
        architecture: `module:function`.
        folder: The run folder.
        named_folder: A further folder where the module would be looked for, since the user said so: it may lie beside the run.

    Raises:
        UsageError: The module came with the run, or it would be looked for in the run folder.
    """
    name, run = architecture.partition(":")[0], folder.resolve()
    places = [Path.cwd()] if named_folder is None else [Path.cwd(), named_folder]
    # A module that is imported already runs no more.
    files = [] if name in sys.modules else find_module(name, *places[1:])
    inside = next((path for path in (*places, *files) if path.resolve().is_relative_to(run)), None)
    beside = None if named_folder is not None else next((file for file in files if _came_with(file, run)), None)
    refused = inside or beside
    if refused is not None:
        raise UsageError(
            f"the module of {architecture} is not imported from {'' if inside else 'beside '}its run folder",
            got=str(refused),
            expected="a module of yours, elsewhere",
            hint="run edgeclf in the folder of that module",
        )


def find_module(name: str, *more: Path) -> list[Path]:
    """The files that importing a module would run, those of its packages first, the current folder's before others.

    Nothing is imported. Folders that are packages without a file stand for themselves. The list ends early where there is no such
    module, and is empty where it has no file.

    Args:
        name: Its name, with dots.
        more: Folders to look into last.
    """
    found: list[Path] = []
    search: list[str] | None = [str(Path.cwd()), *sys.path, *map(str, more)]
    for part in name.split("."):
        spec = None if search is None else PathFinder.find_spec(part, search)
        if spec is None:
            break
        search = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if spec.has_location and spec.origin is not None:
            found.append(Path(spec.origin))
        else:
            found.extend(map(Path, search or ()))
    return found


def _came_with(file: Path, run: Path) -> bool:
    """Whether a file lies with a run folder in one folder below the current one, where nobody but the run's name for it leads."""
    file, here = file.resolve(), Path.cwd().resolve()
    if not (file.is_relative_to(here) and run.is_relative_to(here)):
        return False
    if Path(os.path.commonpath([file, run])) == here:
        return False
    # The user's own PYTHONPATH leads there.
    on_path = [Path(place).resolve() for place in sys.path]
    return not any(place != here and place.is_relative_to(here) and file.is_relative_to(place) for place in on_path)
