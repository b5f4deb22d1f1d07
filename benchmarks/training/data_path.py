"""DATA's way from the command to the first gradient step: modules entered, and returns to one that was left.

    python benchmarks/training/data_path.py DATA [--quick] [--json] [-- options of edgeclf train]

`edgeclf train DATA` runs in this process under `sys.setprofile`, with a cold cache, until Keras applies the first
gradient. Every function of `edgeclf.toolkit` and `edgeclf.training` counts once, at its first call, as a reader reads it
once; the modules of these functions, one after the other, are the way. A module is entered when it first stands there;
each time that it stands there again is a return. The command is where the way begins, and is not counted as entered.

Only what handles the data is followed. Not followed, nor what is called from there: options and recipes, networks and
their weights, the run folder and its pictures, the console, helpers that run any work in threads, and what threads do
beside the main one. Properties, operators and constructors belong to the module that uses them.

Another tree is measured with its own package in front: `PYTHONPATH=TREE/.typing python benchmarks/training/data_path.py`.
"""

import contextlib
import inspect
import io
import sys
from pathlib import Path
from types import CodeType, FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, working_folder
from benchmarks.synthetic import write_labelled_folder

_FLOORS = ("edgeclf.toolkit.", "edgeclf.training.")
# By name in this tree, and in trees from before its folders.
_NOT_FOLLOWED = (
    *(
        "toolkit.cli",
        "toolkit.console",
        "toolkit.options",
        "training.drawing",
        "training.plots",
        "training.prefetch",
        "training.ahead",
    ),
    *("training.options", "training.recipes", "training.recipe", "training.fit.resolve"),
    *("training.networks", "training.architectures"),
    *("training.run", "training.run_folder", "training.run_writer", "training.record", "training.tensorboard"),
)
_DEFAULT = ["--image-size", "64"]


class Tracer:
    """A profile function that notes the modules of followed functions in the order of their first calls.

    Attributes:
        way: Names below `edgeclf`, one after the other, no two alike in a row.
    """

    def __init__(self) -> None:
        self.way: list[str] = []
        self._seen: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Notes a call; ends the trace with the first gradient step."""
        if event != "call" or frame.f_code in self._seen:
            return
        module = _module(frame)
        if module is None:
            if frame.f_code.co_name == "apply" and frame.f_globals["__name__"].endswith("optimizers.base_optimizer"):
                sys.setprofile(None)
            return
        self._seen.add(frame.f_code)
        if _is_followed(frame) and self._is_called_from_followed(frame) and self.way[-1:] != [module]:
            self.way.append(module)

    def _is_called_from_followed(self, frame: FrameType) -> bool:
        caller = frame.f_back
        while caller is not None and (_module(caller) is None or caller.f_code.co_name.startswith("<")):
            if caller.f_code.co_name == "<module>" and _module(caller) is not None:
                return False
            caller = caller.f_back
        return caller is None or _is_followed(caller)


def _module(frame: FrameType) -> str | None:
    """The module of a frame, without `edgeclf.`; None for those of other packages and floors."""
    name = str(frame.f_globals.get("__name__", ""))
    return name.removeprefix("edgeclf.") if name.startswith(_FLOORS) else None


def _is_followed(frame: FrameType) -> bool:
    module, code = _module(frame), frame.f_code
    if module is None or any(module == name or module.startswith(f"{name}.") for name in _NOT_FOLLOWED):
        return False
    # Bodies of modules and classes, comprehensions, generated and special methods.
    if not code.co_flags & inspect.CO_OPTIMIZED or code.co_filename.startswith("<") or code.co_name[:1] == "<":
        return False
    if code.co_name.startswith("__"):
        return False
    own = type(frame.f_locals["self"]) if code.co_varnames[:1] == ("self",) and "self" in frame.f_locals else None
    return not isinstance(getattr(own, code.co_name, None), property)


def trace(data: Path, options: list[str], folder: Path) -> list[str]:
    """Trains one epoch and gives the way of the data."""
    from edgeclf.toolkit.cli import main

    tracer = Tracer()
    run, cache = folder / "run", folder / "cache"
    words = ["train", data, "--run", run, "--cache-folder", cache, "--epochs", 1, "--json", *options]
    sys.argv = ["edgeclf", *map(str, words)]
    ended = io.StringIO()
    with contextlib.redirect_stdout(ended):
        sys.setprofile(tracer)
        try:
            main()
        except SystemExit as error:
            if error.code:
                raise
        finally:
            sys.setprofile(None)
    return tracer.way


def main() -> int:
    """Prints the way and the counts, or JSON."""
    arguments = Arguments(__doc__, quick={}, train_options=_DEFAULT)
    arguments.add_input("data", "folder of class folders, or with train/ and test/")
    given = arguments.parse()
    with working_folder() as folder:
        data = given.data or write_labelled_folder(folder / "data")
        way = trace(data, given.train_options, folder)
    modules = len(set(way)) - 1
    figures = {"way": way, "modules": modules, "returns": len(way) - modules - 1}
    report = Report(given)
    for step, module in enumerate(way):
        report.line(f"{step:2}  {module}{'  (returned to)' if module in way[:step] else ''}")
    report.line(f"modules entered: {modules}, returns: {figures['returns']}")
    report.close(figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
