"""TensorBoard logs: the figures of each epoch as scalars."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.errors import MissingPackageError
from edgeclf.training.run.folder import TENSORBOARD_FOLDER
from edgeclf.training.run.writer import RunWriter


def check_tensorboard() -> None:
    """Checks that TensorBoard is installed.

    Raises:
        MissingPackageError: TensorBoard is not installed.
    """
    try:
        import tensorboard  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingPackageError(
            "TensorBoard is not installed",
            expected="the package tensorboard, which writes and shows its logs",
            hint="run pip install tensorboard, or leave --tensorboard out",
        ) from error


@contextlib.contextmanager
def tensorboard_log(writer: RunWriter) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that writes the row of an epoch into `RUN/tensorboard`.

    The log is opened with the first row: the run folder gets its name when the first epoch is finished.
    """
    summary = import_tensorflow().summary
    opened: list[Any] = []

    def write(row: dict[str, Any]) -> None:
        if not opened:
            opened.append(summary.create_file_writer(str(writer.folder / TENSORBOARD_FOLDER)))
        with opened[0].as_default():
            for name, value in row.items():
                if isinstance(value, float):
                    summary.scalar(name, value, step=row["epoch"])
        opened[0].flush()

    try:
        yield write
    finally:
        for log in opened:
            log.close()
