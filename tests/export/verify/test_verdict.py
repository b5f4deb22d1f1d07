import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.export.verify.parity import (
    FP32_LIMITS,
    INT8_LIMITS,
    SURE_MARGIN,
    ParityFacts,
    ParityLimits,
    compare_probabilities,
    parity_failures,
)
from edgeclf.export.verify.verdict import (
    DEFAULT_RULE,
    GateRule,
    Verdict,
    describe_limits,
    judge_parity,
    judge_replacement,
    limits_between,
    limits_record,
    recorded_limits,
)


def facts_of(images=400, harmful=0, beneficial=0, other=0, *, sure=None, sure_flips=0, expected_high=None, **changes):
    """Figures of a comparison with so many flips of each kind; `other` flips are wrong before and after."""
    flips = harmful + beneficial + other
    right = images // 2 + harmful
    facts = ParityFacts(
        "validation",
        images,
        1 - flips / images,
        0.2,
        0.01,
        right / images,
        (right - harmful + beneficial) / images,
        sure_images=images if sure is None else sure,
        sure_flips=sure_flips,
        harmful_flips=harmful,
        beneficial_flips=beneficial,
        expected_flips=1.0,
        expected_flips_low=0,
        expected_flips_high=images if expected_high is None else expected_high,
    )
    return replace(facts, **changes)


@st.composite
def comparisons(draw):
    harmful, beneficial, other = (draw(st.integers(0, 60)) for _ in range(3))
    flips = harmful + beneficial + other
    images = flips + draw(st.integers(1, 5000))
    sure_flips = draw(st.integers(0, flips))
    sure = sure_flips + draw(st.integers(0, images - flips))
    return facts_of(
        images, harmful, beneficial, other, sure=sure, sure_flips=sure_flips, expected_high=draw(st.integers(0, images))
    )


@given(comparisons())
def test_what_kept_the_older_limits_is_never_failed_by_the_default_rule(facts):
    verdict = judge_parity(facts, DEFAULT_RULE)
    if not parity_failures(facts, INT8_LIMITS):
        assert verdict.outcome != "failed"
    # And nothing passes whose accuracy could have fallen by more than a point.
    if verdict.outcome == "passed":
        assert facts.accuracy_drop_interval[1] <= 0.01


@given(comparisons(), st.floats(0, 1), st.none() | st.floats(0, 1), st.none() | st.floats(0, 1))
def test_limits_that_are_given_are_compared_with_the_figures_as_they_are(facts, agreement, error, drop):
    limits = ParityLimits(agreement, error, drop)
    verdict = judge_parity(facts, limits)
    kept = (
        facts.agreement >= agreement
        and (error is None or facts.max_error <= error)
        and (drop is None or facts.accuracy_drop <= drop + 1e-9)
    )
    assert verdict.outcome == ("passed" if kept else "failed")
    assert verdict.failures == tuple(parity_failures(facts, limits))


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 8))
def test_a_file_compared_with_itself_passes_on_however_few_images(seed, images, classes):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.3), images).astype(np.float32)
    for true in (None, random.integers(0, classes, images)):
        facts = compare_probabilities(probabilities, probabilities, "validation", true)
        for limits in (DEFAULT_RULE, FP32_LIMITS, INT8_LIMITS):
            assert judge_parity(facts, limits) == Verdict()


