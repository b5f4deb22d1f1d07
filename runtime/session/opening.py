"""Opening: an ONNX file becomes an ONNX Runtime session on a device; failures become one sentence."""

import re
from pathlib import Path
from typing import Any

from edgeclf.runtime.errors import EdgeclfError, ModelFileError
from edgeclf.runtime.files import content_kind, hint_for, kind_of
from edgeclf.runtime.session._onnxruntime import OrtOptions, OrtSession, onnxruntime
from edgeclf.runtime.session.devices import (
    CPU_PROVIDER,
    RECORD_PLACEMENT,
    DeviceChoice,
    ProviderRequest,
    device_error,
    provider_requests,
    why_unusable,
)

_CPU = DeviceChoice("cpu")
# As in "[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:", and in "/src/model.cc:245 onnxruntime::Model::Model(int) ".
_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed:)?")
_CPP = re.compile(r"/\S+\.(?:cc|h|cpp|hpp|cu):\d+ [^(]*\(.*?\)(?: const)? ")


def open_session(path: Path, *, threads: int, device: DeviceChoice = _CPU) -> OrtSession:
    """An ONNX Runtime session of an ONNX file, with ONNX Runtime's own messages off.

    Args:
        path: The file.
        threads: Threads inside one inference.
        device: What runs it.

    Raises:
        ModelFileError: The file is missing or is not a valid model.
        DeviceUnavailableError: The device is not there.
    """
    if kind_of(path) != "file":
        raise _no_model(path)
    return _open(path, str(path), threads, device)


def _no_model(path: Path) -> ModelFileError:
    kind = content_kind(path)
    return ModelFileError(
        f"cannot open model {path}",
        got=kind,
        expected="an .onnx file",
        hint=hint_for(kind, "check the path (a run folder becomes a file with edgeclf export)"),
    )


def open_session_from_bytes(model: bytes, *, threads: int, device: DeviceChoice = _CPU) -> OrtSession:
    """As `open_session`, of a model in memory."""
    return _open("in memory", model, threads, device)


def _open(name: object, model: str | bytes, threads: int, device: DeviceChoice) -> OrtSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Errors arrive as exceptions; below that, ONNX Runtime would write over progress bars and tables.
    options.log_severity_level = 4
    try:
        session = _open_on(device, model, options)
        _read_texts(session)
    except EdgeclfError:
        raise
    except UnicodeDecodeError as error:
        raise ModelFileError(
            f"cannot open model {name}",
            got="names or properties that are no UTF-8",
            expected="a valid ONNX model",
            hint="copy or export the file again",
        ) from error
    except Exception as error:
        if isinstance(name, Path) and content_kind(name) not in {"an ONNX model", "binary data"}:
            raise _no_model(name) from error
        if isinstance(name, Path):
            from edgeclf.runtime.session.file_faults import known_fault  # for files that cannot be opened alone

            fault = known_fault(name, str(error))
            if fault is not None:
                raise fault from error
        # ONNX Runtime's exceptions share no base class but Exception; whatever it raises here is about this file.
        raise ModelFileError(
            f"cannot open model {name}",
            got="damaged or other binary data" if _is_unparsable(error) else first_line(error),
            expected="a valid ONNX model",
            hint="copy or export the file again",
        ) from error
    return session


def _read_texts(session: OrtSession) -> None:
    """Reads the names and properties of a model, which ONNX Runtime keeps as bytes, of any encoding, until they are asked for.

    Raises:
        UnicodeDecodeError: Some are no text.
    """
    for value in (*session.get_inputs(), *session.get_outputs()):
        str(value.name)
    dict(session.get_modelmeta().custom_metadata_map)


def _is_unparsable(error: Exception) -> bool:
    """Whether ONNX Runtime says that the bytes are no ONNX model, in words of the parser's."""
    return any(words in str(error) for words in ("Protobuf parsing failed", "No graph was found in the protobuf"))


def _open_on(choice: DeviceChoice, model: str | bytes, options: OrtOptions) -> OrtSession:
    """A session on the providers of a device; the caller checks which provider really runs it.

    Args:
        choice: The device.
        model: The file's path, or its content.
        options: `onnxruntime.SessionOptions`; what the device needs is set on them.

    Raises:
        DeviceUnavailableError: The device is not there, or the model opens on the CPU and not on it.
        Exception: Whatever ONNX Runtime raises about a model that it cannot open at all.
    """
    requests = [_with_threads(request, options.intra_op_num_threads) for request in provider_requests(choice)]
    options.add_session_config_entry(*RECORD_PLACEMENT)
    if requests == [CPU_PROVIDER]:
        return onnxruntime.InferenceSession(model, options, providers=requests)
    # Provider libraries report missing drivers whatever the session's log level is.
    onnxruntime.set_default_logger_severity(4)
    _load_nvidia_wheels(requests)
    names = {request if isinstance(request, str) else request[0] for request in requests}
    if "DmlExecutionProvider" in names:
        # Both are conditions of DirectML.
        options.enable_mem_pattern = False
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    try:
        # Without this, a failure is printed to stdout, and another provider taken.
        return onnxruntime.InferenceSession(model, options, providers=requests, enable_fallback=0)
    except Exception as error:
        # Is it the model or the device? The CPU tells: a model that cannot be opened there raises again.
        session = onnxruntime.InferenceSession(model, options, providers=[CPU_PROVIDER])
        if choice.name == "auto":
            return session
        raise device_error(choice, f"{why_unusable(choice.name)} ({first_line(error)})") from error


def _with_threads(request: ProviderRequest, threads: int) -> ProviderRequest:
    """The request with the number of threads, for providers with threads of their own that do not see the session's."""
    provider, settings = (request, {}) if isinstance(request, str) else request
    if provider == "OpenVINOExecutionProvider" and settings.get("device_type", "CPU") == "CPU":
        return provider, {"num_of_threads": str(threads), **settings}
    if provider == "XnnpackExecutionProvider":
        return provider, {"intra_op_num_threads": str(threads), **settings}
    return request


def first_line(error: Exception) -> str:
    """The first line of ONNX Runtime's message, without its code, and without C++ files and functions."""
    line = _CODE.sub("", str(error).split("\n", 1)[0])
    return _CPP.sub("", line).strip(" .")[:300]


def _load_nvidia_wheels(requests: list[Any]) -> None:
    """Loads CUDA and cuDNN from NVIDIA's packages in site-packages, where the linker does not look."""
    import importlib.util  # for GPUs alone

    wants_nvidia = any(request[0] in {"CUDAExecutionProvider", "TensorrtExecutionProvider"} for request in requests)
    if not wants_nvidia or not hasattr(onnxruntime, "preload_dlls") or importlib.util.find_spec("nvidia") is None:
        return
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
