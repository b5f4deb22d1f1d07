"""The recommendation which of the measured files to ship, and why: a pure function of the figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeclf.export.verify.parity import ParityFacts
from edgeclf.export.verify.rejection import RejectionFit
from edgeclf.export.verify.verdict import Verdict
from edgeclf.runtime.timing.comparison import LatencyFigures, Ratio

# A smaller gain is within the noise between two machines of one kind, and does not pay for rounding.
_WORTHWHILE_RATIO = 0.95
# Latencies this close count as equal: two runs of the same file differ by as much.
_SAME_LATENCY = 0.03


@dataclass(frozen=True)
class Candidate:
    """A model that an export made, measured.

    Attributes:
        name: Its precision: `fp32`, `int8` or `fp16`; among int8 recipes, what sets the recipe apart.
        file_bytes: Size of the file.
        parity: Its comparisons with the Keras model, one for each split of the held-out images.
        verdict: Whether it passed the gate, and by what it failed.
        latency: Its latency for one image on one thread; None where nothing was timed.
        latency_ratio: The ratio of its latency to that of fp32, with its interval; None where nothing was timed.
        rejection: Its rejection threshold; None for fp32, and without one.
        portable: Whether an int8 file gives the same bits on every CPU; None for the other precisions.
        portable_reason: Why it does not; empty where it does.
        replaced: Of a network that was trained anew: its comparisons with the network whose place it takes, as `parity`.
    """

    name: str
    file_bytes: int
    parity: tuple[ParityFacts, ...]
    verdict: Verdict = field(default_factory=Verdict)
    latency: LatencyFigures | None = None
    latency_ratio: Ratio | None = None
    rejection: RejectionFit | None = None
    portable: bool | None = None
    portable_reason: str = ""
    replaced: tuple[ParityFacts, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """What it failed the gate by, a phrase each; empty where it is written."""
        return self.verdict.failures


@dataclass(frozen=True)
class Recommendation:
    """The precision to ship.

    Attributes:
        precision: `fp32`, `int8` or `fp16`.
        reason: Why, as a phrase.
    """

    precision: str
    reason: str


def recommend(candidates: Sequence[Candidate]) -> Recommendation:
    """Names the precision to ship on the machine where the latencies were measured.

    Args:
        candidates: The fp32 candidate, then perhaps the int8 or fp16 one; latency ratios are to the first.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    int8, fp32 = by_name.get("int8"), by_name["fp32"]
    if half := by_name.get("fp16"):
        return _recommend_fp16(half, fp32)
    if int8 is None:
        return Recommendation("fp32", "the only precision exported; try --precision int8 for a smaller, faster file")
    if int8.failures:
        return Recommendation("fp32", f"int8 failed its gate: {'; '.join(int8.failures)}")
    size = int8.file_bytes / fp32.file_bytes
    if not _is_faster(int8):
        return Recommendation(
            "fp32", f"int8 {_time_of(int8)} on this CPU, so rounding buys only the smaller file ({size:.2f}x)"
        )
    # The recipe was chosen by the first split; the last, the test images where there are any, was only measured.
    facts = int8.parity[-1]
    return Recommendation(
        "int8",
        f"{_median_ratio(int8):.2f}x the time and {size:.2f}x the size of fp32, "
        f"with the same label on {facts.agreement:.2%} of the {facts.split} images{_remaining_doubt(int8)}",
    )


def _recommend_fp16(half: Candidate, fp32: Candidate) -> Recommendation:
    size = f"{half.file_bytes / fp32.file_bytes:.2f}x the size of fp32"
    if half.failures:
        return Recommendation("fp32", f"fp16 failed its gate: {'; '.join(half.failures)}")
    if not _is_faster(half):
        return Recommendation(
            "fp32",
            f"fp16 {_time_of(half)} on this CPU, at {size}; on a GPU compare the two with edgeclf bench --device cuda",
        )
    return Recommendation("fp16", f"{_median_ratio(half):.2f}x the time and {size}{_remaining_doubt(half)}")


def _remaining_doubt(candidate: Candidate) -> str:
    return "; the gate leaves it undecided" if candidate.verdict.outcome == "undecided" else ""


def _is_faster(candidate: Candidate) -> bool:
    """Whether the whole interval of the latency ratio is a worthwhile gain: noise alone recommends nothing."""
    return candidate.latency_ratio is not None and candidate.latency_ratio.high <= _WORTHWHILE_RATIO


def _time_of(candidate: Candidate) -> str:
    ratio = candidate.latency_ratio
    if ratio is None:
        return "was not timed"
    if ratio.median > _WORTHWHILE_RATIO:
        return f"takes {ratio.median:.2f}x the time of fp32"
    return f"takes {ratio.median:.2f}x the time of fp32, which is not certain ({ratio.low:.2f}x to {ratio.high:.2f}x),"


def _median_ratio(candidate: Candidate) -> float:
    """The latency ratio to fp32; 1 where nothing was timed."""
    return 1.0 if candidate.latency_ratio is None else candidate.latency_ratio.median


def pareto_front(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Positions of the candidates on the Pareto front of closeness to the reference and latency.

    A candidate is off the front where another one is closer and at most `_SAME_LATENCY` slower, or at least as close and
    faster by more than that.

    Args:
        candidates: With at least one comparison each; a candidate that was not timed counts as fast as the reference.
    """

    def beats(one: Candidate, other: Candidate) -> bool:
        mine, theirs = one.parity[0], other.parity[0]
        my_ratio, their_ratio = _median_ratio(one), _median_ratio(other)
        closer = (mine.agreement, -mine.mean_error) > (theirs.agreement, -theirs.mean_error)
        as_close = mine.agreement >= theirs.agreement
        return (closer and my_ratio <= their_ratio + _SAME_LATENCY) or (
            as_close and my_ratio < their_ratio - _SAME_LATENCY
        )

    return tuple(
        position
        for position, candidate in enumerate(candidates)
        if not any(beats(other, candidate) for other in candidates if other is not candidate)
    )
