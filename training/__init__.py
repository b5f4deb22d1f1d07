"""Train an image classifier from a folder of labelled photographs: data, networks, fits, calibration, run folders.

    from edgeclf.training import TrainOptions, train

    result = train("photographs", "runs/first", TrainOptions(fine_tune=True))
    print(result.test.accuracy if result.test else result.validation.accuracy)

The names below are loaded on first use, so that the table of options, which `edgeclf train --help` reads, costs no import
of NumPy, and a run folder can be opened where TensorFlow is missing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeclf.training.options import TrainOptions
    from edgeclf.training.run.folder import Run, load_run
    from edgeclf.training.run.results import TrainResult
    from edgeclf.training.trainer import resume, train

__all__ = ["Run", "TrainOptions", "TrainResult", "load_run", "resume", "train"]

_HOMES = {
    "Run": "run.folder",
    "TrainOptions": "options",
    "TrainResult": "run.results",
    "load_run": "run.folder",
    "resume": "trainer",
    "train": "trainer",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - classes and functions alike
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
