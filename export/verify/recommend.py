"""Which of the measured files to ship, and why: a pure function of the figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeclf.export.verify.parity import ParityFacts
from edgeclf.runtime.timing.comparison import LatencyFigures

# A gain below five percent drowns in the noise between two machines of one kind and does not pay for rounding.
_WORTHWHILE_RATIO = 0.95
# Latencies this close are one: two runs of the same file differ by as much.
_SAME_LATENCY = 0.03


@dataclass(frozen=True)
class Candidate:
    """One precision of the model, measured.

    Attributes:
        precision: `fp32` or `int8`; of one of several recipes, what sets it apart.
        file_bytes: Size of the file.
        parity: Its comparisons with the Keras model, one for each part of the held-out images.
        failures: What it misses of its limits; empty when it passed the gate.
        latency: Its latency for one image on one thread, None where the gate failed and nothing was timed.
    """

    precision: str
    file_bytes: int
    parity: tuple[ParityFacts, ...]
    failures: tuple[str, ...] = ()
    latency: LatencyFigures | None = None


@dataclass(frozen=True)
class Recommendation:
    """The file to ship.

    Attributes:
        precision: `fp32`, `int8` or `fp16`.
        reason: Why, as a phrase.
    """

    precision: str
    reason: str


def recommend(candidates: Sequence[Candidate]) -> Recommendation:
    """Names the candidate to ship on the machine the latencies were measured on.

    Args:
        candidates: The fp32 candidate, then perhaps the int8 or fp16 one; the latency ratio is relative to the first.
    """
    by_precision = {candidate.precision: candidate for candidate in candidates}
    int8, fp32 = by_precision.get("int8"), by_precision["fp32"]
    if half := by_precision.get("fp16"):
        return _recommend_fp16(half, fp32)
    if int8 is None:
        return Recommendation("fp32", "the only precision exported; try --precision int8 for a smaller, faster file")
    if int8.failures:
        return Recommendation("fp32", f"int8 failed its gate: {'; '.join(int8.failures)}")
    size = int8.file_bytes / fp32.file_bytes
    if int8.latency is None or int8.latency.ratio > _WORTHWHILE_RATIO:
        took = "was not timed" if int8.latency is None else f"takes {int8.latency.ratio:.2f}x the time of fp32"
        return Recommendation("fp32", f"int8 {took} on this CPU, so rounding buys only the smaller file ({size:.2f}x)")
    agreement = int8.parity[0].agreement
    return Recommendation(
        "int8",
        f"{int8.latency.ratio:.2f}x the time and {size:.2f}x the size of fp32, "
        f"with the same label on {agreement:.2%} of the {int8.parity[0].part} images",
    )


def _recommend_fp16(half: Candidate, fp32: Candidate) -> Recommendation:
    size = f"{half.file_bytes / fp32.file_bytes:.2f}x the size of fp32"
    if half.failures:
        return Recommendation("fp32", f"fp16 failed its gate: {'; '.join(half.failures)}")
    if half.latency is None or half.latency.ratio > _WORTHWHILE_RATIO:
        took = "was not timed" if half.latency is None else f"takes {half.latency.ratio:.2f}x the time of fp32"
        return Recommendation(
            "fp32", f"fp16 {took} on this CPU, at {size}; on a GPU compare the two with edgeclf bench --device cuda"
        )
    return Recommendation("fp16", f"{half.latency.ratio:.2f}x the time and {size}")


def pareto_front(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Positions of the candidates that none beats: none is at least as close to the reference, as fast, and better in one.

    Args:
        candidates: With their first comparison and, where it was measured, their latency.
    """

    def better(one: Candidate, other: Candidate) -> bool:
        here, there = one.parity[0], other.parity[0]
        quick = one.latency.ratio if one.latency else 1.0
        slow = other.latency.ratio if other.latency else 1.0
        closer = (here.agreement, -here.mean_error) > (there.agreement, -there.mean_error)
        as_close = here.agreement >= there.agreement
        return (closer and quick <= slow + _SAME_LATENCY) or (as_close and quick < slow - _SAME_LATENCY)

    return tuple(
        position
        for position, candidate in enumerate(candidates)
        if not any(better(other, candidate) for other in candidates if other is not candidate)
    )
