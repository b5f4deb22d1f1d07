"""Targets: the kinds of CPUs that an int8 file can be made for, and what each requires of the weights."""

from typing import Literal, TypeAlias, get_args

from edgeclf.runtime.cpus import CpuInfo
from edgeclf.runtime.errors import UsageError

Target: TypeAlias = Literal["any", "x86-avx2", "x86-vnni", "arm64"]
TARGETS: tuple[Target, ...] = get_args(Target)
THIS = "this"
# Instructions that add products in 32 bits: with one of them, or on ARM, full 8-bit weights cannot saturate.
_WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8"})


def resolve_target(name: str, cpu: CpuInfo) -> Target:
    """The target of a name.

    Args:
        name: One of `TARGETS`, or `this` for the target of a CPU.
        cpu: That CPU.

    Raises:
        UsageError: There is no such target.
    """
    if name == THIS:
        return target_of(cpu)
    for target in TARGETS:
        if name == target:
            return target
    raise UsageError(f"unknown target {name!r}", expected=f"{', '.join(TARGETS)} or {THIS}", hint="choose one of them")


def target_of(cpu: CpuInfo) -> Target:
    """The narrowest target that includes a CPU."""
    if cpu.architecture in {"aarch64", "arm64"}:
        return "arm64"
    return "x86-vnni" if _WIDE_SUMS.intersection(cpu.isa_flags) else "x86-avx2"


def needs_pair_constraint(target: Target) -> bool:
    """Whether a CPU of the target may add neighbouring products in 16 bits, which full 8-bit weights overflow."""
    return target in {"any", "x86-avx2"}
