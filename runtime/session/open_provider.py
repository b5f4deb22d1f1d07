"""Opening an ONNX Runtime session on the providers of a device, so that what goes wrong is said and not papered over."""

import contextlib
import importlib.util
import io
from typing import Any

from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.runtime.session.devices import (
    RECORD_PLACEMENT,
    DeviceChoice,
    ProviderRequest,
    device_error,
    provider_requests,
)

_CPU = "CPUExecutionProvider"


def open_providers(model: str | bytes, options: Any, choice: DeviceChoice) -> Any:  # noqa: ANN401
    """Opens a session on the providers of a device. What it really runs on is for the caller to check.

    Args:
        model: The file's path, or its content.
        options: `onnxruntime.SessionOptions`; what the device needs is set on them.
        choice: The device.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        DeviceUnavailableError: The device is not there, or the model opens on the CPU and not on it.
        Exception: Whatever ONNX Runtime raises about a model that it cannot open at all.
    """
    requests = [_with_threads(request, options.intra_op_num_threads) for request in provider_requests(choice)]
    options.add_session_config_entry(*RECORD_PLACEMENT)
    if requests == [_CPU]:
        return onnxruntime.InferenceSession(model, options, providers=requests)
    # What a provider library says on its own about drivers it misses goes past the session's log level.
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
        session = onnxruntime.InferenceSession(model, options, providers=[_CPU])
        if choice.name == "auto":
            return session
        from edgeclf.runtime.session.device_reasons import why_unusable

        raise device_error(choice, f"{why_unusable(choice.name)} ({_first_line(error)})") from error


def _with_threads(request: ProviderRequest, threads: int) -> ProviderRequest:
    """The request with the number of threads, for providers with threads of their own that do not see the session's."""
    provider, settings = (request, {}) if isinstance(request, str) else request
    if provider == "OpenVINOExecutionProvider" and settings.get("device_type", "CPU") == "CPU":
        return provider, {"num_of_threads": str(threads), **settings}
    if provider == "XnnpackExecutionProvider":
        return provider, {"intra_op_num_threads": str(threads), **settings}
    return request


def _first_line(error: Exception) -> str:
    """The part of ONNX Runtime's message that says something: not the C++ file and function before it."""
    line = str(error).split("\n", 1)[0]
    if line.startswith("/"):
        line = line.rsplit("&) ", 1)[-1]
    return line.strip(" .")[:300]


def _load_nvidia_wheels(requests: list[Any]) -> None:
    """Loads CUDA and cuDNN from NVIDIA's packages in site-packages, where the linker does not look."""
    wants_nvidia = any(request[0] in {"CUDAExecutionProvider", "TensorrtExecutionProvider"} for request in requests)
    if not wants_nvidia or not hasattr(onnxruntime, "preload_dlls") or importlib.util.find_spec("nvidia") is None:
        return
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