@pytest.mark.parametrize(
    ("facts", "outcome", "phrase"),
    [
        # The loss is real, and more than a point.
        (facts_of(400, 12), "failed", "accuracy falls by 3 points (95 % interval 1.7"),
        (facts_of(4000, 60, 5), "failed", "accuracy falls by 1.38 points"),
        # Chance could have made it.
        (facts_of(400, 8, 3), "undecided", "falls by 1.25 points"),
        # Too few images to exclude a point.
        (facts_of(100), "undecided", "about 390 images would tell"),
        (facts_of(379), "undecided", "about 390 images would tell"),
        (facts_of(400), "passed", ""),
        # Many flips of unsure images that even out.
        (facts_of(4000, 40, 40, 40, sure=2000), "passed", ""),
        (facts_of(4000, 0, 120, sure=2000), "passed", ""),
        # Sure images flip.
        (facts_of(4000, 20, 20, 20, sure=3000, sure_flips=15), "passed", ""),
        (facts_of(4000, 20, 20, 20, sure=3000, sure_flips=18), "undecided", "18 of 3000 validation images of which"),
        (facts_of(4000, 20, 20, 20, sure=3000, sure_flips=40), "failed", "at most 0.50% allowed"),
        (facts_of(400, 0, 5, sure=330, sure_flips=0), "passed", ""),
        # More flips than the errors explain.
        (facts_of(4000, 20, 20, 20, expected_high=60), "passed", ""),
        (facts_of(4000, 20, 20, 20, expected_high=59), "failed", "a systematic fault"),
        # NaN fails, whatever else.
        (facts_of(400, max_error=math.nan), "failed", "nan"),
    ],
)
def test_the_default_rule(facts, outcome, phrase):
    verdict = judge_parity(facts, DEFAULT_RULE)
    assert verdict.outcome == outcome
    assert phrase in "; ".join(verdict.failures + verdict.doubts)
    assert verdict.to_json()["outcome"] == outcome


def test_a_fault_within_the_older_limits_is_named_and_not_refused():
    facts = facts_of(4000, 18, 18, sure=3900, sure_flips=36)
    assert not parity_failures(facts, INT8_LIMITS)
    verdict = judge_parity(facts, DEFAULT_RULE)
    assert verdict.outcome == "undecided"
    assert "36 of 3900" in verdict.doubts[0]
    assert "within the older limits" in verdict.doubts[-1]


def test_without_labels_few_flips_prove_the_accuracy_and_many_leave_it_open():
    def unlabelled(images, flips):
        nothing = {"reference_accuracy": None, "candidate_accuracy": None, "harmful_flips": None}
        return facts_of(images, 0, 0, flips, sure=0, beneficial_flips=None, **nothing)

    assert judge_parity(unlabelled(4000, 20), DEFAULT_RULE).outcome == "passed"
    few = judge_parity(unlabelled(50, 0), DEFAULT_RULE)
    assert few.outcome == "undecided"
    assert "about 390 images would tell" in few.doubts[0]
    many = judge_parity(unlabelled(4000, 120), DEFAULT_RULE)
    assert many.outcome == "undecided"
    assert "images with labels would tell" in many.doubts[0]


def test_the_number_of_images_that_would_tell_tells():
    for harmful, beneficial in ((3, 2), (0, 0), (9, 4), (1, 1)):
        facts = facts_of(300, harmful, beneficial)
        (doubt,) = judge_parity(facts, DEFAULT_RULE).doubts
        needed = int(doubt.split("about ")[1].split(" images")[0].replace(",", ""))
        scaled = facts_of(needed, round(harmful * needed / 300), round(beneficial * needed / 300))
        assert judge_parity(scaled, DEFAULT_RULE).outcome != "undecided"
        assert needed > 300


def test_where_every_image_flips_a_number_of_images_is_named_as_well(rng):
    for _ in range(300):
        harmful, beneficial = (int(count) for count in rng.integers(20, 200, 2))
        facts = facts_of(harmful + beneficial, harmful, beneficial, sure=0, reference_accuracy=0.5)
        # The more so where the interval of the loss begins below 0, and the number is looked for.
        outcome = judge_parity(facts, DEFAULT_RULE).outcome
        assert (outcome == "failed") == (facts.accuracy_drop_interval[0] > 0)


def test_a_share_just_above_the_limit_asks_for_no_number_of_images():
    """More than a million images would be needed to tell 0.501 % from 0.5 %."""
    facts = facts_of(40_000, 0, 0, 196, sure=39_000, sure_flips=196)
    (doubt,) = judge_parity(facts, DEFAULT_RULE).doubts
    assert "196 of 39000" in doubt
    assert "would tell" not in doubt


def test_an_interval_that_reaches_over_the_limit_does_not_look_as_if_it_ended_there():
    (doubt,) = judge_parity(facts_of(379), DEFAULT_RULE).doubts
    assert "by more than 1 point cannot be told: it falls by 0 points (95 % interval -1.01 to 1.01)" in doubt


