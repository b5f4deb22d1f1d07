"""Devices: their names, facts and settings, the ONNX Runtime provider of each, and why one cannot be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

from edgeclf.runtime.errors import DeviceUnavailableError, OutputError, UsageError
from edgeclf.runtime.files import default_cache_folder, output_error
from edgeclf.runtime.session._onnxruntime import OrtSession, onnxruntime

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "coreml", "directml", "qnn", "xnnpack"]
DEVICES: tuple[Device, ...] = get_args(Device)
ProviderRequest = str | tuple[str, dict[str, str]]
CPU_PROVIDER = "CPUExecutionProvider"
# Sends tensors to a server; no device.
_REMOTE = "AzureExecutionProvider"


class DeviceFacts(NamedTuple):
    """Facts of a device that hold before anything is opened.

    Attributes:
        provider: ONNX Runtime's name for what runs it.
        package: How its provider gets installed, as one phrase after "run" or "use".
        needs: What must be there for it to work.
        repair: What to do where the package is there and the device does not work.
        options: Provider options that are set unless the user sets them.
    """

    provider: str
    package: str
    needs: str
    repair: str = "check its driver and libraries"
    options: Mapping[str, str] = MappingProxyType({})


_CUDA_WHEELS = ' and, where CUDA is missing, run pip install "onnxruntime-gpu[cuda,cudnn]"'
_GPU_PACKAGE = 'run pip install "edgeclf[gpu]" in a fresh environment'
DEVICE_FACTS: Mapping[str, DeviceFacts] = {
    "cpu": DeviceFacts(CPU_PROVIDER, 'run pip install "edgeclf[headless]"', "onnxruntime"),
    # The exhaustive convolution search repeats for every new input shape; the heuristic one costs a few percent.
    "cuda": DeviceFacts(
        "CUDAExecutionProvider",
        _GPU_PACKAGE,
        "onnxruntime-gpu and a working NVIDIA GPU with its driver, CUDA and cuDNN",
        f"install the NVIDIA driver{_CUDA_WHEELS}",
        {"cudnn_conv_algo_search": "HEURISTIC"},
    ),
    "tensorrt": DeviceFacts(
        "TensorrtExecutionProvider",
        f"{_GPU_PACKAGE}, then pip install tensorrt",
        "onnxruntime-gpu, TensorRT and a working NVIDIA GPU with its driver, CUDA and cuDNN",
        f"install the NVIDIA driver{_CUDA_WHEELS}, and TensorRT (pip install tensorrt)",
        {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"},
    ),
    "openvino": DeviceFacts(
        "OpenVINOExecutionProvider",
        "run pip install onnxruntime-openvino opencv-python-headless edgeclf in a fresh environment",
        "onnxruntime-openvino, and an x86 CPU or an Intel GPU or NPU",
    ),
    "coreml": DeviceFacts(
        "CoreMLExecutionProvider", 'run pip install "edgeclf[cpu]" on macOS', "macOS and its ONNX Runtime"
    ),
    "directml": DeviceFacts(
        "DmlExecutionProvider",
        "run pip install onnxruntime-directml opencv-python edgeclf in a fresh environment on Windows",
        "onnxruntime-directml, Windows and a GPU with DirectX 12",
    ),
    "qnn": DeviceFacts(
        "QNNExecutionProvider",
        "run pip install onnxruntime-qnn opencv-python-headless edgeclf in a fresh environment",
        "onnxruntime-qnn and a Qualcomm processor",
    ),
    "xnnpack": DeviceFacts(
        "XnnpackExecutionProvider",
        "use an ONNX Runtime that was built with --use_xnnpack (the packages on PyPI are not)",
        "an ONNX Runtime built with XNNPACK",
    ),
}
# What `auto` tries before the CPU, in this order. The others run when they are named: TensorRT builds engines for
# minutes, and the rest may split a network between two processors or compute in half precision.
AUTO_ORDER: tuple[str, ...] = ("cuda", "directml")
# Packages that install into one folder of site-packages: with two, whichever came last overwrote parts of the other.
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
_CLASHING_PACKAGES = (_RUNTIMES, ("opencv-python", "opencv-python-headless"))

_LIBRARIES = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
    "openvino": "libonnxruntime_providers_openvino.so",
}
# cudaError_t, of the runtime API.
_CUDA_ERRORS = {35: "the NVIDIA driver is too old for this CUDA", 100: "there is no NVIDIA GPU"}


@dataclass(frozen=True)
class DeviceChoice:
    """A device with its settings; `ModelSession` and `Classifier` take one in place of a device's name.

    Attributes:
        name: One of `DEVICES`.
        options: Options of its ONNX Runtime provider; they win over those that edgeclf sets.
        engine_cache: `tensorrt`: the folder where built engines are kept; None for `engines` in the user's cache folder.

    Raises:
        UsageError: There is no such device, or a setting does not go with it.
    """

    name: str = "auto"
    options: Mapping[str, str] = field(default_factory=dict)
    engine_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.name not in DEVICES:
            raise UsageError(f"unknown device {self.name!r}", expected=" or ".join(DEVICES), hint="choose one of them")
        if self.options and self.name == "auto":
            raise UsageError(
                "provider options need a device",
                got=f"{', '.join(self.options)} for auto",
                expected="the name of the device that they are for",
                hint="name it, such as --device openvino",
            )
        if self.engine_cache is not None and self.name != "tensorrt":
            raise UsageError(
                "an engine cache belongs to TensorRT",
                got=f"device {self.name}",
                expected="tensorrt",
                hint="leave it out",
            )


def provider_requests(device: DeviceChoice) -> list[ProviderRequest]:
    """The providers to ask ONNX Runtime for, most wanted first.

    Args:
        device: The device asked for.

    Raises:
        DeviceUnavailableError: The installed ONNX Runtime has no provider for that device.
        OutputError: The folder for TensorRT's engines cannot be made.
    """
    available = onnxruntime.get_available_providers()
    if device.name == "auto":
        usable = (name for name in AUTO_ORDER if DEVICE_FACTS[name].provider in available)
        return [*(_request(DEVICE_FACTS[name], {}) for name in usable), CPU_PROVIDER]
    facts = DEVICE_FACTS[device.name]
    if facts.provider not in available:
        present = ", ".join(provider for provider in available if provider != _REMOTE)
        raise device_error(device, f"an ONNX Runtime build with {present} only")
    options = {**device.options}
    if device.name != "tensorrt":
        return [_request(facts, options)]
    options.setdefault("trt_engine_cache_path", str(_engine_folder(device)))
    options.setdefault("trt_timing_cache_path", options["trt_engine_cache_path"])
    # What TensorRT does not take, CUDA does.
    return [_request(facts, options), _request(DEVICE_FACTS["cuda"], {})]


def _request(facts: DeviceFacts, options: Mapping[str, str]) -> ProviderRequest:
    merged = {**facts.options, **options}
    return (facts.provider, merged) if merged else facts.provider


def _engine_folder(choice: DeviceChoice) -> Path:
    folder = choice.engine_cache
    if folder is None:
        folder = default_cache_folder() / "engines"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"cannot keep engines in {folder}", got="a file", expected="a folder") from error
    except OSError as error:
        raise output_error(folder, error) from error
    return folder


def check_provider(device: DeviceChoice, providers: Sequence[str]) -> str:
    """The provider that runs, after checking that it is the one asked for.

    ONNX Runtime quietly falls back to the CPU when a device cannot be initialised, so what counts is what the session
    says it uses, not what the package says it has.

    Args:
        device: The device asked for.
        providers: What `session.get_providers()` returned.

    Raises:
        DeviceUnavailableError: Another device was asked for than the session runs on.
    """
    name = device.name
    if name != "auto" and (not providers or providers[0] != DEVICE_FACTS[name].provider):
        reason = why_unusable(name)
        raise device_error(device, f"a session that fell back to {providers[0] if providers else 'nothing'} ({reason})")
    return providers[0]


def check_placement(device: DeviceChoice, nodes: Mapping[str, int] | None) -> None:
    """Checks that a named device runs at least a part of the network.

    A provider may register, refuse every node, and leave all of them to the CPU; the session names it all the same.

    Args:
        device: The device asked for.
        nodes: Nodes by provider, from `node_placement`; None where ONNX Runtime does not tell.

    Raises:
        DeviceUnavailableError: None of the nodes is on the device.
    """
    name = device.name
    if name == "auto" or not nodes or nodes.get(DEVICE_FACTS[name].provider):
        return
    places = ", ".join(f"{count} on {provider}" for provider, count in nodes.items())
    raise DeviceUnavailableError(
        f"cannot run this model on device {name}",
        got=f"a provider that takes none of its nodes: {places}",
        expected="at least one",
        hint="use --device cpu for this model, or export another precision",
    )


def node_placement(session: OrtSession) -> dict[str, int] | None:
    """How many of a model's nodes each provider runs, most first; None where ONNX Runtime (before 1.24) does not tell.

    Args:
        session: An `onnxruntime.InferenceSession` that was opened with `RECORD_PLACEMENT` in its options.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


