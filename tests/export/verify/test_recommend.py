from dataclasses import replace

import pytest

from edgeclf.export.verify.parity import ParityFacts
from edgeclf.export.verify.recommend import Candidate, pareto_front, recommend
from edgeclf.export.verify.verdict import Verdict
from edgeclf.runtime.timing.comparison import LatencyFigures, Ratio


def candidate(name, ratio=1.0, *, low=None, high=None, agreement=1.0, file_bytes=1000, failures=()):
    facts = ParityFacts("validation", 100, agreement, 0.1, 0.01, None, None)
    latency = LatencyFigures(ratio, ratio, ratio, rounds=60, batch_size=1, threads=1, provider="CPUExecutionProvider")
    interval = Ratio(ratio, ratio if low is None else low, ratio if high is None else high)
    return Candidate(name, file_bytes, (facts,), Verdict(failures), latency, interval)


@pytest.mark.parametrize("name", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("ratio", "low", "high", "failures", "is_shipped", "said"),
    [
        (0.5, 0.45, 0.6, (), True, "0.50x the time"),
        (0.93, 0.92, 0.95, (), True, "0.93x the time"),
        (1.6, 1.5, 1.7, (), False, "takes 1.60x the time of fp32 on this CPU"),
        (0.97, 0.96, 0.98, (), False, "takes 0.97x the time of fp32 on this CPU"),
        # Faster by the median, but no more than noise may give.
        (0.9, 0.7, 1.1, (), False, "takes 0.90x the time of fp32, which is not certain (0.70x to 1.10x), on this CPU"),
        (0.5, 0.45, 0.6, ("agreement",), False, "failed its gate: agreement"),
    ],
)
def test_a_smaller_precision_is_recommended_where_it_is_surely_faster(
    name, ratio, low, high, failures, is_shipped, said
):
    smaller = candidate(name, ratio, low=low, high=high, file_bytes=300, failures=failures)
    chosen = recommend([candidate("fp32"), smaller])
    assert chosen.precision == (name if is_shipped else "fp32")
    assert said in chosen.reason
    assert ("0.30x" in chosen.reason) == (not failures)


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_what_the_gate_leaves_undecided_is_recommended_with_these_words(name):
    small = candidate(name, 0.5)
    undecided = replace(small, verdict=Verdict((), ("few images",)))
    chosen = recommend([candidate("fp32"), undecided])
    assert chosen.precision == name
    assert chosen.reason.endswith("; the gate leaves it undecided")
    assert "undecided" not in recommend([candidate("fp32"), small]).reason


def test_what_was_not_timed_is_not_recommended():
    facts = ParityFacts("validation", 100, 1.0, 0.1, 0.01, None, None)
    for name in ("int8", "fp16"):
        chosen = recommend([Candidate("fp32", 1000, (facts,)), Candidate(name, 300, (facts,))])
        assert (chosen.precision, "was not timed" in chosen.reason) == ("fp32", True)


def test_the_agreement_that_is_quoted_is_that_of_images_by_which_no_recipe_was_chosen():
    chosen_on = ParityFacts("validation", 100, 1.0, 0.1, 0.01, None, None)
    only_measured = ParityFacts("test", 100, 0.98, 0.1, 0.01, None, None)
    small = replace(candidate("int8", 0.5), parity=(chosen_on, only_measured))
    assert "98.00% of the test images" in recommend([candidate("fp32"), small]).reason
    assert "100.00% of the validation images" in recommend([candidate("fp32"), candidate("int8", 0.5)]).reason


def test_fp32_alone_is_recommended_with_a_hint():
    chosen = recommend([candidate("fp32")])
    assert chosen.precision == "fp32"
    assert "try --precision int8" in chosen.reason


def test_the_front_holds_what_none_beats():
    candidates = [
        candidate("fp32", 1.0),
        candidate("fast", 0.6, agreement=0.97),
        candidate("slow and no better", 0.8, agreement=0.97),
        candidate("between", 0.7, agreement=0.99),
        candidate("the same to within noise", 0.69, agreement=0.98),
    ]
    assert pareto_front(candidates) == (0, 1, 3)