def test_a_rule_of_other_numbers_judges_by_them():
    facts = facts_of(400, 12)
    assert judge_parity(facts, GateRule(max_accuracy_drop=0.06)).outcome == "passed"
    assert judge_parity(facts_of(400, 0, 4, sure_flips=4), GateRule(min_sure_agreement=0.99)).outcome == "passed"


@pytest.mark.parametrize("limits", [DEFAULT_RULE, GateRule(0.02, 0.99), INT8_LIMITS, FP32_LIMITS, ParityLimits(0.5)])
def test_limits_come_back_from_their_record(limits):
    assert recorded_limits({"limits": limits_record(limits)}) == limits
    assert describe_limits(limits)


@pytest.mark.parametrize(
    "parity",
    [
        None,
        {},
        {"limits": 5},
        {"limits": {"rule": "of a later version"}},
        {"limits": {"rule": "evidence"}},
        {"limits": {"min_agreement": 7}},
        {"limits": {"strange": 1}},
    ],
)
def test_a_record_in_no_known_form_is_no_limit(parity):
    assert recorded_limits(parity) is None


def test_the_record_of_an_earlier_version_is_read():
    old = {"limits": {"min_agreement": 0.99, "max_error": None, "max_accuracy_drop": 0.01}}
    assert recorded_limits(old) == INT8_LIMITS


def test_two_fp32_models_keep_the_limits_of_fp32():
    assert limits_between("fp32", "fp32", DEFAULT_RULE) == FP32_LIMITS
    assert limits_between("int8", "fp32", DEFAULT_RULE) == DEFAULT_RULE


@pytest.mark.parametrize(("lost", "won"), [(0.01, 0.0), (0.015, 0.005), (0.03, 0.02), (0.06, 0.05)])
def test_a_point_less_accuracy_at_400_images_is_refused_or_undecided(rng, lost, won):
    repetitions = 2000
    flips = rng.multinomial(400, [lost, won, 1 - lost - won], size=repetitions)
    counts, times = np.unique(flips[:, :2], axis=0, return_counts=True)
    passed = sum(
        int(often)
        for (harmful, beneficial), often in zip(counts.tolist(), times, strict=True)
        if judge_parity(facts_of(400, harmful, beneficial), DEFAULT_RULE).outcome == "passed"
    )
    # 5 % at most, and four standard errors of the simulation; the interval leaves 2.5 %.
    assert passed / repetitions <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repetitions)


def test_a_network_trained_anew_is_judged_by_its_accuracy_alone():
    # A quarter of the labels changes, sure ones among them, and more than errors explain: another network may do that.
    other = facts_of(1000, 100, 110, 40, sure_flips=50, expected_high=5)
    assert judge_parity(other, DEFAULT_RULE).outcome == "failed"
    assert judge_replacement(replace(other, harmful_flips=10, beneficial_flips=60), DEFAULT_RULE) == Verdict()
    worse = judge_replacement(facts_of(1000, 110, 40), DEFAULT_RULE)
    assert worse.outcome == "failed"
    assert "against the network before it was trained for 8 bits: accuracy falls by 7 points" in worse.failures[0]
    undecided = judge_replacement(facts_of(100, 3, 1), DEFAULT_RULE)
    assert undecided.outcome == "undecided"
    assert "images would tell" in undecided.doubts[0]


def test_limits_of_the_user_hold_for_a_network_trained_anew_as_measured():
    facts = facts_of(1000, 20, 10)
    assert judge_replacement(facts, ParityLimits(0.0, max_accuracy_drop=0.01)).outcome == "passed"
    assert judge_replacement(facts, ParityLimits(0.0, max_accuracy_drop=0.009)).outcome == "failed"
    assert judge_replacement(facts, ParityLimits(0.97, max_accuracy_drop=0.5)).outcome == "passed"
    assert "agreement 0.9700" in judge_replacement(facts, ParityLimits(0.98, max_accuracy_drop=0.5)).failures[0]
    no_number = replace(facts, max_error=math.nan)
    for limits in (DEFAULT_RULE, ParityLimits(0.0, max_accuracy_drop=0.5)):
        assert judge_replacement(no_number, limits).outcome == "failed"


