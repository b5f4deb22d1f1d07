"""Traps of package versions, named without importing the packages: some of them end the process that does."""

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgeclf.runtime.cpus import cpu_info

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


class Machine(NamedTuple):
    """What traps depend on.

    Attributes:
        model: Name of the processor or board.
        architecture: As `platform.machine` has it.
        features: Instruction sets, as Linux names them; empty where it does not say.
    """

    model: str
    architecture: str
    features: frozenset[str]

    @property
    def may_have_sme(self) -> bool:
        """Whether the cores have, or, where the system does not say, may have ARM's matrix extension."""
        is_arm = self.architecture.lower() in {"aarch64", "arm64"}
        return is_arm and ("sme" in self.features or not self.features)


class _Trap(NamedTuple):
    packages: tuple[str, ...]
    since: tuple[int, int]
    fixed_in: tuple[int, int]
    is_here: Callable[[Machine], bool]
    what: str
    do: str


_TRAPS = (
    _Trap(
        _RUNTIMES,
        (1, 21),
        (1, 22),
        lambda machine: "Raspberry Pi 4" in machine.model,
        # github.com/microsoft/onnxruntime/issues/23957
        "ends with an illegal instruction on a Raspberry Pi 4, as soon as it is imported",
        "install 1.20, or 1.22 and later",
    ),
    _Trap(
        _RUNTIMES,
        (1, 24),
        (1, 27),
        lambda machine: machine.may_have_sme,
        # github.com/microsoft/onnxruntime/issues/28231
        "keeps the memory of every frame on ARM cores with SME, such as Apple's M4, until none is left",
        "install 1.23, or 1.27 and later",
    ),
    _Trap(
        _OPENCV,
        (4, 10),
        (4, 12),
        lambda _: True,
        # CVE-2025-53644
        "can be brought down by a crafted JPEG",
        "install 4.12 or later",
    ),
)


def known_traps(machine: Machine | None = None) -> tuple[str, ...]:
    """Sentences about installed packages whose version has a fault that shows on this machine, each with what to do.

    Args:
        machine: The machine; None asks this one.
    """
    found = []
    machine = machine or _this_machine()
    for trap in _TRAPS:
        for package in trap.packages:
            version = _version(package)
            release = _release(version)
            if version and release and trap.since <= release < trap.fixed_in and trap.is_here(machine):
                found.append(f"{package} {version} {trap.what}: {trap.do}")
    return tuple(found)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str | None) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", version or "")
    return None if match is None else (int(match[1]), int(match[2]))


def _this_machine() -> Machine:
    cpu = cpu_info()
    return Machine(cpu.model + _board(), cpu.architecture, frozenset(_features()))


def _board() -> str:
    """The board's name, which kernels of ARM systems have, after a space."""
    try:
        return " " + Path("/proc/device-tree/model").read_text(encoding="ascii", errors="replace").strip("\0")
    except OSError:
        return ""


def _features() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("Features", "flags"))), [])
