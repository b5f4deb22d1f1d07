"""The verdict of the parity gate: passed, undecided or failed, a pure function of figures and limits.

A user's limits are compared with the figures as they are. The default rule asks what the figures prove: by how much
accuracy falls, given the number of images; whether images flip of which the reference is sure; and whether labels change
more often than errors of the measured size explain. Of what these leave undecided it asks whether the answers go with the
reference's at all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

from edgeclf.export.verify.parity import (
    FP32_LIMITS,
    INT8_LIMITS,
    SURE_MARGIN,
    TIE_MARGIN,
    ParityFacts,
    ParityLimits,
    parity_failures,
)
from edgeclf.runtime.metrics import Z_95, binomial_tail, paired_accuracy_interval, wilson_interval
from edgeclf.runtime.spec.json_documents import record_from_json

Outcome: TypeAlias = Literal["passed", "undecided", "failed"]
# The better outcome first.
OUTCOMES: tuple[Outcome, ...] = ("passed", "undecided", "failed")

# One-sided probability below which a number of sure flips is no chance.
_NO_CHANCE = 0.05
# Highest share of labels that change with the difference of the two probabilities moving by more than `SURE_MARGIN`. Of two
# classes and a reference that is sure of no image, noise of 0.3 on the logits, where rounding was measured as 0.12, changes 8 % so.
_MOST_FAR_FLIPS = 0.1
# Below, and proven, the labels go with the reference's no more than by chance.
_KAPPA_OF_CHANCE = 0.15
# Where both, the labels' kappa and the correlation of the probabilities, are proven to be below, the answers do not follow.
_LEAST_RELATION = 1 / 3
# By chance alone labels may agree more often, where one class is most of them; the probabilities have to tell then.
_MOST_BY_CHANCE = 0.75
# No advice names more images.
_MOST_IMAGES = 1_000_000


@dataclass(frozen=True)
class GateRule:
    """The default rule for int8 and fp16 files: what the figures prove decides, and too few images leave it undecided.

    Attributes:
        max_accuracy_drop: Highest loss of top-1 accuracy, 0..1. A file fails where the measured loss is higher and not by
            chance; it passes where the whole 95 % interval of the loss is below.
        min_sure_agreement: Lowest top-1 agreement on the images of which the reference is sure, 0..1. A file fails where
            the number of flips among them is above that and not by chance.
    """

    max_accuracy_drop: float = 0.01
    min_sure_agreement: float = 0.995


Limits: TypeAlias = ParityLimits | GateRule
DEFAULT_RULE = GateRule()
_RULE_NAME = "evidence"


@dataclass(frozen=True)
class Verdict:
    """What a comparison comes to.

    Attributes:
        failures: What the model fails by, a phrase each.
        doubts: What the images cannot tell, or tell against the model without failing it, a phrase each.
    """

    failures: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __add__(self, other: "Verdict") -> "Verdict":
        """Both verdicts on one model."""
        return Verdict(self.failures + other.failures, self.doubts + other.doubts)

    @property
    def outcome(self) -> Outcome:
        """`failed` with a failure, `undecided` with a doubt, else `passed`."""
        return "failed" if self.failures else "undecided" if self.doubts else "passed"

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"outcome": self.outcome, "failures": list(self.failures), "doubts": list(self.doubts)}


def limits_between(precision: str, reference_precision: str, rounded: Limits) -> Limits:
    """The limits between two models: `FP32_LIMITS` where both are fp32, else those given for rounded models."""
    return FP32_LIMITS if precision == reference_precision == "fp32" else rounded


def limits_that_pass(facts: ParityFacts) -> tuple[str, ...]:
    """The options of the command line under which a comparison passes, as measured; none where an output is no number."""
    if math.isnan(facts.max_error):
        return ()
    options = ("--min-agreement", f"{math.floor(1e4 * facts.agreement + 1e-6) / 1e4:g}")
    drop = facts.accuracy_drop
    if drop is None or drop <= (INT8_LIMITS.max_accuracy_drop or 0):
        return options
    return (*options, "--max-accuracy-drop", f"{math.ceil(1e4 * drop - 1e-6) / 1e4:g}")


def judge_parity(facts: ParityFacts, limits: Limits) -> Verdict:
    """Judges one comparison.

    What keeps `INT8_LIMITS`, the limits before there was the default rule, is never failed by that rule: what it would be
    failed by becomes a doubt. What that rule passes, it passes whatever the relation to the reference: the accuracy is kept.

    Args:
        facts: The figures.
        limits: Limits that are compared with the figures as they are, or the default rule.
    """
    nothing_said = _doubt_of_same_answers(facts)
    if isinstance(limits, ParityLimits):
        return Verdict(tuple(parity_failures(facts, limits)), nothing_said)
    if math.isnan(facts.max_error):
        return Verdict(tuple(parity_failures(facts, ParityLimits(0.0))))
    if facts.max_error <= TIE_MARGIN:
        # The same arithmetic as the reference: no number of images could say more.
        return Verdict((), nothing_said)
    findings = [_judge_accuracy(facts, limits), _judge_sure(facts, limits), _judge_expected(facts)]
    if any(phrase for _, phrase in findings):
        findings += [_judge_far(facts), _judge_relation(facts)]
    failures = tuple(phrase for is_proven, phrase in findings if is_proven and phrase)
    doubts = (*nothing_said, *(phrase for is_proven, phrase in findings if not is_proven and phrase))
    if failures and not parity_failures(facts, INT8_LIMITS):
        kept = f"written all the same, because agreement {facts.agreement:.4f} and the accuracy are within the older limits"
        return Verdict((), (*failures, *doubts, kept))
    return Verdict(failures, doubts)


def judge_replacement(facts: ParityFacts, limits: Limits) -> Verdict:
    """Judges a model that was trained anew, by the trained network whose place it takes.

    It is another network, whose labels may change as long as the accuracy is kept.

    Args:
        facts: The figures, the reference being the network whose place it takes.
        limits: Limits that are compared with the figures as they are, or the default rule, of which the accuracy drop alone
            is judged.
    """
    failures: list[str] = []
    doubts: list[str] = []
    if isinstance(limits, ParityLimits) or math.isnan(facts.max_error):
        failures = parity_failures(facts, limits if isinstance(limits, ParityLimits) else ParityLimits(0.0))
    else:
        is_proven, phrase = _judge_accuracy(facts, limits)
        (failures if is_proven else doubts).extend([phrase] if phrase else [])
    against = "against the network before it was trained for 8 bits"
    return Verdict(*(tuple(f"{against}: {phrase}" for phrase in phrases) for phrases in (failures, doubts)))


def _doubt_of_same_answers(facts: ParityFacts) -> tuple[str, ...]:
    """Agreement with a reference that answers every image alike is none: weights at random, or pixels scaled otherwise."""
    if facts.images < 2 or facts.reference_range is None or not facts.reference_range <= TIE_MARGIN:
        return ()
    doubt = (
        f"the original gives all {facts.images} {facts.split} images the same probabilities to within {TIE_MARGIN:g}"
    )
    return (f"{doubt}, so that agreement says nothing; check how it is used, above all how pixels are scaled",)


_Finding: TypeAlias = tuple[bool, str]
_NOTHING: _Finding = (False, "")


def _judge_accuracy(facts: ParityFacts, rule: GateRule) -> _Finding:
    """Whether the accuracy drop is proven too high, and the phrase; an empty phrase where it is proven low enough."""
    limit, images = rule.max_accuracy_drop, facts.images
    if facts.harmful_flips is None or facts.beneficial_flips is None:
        return _judge_unlabelled(facts, limit)
    harmful, beneficial = facts.harmful_flips, facts.beneficial_flips
    low, high = paired_accuracy_interval(harmful, beneficial, images)
    drop = (harmful - beneficial) / images
    # The ends are rounded outwards: an interval that reaches over the limit is not to look as if it ended there.
    ends = f"{_points(math.floor(1e4 * low) / 1e4)} to {_points(math.ceil(1e4 * high) / 1e4)}"
    measured = f"{_in_points(drop)} (95 % interval {ends}) on {images} {facts.split} images"
    if drop > limit + 1e-9 and low > 0:
        return True, f"accuracy falls by {measured}, at most {_points(limit)} allowed"
    if high <= limit:
        return _NOTHING

    def can_tell(factor: float) -> bool:
        more_harmful, more_beneficial = round(harmful * factor), round(beneficial * factor)
        # Where every image flips, rounding the counts must not make more flips than images.
        more_images = max(round(images * factor), more_harmful + more_beneficial)
        low, high = paired_accuracy_interval(more_harmful, more_beneficial, more_images)
        return high <= limit or (drop > limit and low > 0)

    return False, (
        f"whether accuracy falls by more than {_in_points(limit)} cannot be told: it falls by {measured}"
        f"{_needed(images, can_tell)}"
    )


def _judge_unlabelled(facts: ParityFacts, limit: float) -> _Finding:
    """Without labels every flip may be a loss, so that only few flips prove the accuracy."""
    flips, images = facts.flips, facts.images
    high = wilson_interval(flips, images, z=Z_95)[1]
    if high <= limit:
        return _NOTHING

    def can_tell(factor: float) -> bool:
        return wilson_interval(round(flips * factor), round(images * factor), z=Z_95)[1] <= limit

    needed = _needed(images, can_tell) if flips <= limit * images else "; images with labels would tell"
    return False, (
        f"whether accuracy falls by more than {_in_points(limit)} cannot be told without labels: {flips} of {images} "
        f"{facts.split} images get another label (95 % interval up to {high:.2%}){needed}"
    )


def _judge_sure(facts: ParityFacts, rule: GateRule) -> _Finding:
    """Whether flips of sure images are proven too many, and the phrase; a phrase without proof where they only look so."""
    images, flips, allowed = facts.sure_images or 0, facts.sure_flips or 0, 1 - rule.min_sure_agreement
    if flips <= allowed * images:
        return _NOTHING
    low, high = wilson_interval(flips, images, z=Z_95)
    measured = (
        f"{flips} of {images} {facts.split} images of which the float network is sure (margin above {SURE_MARGIN:g}) get "
        f"another label ({flips / images:.2%}, 95 % interval {low:.2%} to {high:.2%})"
    )
    if binomial_tail(flips, images, allowed) < _NO_CHANCE:
        return True, f"{measured}, at most {allowed:.2%} allowed"

    def can_tell(factor: float) -> bool:
        return binomial_tail(round(flips * factor), round(images * factor), allowed) < _NO_CHANCE

    return False, f"{measured}: too few to tell whether it is more than {allowed:.2%}{_needed(facts.images, can_tell)}"


def _judge_expected(facts: ParityFacts) -> _Finding:
    """Whether labels change more often than errors of the measured size explain, and the phrase."""
    if facts.expected_flips is None or facts.expected_flips_high is None or facts.flips <= facts.expected_flips_high:
        return _NOTHING
    return True, (
        f"{facts.flips} of {facts.images} {facts.split} images get another label, where probability errors of the measured "
        f"size explain {facts.expected_flips:.1f} (99.9 % interval up to {facts.expected_flips_high}): a systematic fault"
    )


def _judge_far(facts: ParityFacts) -> _Finding:
    """Whether labels change by more than rounding can, on images of which the reference need not be sure, and the phrase."""
    images, flips = facts.images, facts.far_flips or 0
    if flips <= _MOST_FAR_FLIPS * images or binomial_tail(flips, images, _MOST_FAR_FLIPS) >= _NO_CHANCE:
        return _NOTHING
    low, high = wilson_interval(flips, images, z=Z_95)
    return True, (
        f"{flips} of {images} {facts.split} images get another label by more than rounding: the difference of the two labels' "
        f"probabilities moves by more than {SURE_MARGIN:g} ({flips / images:.2%}, 95 % interval {low:.2%} to {high:.2%}), "
        f"at most {_MOST_FAR_FLIPS:.2%} allowed"
    )


def _judge_relation(facts: ParityFacts) -> _Finding:
    """Whether the answers are proven not to follow the reference's from image to image, and the phrase."""
    kappa, kappa_high = facts.kappa, facts.kappa_high
    correlation, correlation_high = facts.correlation, facts.correlation_high
    if kappa is None or kappa_high is None or correlation is None or correlation_high is None:
        return _NOTHING
    is_by_chance = kappa_high < _KAPPA_OF_CHANCE and facts.agreement_interval[1] < _MOST_BY_CHANCE
    if not is_by_chance and max(kappa_high, correlation_high) >= _LEAST_RELATION:
        return _NOTHING
    return True, (
        f"the answers to {facts.images} {facts.split} images do not go with the float network's: {facts.agreement:.2%} of the "
        f"labels agree, where chance gives {facts.chance_agreement:.2%} (kappa {kappa:.2f}, 95 % interval up to "
        f"{kappa_high:.2f}), and the probabilities have a correlation of {correlation:.2f} (up to {correlation_high:.2f})"
    )