@pytest.mark.parametrize("limits", [DEFAULT_RULE, FP32_LIMITS, ParityLimits(0.5)])
def test_agreement_with_a_reference_that_answers_all_images_alike_says_nothing(limits):
    alike = np.tile(np.array([0.7, 0.2, 0.1]), (600, 1))
    verdict = judge_parity(compare_probabilities(alike, alike, "validation"), limits)
    assert (verdict.outcome, len(verdict.doubts)) == ("undecided", 1)
    assert "the same probabilities" in verdict.doubts[0]
    # One image that differs is enough to tell.
    alike[0] = [0.2, 0.7, 0.1]
    assert judge_parity(compare_probabilities(alike, alike, "validation"), limits).outcome == "passed"


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def margins(probabilities):
    largest = np.sort(probabilities, axis=1)
    return largest[:, -1] - largest[:, -2]


def hard_logits(rng, images, classes, deviation=None):
    """Logits of a network that is sure of no image."""
    logits = rng.normal(0, deviation or (0.4 if classes == 2 else 0.6), (4 * images, classes))
    return logits[margins(softmax(logits)) <= SURE_MARGIN][:images]


def without_relation(facts):
    return replace(facts, far_flips=None, chance_agreement=None, correlation=None, correlation_high=None)


# What has nothing to do with the logits of the images.
DISASTERS = {
    "sure nonsense": lambda logits, rng: rng.normal(0, 8.0, logits.shape),
    "unsure nonsense": lambda logits, rng: logits[rng.permutation(len(logits))],
    "one answer, unsure": lambda logits, rng: np.tile(rng.normal(0, 0.2, logits.shape[1]), (len(logits), 1)),
    "one answer, sure": lambda logits, rng: np.tile(np.eye(logits.shape[1])[0] * 9, (len(logits), 1)),
    "one answer and noise": lambda logits, rng: rng.normal(0, 0.2, logits.shape[1]) + rng.normal(0, 1e-3, logits.shape),
    "uniform": lambda logits, rng: np.zeros(logits.shape),
    "uniform and noise": lambda logits, rng: rng.normal(0, 1e-3, logits.shape),
    "the contrary": lambda logits, rng: -logits,
    "classes moved": lambda logits, rng: np.roll(logits, 1, axis=1),
    "one class always": lambda logits, rng: 0.3 * logits + 2 * np.eye(logits.shape[1])[0],
}


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("images", "classes"), [(400, 2), (300, 3), (100, 10), (60, 200)])
@pytest.mark.parametrize("name", DISASTERS)
def test_a_file_that_has_nothing_to_do_with_a_network_that_is_sure_of_no_image_fails(
    rng, name, images, classes, labelled
):
    logits = hard_logits(rng, images, classes)
    reference, candidate = softmax(logits), softmax(DISASTERS[name](logits, rng))
    true = rng.integers(0, classes, images) if labelled else None
    facts = compare_probabilities(reference, candidate, "validation", true)
    assert facts.sure_images == 0
    assert facts.agreement < 0.75
    # Labels by lot may let nonsense win more images than it loses, which passes as it always did.
    passes = labelled and judge_parity(without_relation(facts), DEFAULT_RULE).outcome == "passed"
    assert judge_parity(facts, DEFAULT_RULE).outcome == ("passed" if passes else "failed")
    # The negative case: the network's own answers pass, and a rounded file is judged by its labels.
    assert judge_parity(compare_probabilities(reference, reference, "validation", true), DEFAULT_RULE) == Verdict()
    rounded = softmax(logits + rng.normal(0, 0.12, logits.shape))
    kept = compare_probabilities(reference, rounded, "validation", true)
    assert judge_parity(kept, DEFAULT_RULE) == judge_parity(without_relation(kept), DEFAULT_RULE)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_nonsense_of_which_the_file_is_sure_fails_on_some_of_the_images_too(rng, share):
    logits = hard_logits(rng, 400, 9)
    changed = np.where(rng.random((400, 1)) < share, rng.normal(0, 8.0, logits.shape), logits)
    facts = compare_probabilities(softmax(logits), softmax(changed), "validation")
    assert facts.sure_flips == 0
    verdict = judge_parity(facts, DEFAULT_RULE)
    assert verdict.outcome == "failed"
    assert f"{facts.far_flips} of 400 validation images get another label by more than rounding" in verdict.failures[0]


