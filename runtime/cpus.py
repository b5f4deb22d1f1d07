"""CPUs: the number this process may use, their name and their vector instruction sets.

`os.cpu_count()` counts the host's CPUs even inside a container that was given half of one; thread pools sized by it
run slower than one thread. The number that counts is the smaller of the scheduler affinity and the cgroup quota.
"""

import math
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgeclf.runtime.errors import UsageError

# The instruction sets that int8 and float kernels are chosen by; everything else in the flags line is noise here.
_KERNEL_FLAGS = (
    r"^(ssse3|sse4_1|sse4_2|avx|avx2|fma|f16c|avx512\w*|avx_vnni\w*|amx_\w+|asimd\w*|sve\w*|i8mm|bf16|fphp)$"
)

# Images in one inference or one step: 10 GB of pixels at 224 x 224, more than any device gains from.
MOST_IMAGES_IN_A_BATCH = 2**16


class CpuInfo(NamedTuple):
    """A processor: its name, instruction sets and usable CPUs.

    Attributes:
        model: The processor's name as it reports it.
        architecture: Machine architecture, such as `x86_64` or `aarch64`.
        isa_flags: Sorted names of the vector instruction sets that choose a kernel.
        usable_cpus: CPUs this process may use.
    """

    model: str
    architecture: str
    isa_flags: tuple[str, ...]
    usable_cpus: int

    def to_json(self) -> dict[str, object]:
        """The same facts as plain JSON values."""
        return {
            "model": self.model,
            "architecture": self.architecture,
            "isa_flags": list(self.isa_flags),
            "usable_cpus": self.usable_cpus,
        }


def usable_cpus(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of CPUs this process may keep busy: affinity, limited by the cgroup quota, at least 1.

    Args:
        cgroup_root: Where the cgroup file system is mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quota = _cgroup_quota(cgroup_root)
    if quota is not None:
        # A quota of 1.5 CPUs keeps two threads busy for three quarters of the time; rounding up avoids idling.
        count = min(count, math.ceil(quota))
    return max(1, count)


def check_threads(name: str, count: int) -> None:
    """Checks a number of threads that a caller chose.

    More threads than CPUs share these; so many more that they only wait for each other - ONNX Runtime's spin - take
    minutes for one inference, or all threads of the system.

    Args:
        name: What is counted, such as "number of threads".
        count: The number.

    Raises:
        UsageError: It is below 1, or above 64 and above four for each CPU of the machine.
    """
    most = max(64, 4 * (os.cpu_count() or 1))
    if not 1 <= count <= most:
        raise UsageError(f"bad {name}", got=str(count), expected=f"1 to {most}")


def check_batch_size(size: int) -> None:
    """Checks a number of images in one inference that a caller chose.

    Raises:
        UsageError: It is below 1 or above `MOST_IMAGES_IN_A_BATCH`.
    """
    if not 1 <= size <= MOST_IMAGES_IN_A_BATCH:
        raise UsageError("bad batch size", got=str(size), expected=f"1 to {MOST_IMAGES_IN_A_BATCH}")


def _cgroup_quota(root: Path) -> float | None:
    """CPUs granted by cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_*`), None where there is no limit.

    A group's limit holds for all groups below it, so every one from the root down to this process's own is asked.
    """
    own_v2, own_v1 = _own_cgroups()
    limits = [_v2_quota(root / folder / "cpu.max") for folder in _and_those_above(own_v2)]
    limits += [_v1_quota(root / "cpu" / folder) for folder in _and_those_above(own_v1)]
    found = [limit for limit in limits if limit is not None]
    return min(found) if found else None


def _own_cgroups() -> tuple[str, str]:
    """This process's group in cgroup v2 and in the v1 hierarchy of the CPU controller, relative to their roots."""
    v2 = v1 = ""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            v2 = path.lstrip("/")
        elif "cpu" in controllers.split(","):
            v1 = path.lstrip("/")
    return v2, v1


def _and_those_above(folder: str) -> list[str]:
    parts = [part for part in folder.split("/") if part not in {"", ".", ".."}]
    return ["/".join(parts[:count]) for count in range(len(parts) + 1)]


def _v2_quota(path: Path) -> float | None:
    parts = _read(path).split()
    if len(parts) != 2 or not parts[0].isdigit() or not parts[1].isdigit() or int(parts[1]) == 0:
        return None
    return int(parts[0]) / int(parts[1])


def _v1_quota(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def cpu_info() -> CpuInfo:
    """Names the processor and the vector instruction sets it offers."""
    fields: dict[str, str] = {}
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    # Raspberry Pi kernels put the board under "Model"; ARM cores otherwise name themselves only by part numbers.
    model = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return CpuInfo(
        model=model,
        architecture=platform.machine(),
        isa_flags=tuple(sorted({flag for flag in flags if re.match(_KERNEL_FLAGS, flag)})),
        usable_cpus=usable_cpus(),
    )


def isa_difference(measured_on: Mapping[str, Any] | None, here: CpuInfo) -> str | None:
    """The difference between this CPU's vector instruction sets and those of the CPU that figures were measured on.

    int8 kernels are chosen by them, and give other results and other timings with others.

    Args:
        measured_on: What `CpuInfo.to_json` gave there, as a model file records it; None when it records nothing.
        here: This CPU.

    Returns:
        A phrase that names both, or None when they are the same or the record does not say.
    """
    recorded = (measured_on or {}).get("isa_flags")
    if not isinstance(recorded, list | tuple):
        return None
    there = {str(flag) for flag in recorded}
    lost, gained = sorted(there - set(here.isa_flags)), sorted(set(here.isa_flags) - there)
    if not lost and not gained:
        return None
    parts = [f"lacks {', '.join(lost)}" if lost else "", f"has {', '.join(gained)} besides" if gained else ""]
    return f"next to {(measured_on or {}).get('model')}, {here.model} {' and '.join(part for part in parts if part)}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
