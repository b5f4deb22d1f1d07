"""ONNX files become ONNX Runtime sessions, quietly, and what goes wrong becomes one sentence."""

from pathlib import Path
from typing import Any

from edgeclf.runtime.errors import EdgeclfError, ModelFileError
from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.runtime.session.devices import DeviceChoice, device_choice
from edgeclf.runtime.session.open_provider import open_providers


def open_session(path: Path, device: str | DeviceChoice, threads: int) -> Any:  # noqa: ANN401 - onnxruntime carries no types
    """Opens any ONNX file in ONNX Runtime, with its messages off and errors as one sentence.

    Args:
        path: The file.
        device: As for `ModelSession`.
        threads: Threads inside one inference.

    Raises:
        ModelFileError: The file is missing or is not a valid model.
        DeviceUnavailableError: The device is not there.
    """
    if not path.is_file():
        raise ModelFileError(
            f"cannot open model {path}",
            got="a folder" if path.is_dir() else "no such file",
            expected="an .onnx file",
            do="check the path (a run folder becomes a file with edgeclf export)",
        )
    return _open(path, str(path), device, threads)


def open_session_from_bytes(model: bytes, device: str | DeviceChoice, threads: int) -> Any:  # noqa: ANN401
    """As `open_session`, of a model in memory."""
    return _open("in memory", model, device, threads)


def _open(name: object, model: str | bytes, device: str | DeviceChoice, threads: int) -> Any:  # noqa: ANN401
    choice = device_choice(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Errors arrive as exceptions; below that, ONNX Runtime would write over progress bars and tables.
    options.log_severity_level = 4
    try:
        return open_providers(model, options, choice)
    except EdgeclfError:
        raise
    except Exception as error:
        # ONNX Runtime's exceptions share no base class but Exception; whatever it raises here is about this file.
        raise ModelFileError(
            f"cannot open model {name}",
            got=str(error).split("\n", 1)[0][:300],
            expected="a valid ONNX model",
            do="copy or export the file again",
        ) from error