def test_one_class_for_all_fails_where_most_images_are_of_it(rng):
    logits = hard_logits(rng, 900, 2)
    # Four of five images are of the first class.
    first = logits[:, 0] > logits[:, 1]
    logits = np.concatenate([logits[first][:320], logits[~first][:80]])
    one_answer = np.tile(logits.mean(axis=0), (len(logits), 1))
    facts = compare_probabilities(softmax(logits), softmax(one_answer), "validation")
    assert facts.agreement == 0.8
    assert "do not go with the float network's" in judge_parity(facts, DEFAULT_RULE).failures[-1]


@pytest.mark.parametrize("classes", [2, 9, 100])
@pytest.mark.parametrize("images", [8, 40, 400])
@pytest.mark.parametrize(
    "kind", ["no sure image", "one scene, two classes alike", "hardly anything told apart", "most of one class"]
)
def test_rounded_files_of_hard_images_stay_undecided(rng, kind, images, classes):
    logits = {
        "no sure image": hard_logits(rng, images, classes),
        "one scene, two classes alike": rng.normal(0, 0.03, (images, classes)) - 3 * (np.arange(classes) > 1),
        "hardly anything told apart": rng.normal(0, 0.14, (images, classes)),
        "most of one class": rng.normal(0, 0.2, (images, classes)) + 0.4 * np.eye(classes)[0],
    }[kind]
    rounded = logits + rng.normal(0, 0.12, logits.shape)
    facts = compare_probabilities(softmax(logits), softmax(rounded), "validation")
    assert judge_parity(facts, DEFAULT_RULE) == judge_parity(without_relation(facts), DEFAULT_RULE)


@given(
    comparisons(),
    st.integers(0, 400),
    st.floats(0, 1),
    st.none() | st.floats(-1, 1),
    st.floats(0, 2),
)
def test_the_relation_fails_what_was_undecided_and_nothing_else(facts, far_flips, chance, correlation, width):
    high = None if correlation is None else min(1.0, correlation + width)
    known = replace(
        facts,
        far_flips=min(far_flips, facts.flips),
        chance_agreement=chance,
        correlation=correlation,
        correlation_high=high,
    )
    before, after = judge_parity(facts, DEFAULT_RULE), judge_parity(known, DEFAULT_RULE)
    assert (before.outcome, after.outcome) in {
        ("passed", "passed"),
        ("undecided", "undecided"),
        ("undecided", "failed"),
        ("failed", "failed"),
    }
    assert set(before.failures) <= set(after.failures)
    if not parity_failures(facts, INT8_LIMITS):
        assert after.outcome == before.outcome


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        # 45 of 400 may be 10 % by chance, 55 not.
        ({"far_flips": 45}, "undecided"),
        ({"far_flips": 55}, "failed"),
        # Agreement by chance; with a correlation as well, unless chance alone lets most agree.
        ({"chance_agreement": 0.62, "correlation": 0.0, "correlation_high": 0.1}, "failed"),
        ({"chance_agreement": 0.62, "correlation": 0.8, "correlation_high": 0.9}, "failed"),
        ({"chance_agreement": 0.5, "correlation": 0.1, "correlation_high": 0.2}, "failed"),
        ({"chance_agreement": 0.4, "correlation": 0.1, "correlation_high": 0.2}, "undecided"),
        ({"chance_agreement": 0.55, "correlation": 0.1, "correlation_high": 0.2}, "failed"),
        ({"chance_agreement": 0.55, "correlation": 0.1, "correlation_high": 0.4}, "undecided"),
        # Images all alike to the network, or one label alone: nothing to tell by.
        ({"chance_agreement": 0.62}, "undecided"),
        ({"chance_agreement": 1.0, "correlation": 0.0, "correlation_high": 0.1}, "undecided"),
    ],
)
def test_the_limits_of_the_relation(changes, outcome):
    # 240 of 400 labels agree, and nobody knows which are right.
    nothing = {"reference_accuracy": None, "candidate_accuracy": None, "harmful_flips": None, "beneficial_flips": None}
    facts = facts_of(400, 0, 0, 160, sure=0, **nothing)
    assert judge_parity(facts, DEFAULT_RULE).outcome == "undecided"
    assert judge_parity(replace(facts, **changes), DEFAULT_RULE).outcome == outcome
