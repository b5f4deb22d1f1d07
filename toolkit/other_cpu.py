"""The warning that a model file was verified on a CPU with other kernels than this one's."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.toolkit.console import warn

if TYPE_CHECKING:
    from edgeclf.runtime.cpus import CpuInfo
    from edgeclf.runtime.spec import ModelSpec


def warn_of_other_cpu(model: Path, spec: "ModelSpec", cpu: "CpuInfo") -> str | None:
    """Warns on stderr when the vector instruction sets differ; gives the difference as a phrase, None for none."""
    from edgeclf.runtime.cpus import isa_difference

    record = (spec.latency or {}).get("cpu") or (spec.parity or {}).get("cpu")
    difference = isa_difference(record, cpu)
    if difference:
        warn(f"{model} was verified and timed on another CPU: {difference}; edgeclf verify repeats that here")
    return difference
