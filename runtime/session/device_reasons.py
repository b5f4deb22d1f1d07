"""Why a device cannot be used, found out after the fact: loaded only when there is something to explain."""

import ctypes
import re
from pathlib import Path

from edgeclf.runtime.session._onnxruntime import onnxruntime

_LIBRARIES = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
    "openvino": "libonnxruntime_providers_openvino.so",
}
# cudaError_t, of the runtime API.
_CUDA_ERRORS = {35: "the NVIDIA driver is too old for this CUDA", 100: "there is no NVIDIA GPU"}


def why_unusable(device: str) -> str:
    """The likely reason why ONNX Runtime has the provider of a device and cannot use it, as a phrase.

    Args:
        device: A name out of `edgeclf.runtime.session.devices.DEVICES`.
    """
    if device not in {"cuda", "tensorrt"}:
        return _cannot_load(device) or "its provider did not start"
    no_driver = _no_driver()
    reasons = [no_driver, _cannot_load(device), None if no_driver else _no_cuda_device()]
    return " and ".join(reason for reason in reasons if reason) or "its provider did not start"


def _no_driver() -> str | None:
    """What hinders NVIDIA's driver library, which comes with the driver and not with CUDA."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    return None


def _cannot_load(device: str) -> str | None:
    """The linker's word on the provider's own library: it names the library that is missing."""
    path = Path(onnxruntime.__file__).parent / "capi" / _LIBRARIES.get(device, "")
    if not path.is_file():
        return None
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        # The provider libraries expect a symbol of ONNX Runtime's own that is there only once it loads them itself.
        missing = re.match(r"(\S+): cannot open shared object file", str(error))
        return f"{missing[1]} is missing" if missing else None
    return None


def _no_cuda_device() -> str | None:
    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        return _CUDA_ERRORS.get(int(runtime.cudaGetDeviceCount(ctypes.byref(count))))
    return None
