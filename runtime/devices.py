"""From the device a user names to the ONNX Runtime provider that really runs."""

from typing import Literal, get_args

from edgeclf.runtime._onnxruntime import onnxruntime
from edgeclf.runtime.errors import DeviceUnavailableError, UsageError

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
# Pairs that install into one folder of site-packages: with both, whichever came last overwrote parts of the other.
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_CLASHING_PACKAGES = (_RUNTIMES, ("opencv-python", "opencv-python-headless"))


def provider_requests(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """The providers to ask ONNX Runtime for, most wanted first.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: There is no such device name.
        DeviceUnavailableError: The installed ONNX Runtime has no provider for that device.
    """
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}", expected=" or ".join(DEVICES), do="choose one of them")
    # The exhaustive convolution search repeats for every new input shape; the heuristic one costs a few percent.
    cuda = (_CUDA, {"cudnn_conv_algo_search": "HEURISTIC"})
    has_cuda = _CUDA in onnxruntime.get_available_providers()
    if device == "cuda":
        if not has_cuda:
            raise cuda_error(f"an ONNX Runtime build with {', '.join(onnxruntime.get_available_providers())} only")
        return [cuda]
    if device == "auto" and has_cuda:
        return [cuda, _CPU]
    return [_CPU]


def check_provider(device: str, providers: list[str]) -> str:
    """The provider that runs, after checking that it is the one asked for.

    ONNX Runtime quietly falls back to the CPU when CUDA cannot be initialised, so what counts is what the session
    says it uses, not what the package says it has.

    Args:
        device: `auto`, `cpu` or `cuda`.
        providers: What `session.get_providers()` returned.

    Raises:
        DeviceUnavailableError: CUDA was asked for and is not what the session runs on.
    """
    if device == "cuda" and (not providers or providers[0] != _CUDA):
        raise cuda_error("a session that fell back to the CPU (no usable NVIDIA GPU, driver, CUDA or cuDNN)")
    return providers[0]


def cuda_error(got: str) -> DeviceUnavailableError:
    """The error for a GPU that cannot be used, naming clashing packages when they are the likely cause."""
    overwritten = _RUNTIMES in clashing_packages()
    return DeviceUnavailableError(
        "cannot run on device cuda",
        got=f"{got}, with {' and '.join(_RUNTIMES)} both installed" if overwritten else got,
        expected="onnxruntime-gpu and a working NVIDIA GPU",
        do='uninstall both packages and run pip install "edgeclf[gpu]"'
        if overwritten
        else 'run pip install "edgeclf[gpu]" in a fresh environment, or use --device cpu',
    )


def clashing_packages() -> list[tuple[str, str]]:
    """Pairs of installed packages that overwrite each other's files."""
    return [(first, second) for first, second in _CLASHING_PACKAGES if _installed(first) and _installed(second)]


def _installed(distribution: str) -> bool:
    # A fifth of the time to import this floor, and needed only to explain what went wrong.
    import importlib.metadata

    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
