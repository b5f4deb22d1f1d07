"""Tables of parity: the row that the headline quotes is the one that is marked, and intervals do not look narrower."""

from pathlib import Path

import pytest

from edgeclf.export import Candidate, ExportReport, ParityFacts, Recommendation, Verdict
from edgeclf.export.verify.rejection import RejectionFit
from edgeclf.export.verify.verdict import DEFAULT_RULE
from edgeclf.runtime.timing.comparison import LatencyFigures, Ratio
from edgeclf.toolkit.reports.parity import parity_cells, parity_notes, print_export, unlabelled_warning


def facts_of(agreement, mean_error=1e-3, **figures):
    return ParityFacts("validation", 379, agreement, 0.1, mean_error, 0.9, 0.9, **figures)


def report_of(recipes, *, rejection=None, verdict=None):
    fp32 = Candidate("fp32", 1000, (facts_of(1.0),))
    int8 = Candidate("int8", 300, recipes[0].parity, verdict or recipes[0].verdict, rejection=rejection)
    return ExportReport(
        out=Path("m.onnx"),
        written=False,
        precision="int8",
        written_precision=None,
        limits=DEFAULT_RULE,
        candidates=(fp32, int8),
        recommendation=Recommendation("fp32", "why"),
        recipes=tuple(recipes),
    )


def timed(name, facts, ratio):
    latency = LatencyFigures(ratio, ratio, ratio, rounds=60, batch_size=1, threads=1, provider="CPUExecutionProvider")
    return Candidate(name, 300, (facts,), Verdict(), latency, Ratio(ratio, ratio, ratio))


def rows_of(text, *names):
    return {name: line for line in text.splitlines() for name in names if f" {name} " in line}


def test_the_first_recipe_is_marked_though_another_agrees_on_more_images(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    failed = Verdict(("missed",))
    # Chance decides between the two by agreement, and the mean error decides in fact.
    steady = Candidate("steady", 300, (facts_of(0.9894, 1e-3),), failed)
    lucky = Candidate("lucky", 300, (facts_of(0.9921, 2e-3),), failed)
    print_export(report_of([steady, lucky]), "a CPU")
    out = capsys.readouterr().out
    rows = rows_of(out[out.index("int8 recipes") :], "steady", "lucky")
    # Nothing passed, so nothing was chosen.
    assert "best" in rows["steady"]
    assert "best" not in rows["lucky"]
    assert "chosen" not in out
    assert "none better" not in out
    assert "0.9894" in rows_of(out[: out.index("One image")], "int8")["int8"]


def test_timed_recipes_that_are_as_good_in_their_way_are_marked_so(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    recipes = [
        timed("close", facts_of(0.999), 0.8),
        timed("quick", facts_of(0.99), 0.5),
        timed("neither", facts_of(0.98), 0.8),
    ]
    print_export(report_of(recipes), "a CPU")
    out = capsys.readouterr().out
    rows = rows_of(out[out.index("int8 recipes") :], "close", "quick", "neither")
    assert [("chosen" in row, "none better" in row) for row in rows.values()] == [
        (True, False),
        (False, True),
        (False, False),
    ]


def test_the_interval_of_the_loss_is_rounded_outwards():
    cells = parity_cells(facts_of(1.0, harmful_flips=0, beneficial_flips=0), "undecided")
    assert cells[-2:] == ["0.0 (-1.1 to 1.1)", "undecided"]
    assert parity_cells(facts_of(1.0), "-")[-2:] == ["-", "-"]


def test_expected_agreement_and_decisions_are_told_where_they_are_known():
    figures = {"expected_flips": 3.79, "expected_flips_low": 0, "expected_flips_high": 19}
    label, accuracy = parity_notes(facts_of(0.99, **figures))
    assert label == (
        "On validation images the same label for 0.9900 (95 % interval 0.9731 to 0.9959); errors of the measured size let "
        "expect 0.9900 (0.9499 to 1.0000)."
    )
    assert accuracy == (
        "On validation images accuracy 0.9000 (95 % interval 0.8653 to 0.9261) before, "
        "0.9000 (95 % interval 0.8653 to 0.9261) after."
    )
    decisions = {"decision_agreement": 0.97, "reference_rejected": 0.05, "candidate_rejected": 0.04}
    *_, line = parity_notes(facts_of(0.99, **decisions))
    assert "label or unknown, for 0.9700; unknown were 0.0500 before, 0.0400 after" in line
    unlabelled = ParityFacts("given", 20, 0.95, 0.1, 1e-3, None, None)
    assert parity_notes(unlabelled) == ["On given images the same label for 0.9500 (95 % interval 0.7638 to 0.9912)."]


@pytest.mark.parametrize("threshold", [0.6, 0.55])
def test_a_threshold_of_the_files_own_is_told(capsys, monkeypatch, threshold):
    monkeypatch.setenv("COLUMNS", "200")
    fit = RejectionFit(0.05, 0.6, 0.05, 0.08, threshold, 0.05, 0.07)
    print_export(report_of([Candidate("one", 300, (facts_of(1.0),))], rejection=fit), "a CPU")
    told = "The rejection threshold is 0.5500 in this file" in " ".join(capsys.readouterr().out.split())
    assert told == (threshold != 0.6)


def test_many_changed_labels_where_none_is_known_are_a_warning():
    def unlabelled(agreement, images):
        return ParityFacts("validation", images, agreement, 0.1, 1e-3, None, None)

    assert "27 of 184 validation images get another label" in unlabelled_warning(unlabelled(157 / 184, 184))
    # Few images with a changed label prove nothing, and accuracy says more where it is known.
    assert unlabelled_warning(unlabelled(19 / 20, 20)) is None
    assert unlabelled_warning(unlabelled(1.0, 400)) is None
    assert unlabelled_warning(facts_of(0.8)) is None