# A session option and its value; versions that do not know it pass over it.
RECORD_PLACEMENT = ("session.record_ep_graph_assignment_info", "1")


def device_error(device: DeviceChoice, got: str) -> DeviceUnavailableError:
    """The error for a device that cannot be used, naming clashing packages when they are the likely cause."""
    facts = DEVICE_FACTS[device.name]
    settings = ", ".join(f"{key}={value}" for key, value in device.options.items())
    overwritten = [package for pair in clashing_packages() for package in pair if package in _RUNTIMES]
    names = " and ".join(dict.fromkeys(overwritten))
    wheel = facts.package.removeprefix("run ")
    fix = facts.repair if facts.provider in onnxruntime.get_available_providers() else facts.package
    return DeviceUnavailableError(
        f"cannot run on device {device.name}" + (f" with {settings}" if settings else ""),
        got=f"{got}, with {names} both installed" if overwritten else got,
        expected=facts.needs,
        hint=f"uninstall both packages and run {wheel}" if overwritten else f"{fix}, or use --device cpu",
    )


def clashing_packages() -> list[tuple[str, str]]:
    """Pairs of installed packages that overwrite each other's files."""
    return [
        (first, second)
        for group in _CLASHING_PACKAGES
        for installed in [[name for name in group if is_installed(name)]]
        for index, first in enumerate(installed)
        for second in installed[index + 1 :]
    ]


def is_installed(distribution: str) -> bool:
    """Whether pip knows a distribution of this name."""
    # A fifth of the time to import this floor, and needed only to explain what went wrong.
    import importlib.metadata

    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def why_unusable(device: str) -> str:
    """The likely reason why ONNX Runtime has the provider of a device and cannot use it, as a phrase.

    Args:
        device: A name out of `DEVICES`.
    """
    if device not in {"cuda", "tensorrt"}:
        return _cannot_load(device) or "its provider did not start"
    no_driver = _no_driver()
    reasons = [no_driver, _cannot_load(device), None if no_driver else _no_cuda_device()]
    return " and ".join(reason for reason in reasons if reason) or "its provider did not start"


def _no_driver() -> str | None:
    """The error of loading NVIDIA's driver library, which comes with the driver and not with CUDA."""
    import ctypes  # as below: only where there is something to explain

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    return None


def _cannot_load(device: str) -> str | None:
    """The error of loading the provider's own library, which names the library that is missing."""
    import ctypes
    import re

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
    import ctypes

    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        return _CUDA_ERRORS.get(int(runtime.cudaGetDeviceCount(ctypes.byref(count))))
    return None
