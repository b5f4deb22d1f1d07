"""Warning that a model file was verified on a CPU with another instruction set."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.toolkit.console import warn

if TYPE_CHECKING:
    from edgeclf.runtime import ModelSpec
    from edgeclf.runtime.cpus import CpuInfo


def warn_of_other_cpu(model: Path, spec: "ModelSpec", cpu: "CpuInfo") -> str | None:
    """Warns on stderr where this CPU's instruction sets differ from those of the verification; returns the difference as a phrase."""
    from edgeclf.export.targets import needs_pair_constraint, target_of
    from edgeclf.runtime.cpus import isa_difference

    record = (spec.latency or {}).get("cpu") or (spec.parity or {}).get("cpu")
    difference = isa_difference(record, cpu)
    target = (spec.quantization or {}).get("target")
    if target in {"x86-vnni", "arm64"} and needs_pair_constraint(target_of(cpu)):
        warn(
            f"{model} was made for {target}, and {cpu.model} adds products in 16 bits: results may be wrong here; "
            "export it with --target any"
        )
    elif difference:
        warn(f"{model} was verified and timed on another CPU: {difference}; edgeclf verify repeats that here")
    return difference