def _needed(images: int, can_tell: Callable[[float], bool]) -> str:
    """The advice how many images would tell, if the shares stay as measured; empty where none would."""
    low, high = 1.0, 2.0
    while not can_tell(high):
        low, high = high, 2 * high
        if images * high > _MOST_IMAGES:
            return ""
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if can_tell(middle) else (middle, high)
    count = math.ceil(images * high)
    step = 10 ** max(0, len(str(count)) - 2)
    return f"; about {math.ceil(count / step) * step:,} images would tell"


def _in_points(share: float) -> str:
    """A share as points of a percent with their unit: 0.0125 is `1.25 points`."""
    text = _points(share)
    return f"{text} point" if text in {"1", "-1"} else f"{text} points"


def _points(share: float) -> str:
    """A share as points of a percent: 0.0125 is `1.25`."""
    text = f"{100 * share:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def limits_record(limits: Limits) -> dict[str, Any]:
    """The limits as they stand in the spec of a file."""
    if isinstance(limits, ParityLimits):
        return asdict(limits)
    return {"rule": _RULE_NAME, **asdict(limits), "sure_margin": SURE_MARGIN}


def recorded_limits(parity: Mapping[str, Any] | None) -> Limits | None:
    """The limits that the spec of a file says it was written with; None where it does not say, or not in a known form.

    Args:
        parity: The field `parity` of the spec.
    """
    record = (parity or {}).get("limits")
    if not isinstance(record, Mapping):
        return None
    try:
        if "rule" not in record:
            return record_from_json(ParityLimits, dict(record))
        if record["rule"] != _RULE_NAME:
            return None
        return record_from_json(GateRule, {item.name: record[item.name] for item in fields(GateRule)})
    except (KeyError, ValueError):
        return None


def describe_limits(limits: Limits) -> str:
    """The limits in words."""
    if isinstance(limits, GateRule):
        return (
            f"the default rule (an accuracy drop above {_in_points(limits.max_accuracy_drop)} that is no chance, "
            f"sure agreement below {limits.min_sure_agreement:g}, unexplained flips, or answers that do not go with the "
            "original's fail)"
        )
    parts = [f"agreement at least {limits.min_agreement:g}"]
    if limits.max_error is not None:
        parts.append(f"probability error at most {limits.max_error:g}")
    if limits.max_accuracy_drop is not None:
        parts.append(f"accuracy drop at most {limits.max_accuracy_drop:g}")
    return ", ".join(parts)
