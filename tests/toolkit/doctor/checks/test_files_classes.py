"""What the checks of files and of the class mix say, and what they do not."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeclf.toolkit.doctor.checks.classes import find_imbalance, find_too_few, training_counts
from edgeclf.toolkit.doctor.facts import Facts, ModelFacts, RunFacts
from edgeclf.toolkit.doctor.findings import CAUSES, SEVERITIES, Finding, most_important_first, split_remedy, summary
from edgeclf.toolkit.doctor.registry import all_checks, checks_for, examine

pytestmark = pytest.mark.slow


def by_cause(facts):
    return {finding.cause: finding for finding in examine(facts)}


def change(path, image_change):
    cv2.imwrite(str(path), image_change(cv2.imread(str(path)).astype(np.float64)).clip(0, 255).astype(np.uint8))


def test_a_clean_folder_has_nothing_but_what_was_not_looked_at(write_folder, gather):
    found = examine(gather(write_folder({"cat": 60, "dog": 60})))
    # Crops drawn at random may come to lie almost on each other.
    findings = [finding for finding in found if finding.cause != "duplicates"]
    assert {finding.severity for finding in findings} == {"note"}
    # Without the pretrained network nobody can say anything about labels, which is said.
    findings = [finding for finding in findings if finding.cause != "label-noise"]
    assert {finding.cause for finding in findings} == {"unchecked"}
    assert summary(findings, "it") == "Nothing wrong was found in it."


def test_odd_images_are_told_from_the_others(write_folder, gather, crop):
    root = write_folder({"cat": 60, "dog": 60})
    change(root / "cat/0001.jpg", lambda image: image * 0 + 90)
    change(root / "cat/0002.jpg", lambda image: cv2.GaussianBlur(image, (0, 0), 9))
    change(root / "cat/0003.jpg", lambda image: image * 0.15 - 12)
    change(root / "dog/0004.jpg", lambda image: image * 0.2 + 235)
    change(root / "dog/0005.jpg", lambda image: image.mean(axis=2, keepdims=True).repeat(3, axis=2))
    cv2.imwrite(str(root / "dog/0006.jpg"), crop(60, 400))
    cv2.imwrite(str(root / "dog/0007.jpg"), crop(12, 12))
    found = by_cause(gather(root))
    # A crop may be so bright, or so dark, that nothing is left of it.
    assert "cat/0001.jpg" in found["blank"].items
    assert set(found["blank"].items) <= {"cat/0001.jpg", "cat/0003.jpg", "dog/0004.jpg"}
    assert found["blank"].severity == "warning"
    assert found["blurred"].items == ("cat/0002.jpg",)
    exposed = found["exposure"].items if "exposure" in found else ()
    assert set(exposed) <= {"cat/0003.jpg", "dog/0004.jpg"}
    assert "dog/0004.jpg" in (*exposed, *found["blank"].items)
    assert "dog/0005.jpg" in found["grey"].items
    assert set(found["odd-size"].items) == {"dog/0006.jpg", "dog/0007.jpg"}
    assert found["blurred"].evidence["by_class"] == {"cat": 1}
    assert "1 of 120 images has" in found["blurred"].title
    assert "2 of 120 images have" in found["odd-size"].title


def test_what_all_images_are_like_is_not_odd(write_folder, gather):
    root = write_folder({"cat": 20, "dog": 20})
    for path in root.rglob("*.jpg"):
        change(path, lambda image: cv2.GaussianBlur(image.mean(axis=2), (0, 0), 6) * 0.2 + 235)
    assert not {"blurred", "exposure", "grey", "odd-size"} & set(by_cause(gather(root)))


def test_many_odd_images_are_a_warning(write_folder, gather):
    root = write_folder({"cat": 30, "dog": 30})
    for number in range(9):
        change(root / f"cat/{number:04d}.jpg", lambda image: image.mean(axis=2))
    grey = by_cause(gather(root))["grey"]
    assert (grey.severity, grey.evidence["count"], grey.evidence["images"]) == ("warning", 9, 60)


def test_orientation_and_formats_are_notes(write_folder, gather):
    root = write_folder({"cat": 12, "dog": 12})
    picture = Image.open(root / "cat/0003.jpg")
    exif = picture.getexif()
    exif[274] = 6
    picture.save(root / "cat/0003.jpg", exif=exif)
    (root / "dog/0002.jpg").rename(root / "dog/0002b.jpg")
    cv2.imwrite(str(root / "dog/other.png"), cv2.imread(str(root / "dog/0001.jpg")))
    found = by_cause(gather(root))
    assert (found["rotated"].severity, found["rotated"].items) == ("note", ("cat/0003.jpg",))
    assert found["mixed-formats"].evidence["counts"] == {"jpeg": 24, "png": 1}
    assert found["mixed-formats"].items == ("dog/other.png",)


@pytest.mark.parametrize(("broken", "severity"), [(1, "warning"), (4, "problem")])
def test_unreadable_files_are_named(write_folder, gather, broken, severity):
    root = write_folder({"cat": 75, "dog": 75})
    for number in range(broken):
        (root / f"dog/{number:04d}.jpg").write_bytes(b"\xff\xd8\xff\xe0 not whole")
    finding = by_cause(gather(root))["unreadable"]
    assert (finding.severity, finding.evidence["count"], len(finding.items)) == (severity, broken, broken)


def test_files_that_are_no_images_by_their_names_are_counted(write_folder, gather):
    root = write_folder({"cat": 40, "dog": 40})
    assert "not-read" not in by_cause(gather(root))
    for number in range(3):
        (root / f"dog/{number}.cr2").write_bytes(b"\0")
    (root / "cat/more.txt").write_bytes(b"")
    finding = by_cause(gather(root))["not-read"]
    assert finding.severity == "warning"
    assert finding.evidence == {"count": 4, "kinds": {".cr2": 3, ".txt": 1}}
    assert finding.title == "4 files in the class folders are not read: 3 .cr2, 1 .txt"


def test_class_folders_that_have_the_classes_inside(write_folder, gather):
    root = write_folder({f"site {place}/{label}": 4 for place in "ab" for label in ("cat", "dog")})
    finding = by_cause(gather(root))["layout"]
    assert finding.evidence == {"classes": ["site a", "site b"], "inside": ["cat", "dog"]}
    (root / "site a/loose.jpg").write_bytes((root / "site a/cat/0000.jpg").read_bytes())
    assert "layout" not in by_cause(gather(root))


def test_a_refusal_is_a_problem_in_training_s_own_words(write_folder, gather):
    root = write_folder({"cat": 60})
    first = examine(gather(root))[0]
    assert (first.cause, first.severity, first.fix) == ("refused", "problem", "Add another class folder")
    assert first.title.startswith(f"Training would refuse this data: {root} has one class only")


def test_images_without_labels_get_the_checks_of_files_only(write_folder, gather):
    facts = gather(write_folder({"": 8}))
    assert {check.theme for check in checks_for(facts)} == {"files"}
    findings = examine(facts)
    assert findings[0].cause == "refused"
    (note,) = [finding for finding in findings if finding.cause == "unchecked"]
    assert "no labels" in note.title


def test_a_sample_says_so(write_folder, gather):
    findings = examine(gather(write_folder({"cat": 30, "dog": 30}), max_images=20))
    assert any(f.evidence == {"looked_at": 20, "images": 60} and f.severity == "note" for f in findings)
    # How many there are cannot be told from a sample.
    assert "too-few" not in {f.cause for f in findings}


def run_facts(counts, **options):
    from pathlib import Path

    return RunFacts(Path("run"), "some data", options, [], {}, {}, tuple(sorted(counts)), {"train": counts}, {})


@pytest.mark.parametrize(
    ("rare", "frequent", "severity"),
    [
        (60, 100, None),
        (60, 130, "note"),
        (60, 250, "warning"),
        (500, 5100, "warning"),
        (60, 620, "problem"),
        (8, 40, "problem"),
    ],
)
def test_imbalance_by_ratio_and_count(rare, frequent, severity):
    found = find_imbalance(Facts(run=run_facts({"cat": frequent, "dog": rare})))
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    for finding in found:
        assert finding.evidence["rarest"] == "dog"
        assert finding.evidence["ratio"] == round(frequent / rare, 2)
        assert "`edgeclf train 'some data' --run RUN --balance weights --monitor val_macro_f1`" in finding.fix


def test_a_run_that_balances_already_is_not_told_to():
    (finding,) = find_imbalance(Facts(run=run_facts({"cat": 500, "dog": 50}, balance="weights")))
    assert "--balance" not in finding.fix


def test_the_class_that_suffers_is_named_only_when_it_does(rng):
    run = run_facts({"cat": 500, "dog": 50})
    true = np.repeat([0, 1], [400, 100])

    def field(recall_of_dogs):
        right = np.where(true == 0, rng.random(500) < 0.97, rng.random(500) < recall_of_dogs)
        predicted = np.where(right, true, 1 - true)
        return ModelFacts("test", ("",) * 500, true, np.eye(2, dtype=np.float32)[predicted], {}, None)

    (suffers,) = find_imbalance(Facts(run=run, model=field(0.6)))
    assert suffers.evidence["recall"]["rarest"] == pytest.approx(0.6, abs=0.2)
    assert "it is recognized in" in suffers.title
    (not_so,) = find_imbalance(Facts(run=run, model=field(0.97)))
    assert "recall" not in not_so.evidence


def test_only_training_images_count(write_folder, gather):
    facts = gather(write_folder({"train/cat": 40, "train/dog": 10, "test/cat": 5, "test/dog": 35}))
    assert training_counts(facts) == {"cat": 40, "dog": 10}
    facts = gather(write_folder({"cat": 9, "dog": 4}, name="whole"))
    assert training_counts(facts) == {"cat": 9, "dog": 4}


@pytest.mark.parametrize(("counts", "severity"), [((49, 70), "warning"), ((9, 12), "problem"), ((50, 51), None)])
def test_too_few_images_of_a_class(counts, severity):
    found = find_too_few(Facts(run=run_facts(dict(zip(("cat", "dog"), counts, strict=True)))))
    assert [finding.severity for finding in found] == ([severity] if severity else [])


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(0, 10_000), max_size=8))
def test_any_class_mix_gives_at_most_one_finding_that_json_can_hold(counts):
    import json

    facts = Facts(run=run_facts(counts))
    for find in (find_imbalance, find_too_few):
        found = find(facts)
        assert len(found) <= 1
        json.dumps([finding.to_json() for finding in found])


def test_every_check_is_described_and_named_once():
    checks = all_checks()
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", check.name)
        assert set(check.causes) <= set(CAUSES)
        assert len(check.condition) > 20


def test_a_missing_package_is_a_note_and_the_other_checks_run(write_folder, gather, monkeypatch):
    from edgeclf.runtime.errors import MissingPackageError
    from edgeclf.toolkit.doctor import registry as checks

    def missing(_facts):
        raise MissingPackageError(
            "no statistics", expected="the extra [doctor]", hint='run pip install "edgeclf[doctor]"'
        )

    given_checks = all_checks()
    broken = replace(given_checks[0], name="broken", find=missing)
    monkeypatch.setattr(checks, "all_checks", lambda: (broken, *given_checks))
    findings = examine(gather(write_folder({"cat": 9, "dog": 90})))
    assert "imbalance" in {finding.cause for finding in findings}
    (note,) = [finding for finding in findings if finding.evidence.get("checks") == ["broken"]]
    assert (note.cause, note.severity, note.fix) == ("unchecked", "note", 'Run pip install "edgeclf[doctor]"')


def test_the_most_important_comes_first(rng):
    causes = list(CAUSES)
    findings = [
        Finding(str(rng.choice(causes)), str(rng.choice(SEVERITIES)), "t", "f", weight=float(rng.random()))
        for _ in range(200)
    ]
    keys = [(SEVERITIES.index(f.severity), causes.index(f.cause), -f.weight) for f in most_important_first(findings)]
    assert keys == sorted(keys)


@pytest.mark.parametrize("wrong", [{"cause": "bad luck"}, {"severity": "fatal"}, {"details": ("one",)}])
def test_a_finding_must_be_known(wrong):
    with pytest.raises(ValueError, match=r"unknown|details"):
        Finding(**{"cause": "blank", "severity": "note", "title": "t", "fix": "f", **wrong})


def test_a_sentence_is_split_at_its_remedy():
    assert split_remedy("bad: got a; b, expected c; mend it.") == ("bad: got a; b, expected c", "Mend it")
    assert split_remedy("bad.") == ("bad", "")
