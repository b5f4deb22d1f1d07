from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.runtime.progress import no_progress
from edgeclf.toolkit.doctor.checks import hidden_class, shortcuts, split, split_shift
from edgeclf.toolkit.doctor.facts import DataFacts, Facts, Features, ImageTable, ModelFacts
from edgeclf.toolkit.doctor.findings import Finding
from edgeclf.toolkit.doctor.gather.data import gather_data

pytestmark = pytest.mark.slow

Change = Callable[[np.ndarray], np.ndarray]
SPLIT_CHECKS = (*hidden_class.CHECKS, *split_shift.CHECKS, *split.CHECKS)
COUNTS = {"train": 50, "test": 30}


def crops(name: str, count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Crops of a photograph, seen under light that varies from one to the next."""
    image = np.ascontiguousarray(getattr(photographs, name)()[..., ::-1])
    found = []
    for _ in range(count):
        side = int(generator.uniform(0.3, 0.6) * min(image.shape[:2]))
        top, left = (int(generator.integers(0, full - side)) for full in image.shape[:2])
        crop = cv2.resize(image[top : top + side, left : left + side], (128, 104), interpolation=cv2.INTER_AREA)
        found.append(np.clip(crop * generator.uniform(0.7, 1.2), 0, 255).astype(np.uint8))
    return found


def write(
    root: Path,
    generator: np.random.Generator,
    *,
    test: Change | None = None,
    by_class: Mapping[str, Change] | None = None,
    correlated: float = 1.0,
    counts: Mapping[tuple[str, str], int] | None = None,
    suffix: Callable[[str, str], str] = lambda _part, _label: ".jpg",
    quality: Callable[[str], int] = lambda _part: 92,
) -> Path:
    for part, usual in COUNTS.items():
        for label in ("astronaut", "coffee"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number, crop in enumerate(crops(label, (counts or {}).get((part, label), usual), generator)):
                image = test(crop) if test and part == "test" else crop
                if by_class:
                    change = by_class.get(label, lambda same: same)
                    other = next(iter(by_class.values()))
                    image = (
                        change(image)
                        if generator.random() < correlated
                        else (image if label in by_class else other(image))
                    )
                options = [cv2.IMWRITE_JPEG_QUALITY, quality(part)] if suffix(part, label) == ".jpg" else []
                cv2.imwrite(str(folder / f"{number}{suffix(part, label)}"), image, options)
    return root


def facts_of(root: Path) -> DataFacts:
    return gather_data(root, max_features=0, progress=no_progress)


def found_by(checks: tuple, data: DataFacts, cause: str) -> list[Finding]:
    facts = Facts(data=data)
    return [finding for check in checks for finding in check.find(facts) if finding.cause == cause]


@pytest.fixture
def generator() -> np.random.Generator:
    """A generator for each test, so that no test depends on which ran before it."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> DataFacts:
    return facts_of(write(tmp_path_factory.mktemp("clean"), np.random.default_rng(0)))


def test_clean_splits_have_no_problem(clean):
    findings = [f for check in (*SPLIT_CHECKS, *shortcuts.CHECKS) for f in check.find(Facts(data=clean))]
    assert [f for f in findings if f.severity == "problem"] == []
    assert not [
        f for f in findings if f.cause in {"split-shift", "prior-shift", "hidden-class"} and f.severity != "note"
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", lambda image: (image * 0.6).astype(np.uint8)),
        ("blur", lambda image: cv2.GaussianBlur(image, (0, 0), 2.0)),
        ("resolution", lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
        (
            "noise",
            lambda image: np.clip(image + np.random.default_rng(0).normal(0, 10, image.shape), 0, 255).astype(np.uint8),
        ),
        ("contrast", lambda image: ((image - image.mean()) * 0.5 + image.mean()).astype(np.uint8)),
        ("colour", lambda image: (image * np.array([1.0, 1.0, 0.7])).astype(np.uint8)),
        (
            "border",
            lambda image: cv2.copyMakeBorder(image[8:-8, 8:-8], 8, 8, 8, 8, cv2.BORDER_CONSTANT, value=(0, 0, 0)),
        ),
    ],
)
def test_the_property_that_differs_is_named(tmp_path, generator, name, change):
    data = facts_of(write(tmp_path, generator, test=change))
    (finding,) = found_by(SPLIT_CHECKS, data, "split-shift")
    # A weaker blue is not much in an image that has little of it.
    assert finding.severity == "problem" or (name, finding.severity) == ("colour", "warning")
    assert finding.evidence["property"] == name
    assert finding.evidence["part"] == "test"
    assert all(path.startswith("test/") for path in finding.items)


def test_strong_compression_is_named_but_not_a_change_of_the_encoder(tmp_path, generator):
    data = facts_of(write(tmp_path / "q20", generator, quality=lambda part: 20 if part == "test" else 92))
    (finding,) = found_by(SPLIT_CHECKS, data, "split-shift")
    assert (finding.evidence["property"], finding.severity) == ("compression", "problem")
    data = facts_of(write(tmp_path / "q98", generator, quality=lambda part: 98 if part == "test" else 85))
    (finding,) = found_by(SPLIT_CHECKS, data, "split-shift")
    assert finding.evidence["property"] in {"encoding", "compression"}
    assert finding.severity == "note"


def test_a_shift_is_looked_for_within_classes(tmp_path, generator):
    # Coffee is brighter than the astronaut; more of it in test is another mix and nothing else.
    counts = {("train", "astronaut"): 80, ("train", "coffee"): 20, ("test", "astronaut"): 12, ("test", "coffee"): 48}
    data = facts_of(write(tmp_path, generator, counts=counts))
    (finding,) = found_by(SPLIT_CHECKS, data, "prior-shift")
    assert finding.severity == "problem"
    assert "coffee" in finding.title or "astronaut" in finding.title
    assert [f for f in found_by(SPLIT_CHECKS, data, "split-shift") if f.severity != "note"] == []


def frame(image: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(image[6:-6, 6:-6], 6, 6, 6, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def mark(image: np.ndarray) -> np.ndarray:
    marked = image.copy()
    cv2.rectangle(marked, (100, 88), (124, 100), (0, 0, 0), -1)
    cv2.putText(marked, "'98", (101, 98), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (30, 160, 250), 1)
    return marked


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("border", frame),
        ("corner", mark),
        ("resolution", lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)),
    ],
)
@pytest.mark.parametrize("correlated", [1.0, 0.9])
def test_what_gives_the_label_away_is_named(tmp_path, generator, name, change, correlated):
    data = facts_of(write(tmp_path, generator, by_class={"coffee": change}, correlated=correlated))
    findings = found_by(shortcuts.CHECKS, data, "shortcut")
    assert findings[0].evidence["feature"] == name
    assert findings[0].severity in {"problem", "warning"}
    if correlated == 1.0:
        assert findings[0].severity == "problem"
        assert findings[0].evidence["accuracy"] > 0.9
    if name == "corner":
        assert findings[0].evidence["corner"] == "bottom right"


def test_a_format_for_each_class_is_a_shortcut(tmp_path, generator):
    data = facts_of(write(tmp_path, generator, suffix=lambda _part, label: ".png" if label == "coffee" else ".jpg"))
    (finding,) = found_by(shortcuts.CHECKS, data, "shortcut")
    assert (finding.evidence["feature"], finding.severity) == ("format", "problem")
    assert finding.evidence["accuracy"] == 1.0


def test_a_format_for_one_split_is_worth_a_warning(tmp_path, generator):
    data = facts_of(write(tmp_path, generator, suffix=lambda part, _label: ".png" if part == "test" else ".jpg"))
    (finding,) = found_by(SPLIT_CHECKS, data, "split-shift")
    assert (finding.evidence["property"], finding.severity) == ("format", "warning")


def with_features(data: DataFacts, vectors: np.ndarray) -> DataFacts:
    features = Features(np.arange(len(data.images)), vectors.astype(np.float32), "test")
    return replace(data, features=features)


def spread_vectors(data: DataFacts, generator: np.random.Generator) -> np.ndarray:
    centres = generator.normal(size=(2, 40)) * 1.5
    return centres[data.images.labels] + generator.normal(size=(len(data.images), 40))


@pytest.mark.parametrize("part", ["test", "train"])
def test_a_kind_that_one_split_alone_has_is_found(clean, generator, part):
    vectors = spread_vectors(clean, generator)
    rows = clean.images.rows_of(part)
    chosen = generator.permutation(rows[clean.images.labels[rows] == 1])[:6]
    vectors[chosen] = generator.normal(size=40) * 4 + generator.normal(size=(6, 40))
    data = with_features(clean, vectors)
    (finding,) = found_by(hidden_class.CHECKS, data, "hidden-class")
    assert finding.severity == "problem"
    assert set(finding.items) == {clean.images.paths[row] for row in chosen}
    assert (finding.evidence["part"], finding.evidence["class"]) == (part, "coffee")


def test_a_kind_that_both_splits_have_is_not_hidden(clean, generator):
    vectors = spread_vectors(clean, generator)
    centre = generator.normal(size=40) * 4
    for part, count in (("train", 12), ("test", 8)):
        rows = clean.images.rows_of(part)
        chosen = generator.permutation(rows)[:count]
        vectors[chosen] = centre + generator.normal(size=(count, 40))
    assert found_by(hidden_class.CHECKS, with_features(clean, vectors), "hidden-class") == []


def test_nothing_is_hidden_in_clean_splits_even_if_one_is_farther_away_as_a_whole(clean, generator):
    found = 0
    for trial in range(12):
        vectors = spread_vectors(clean, generator)
        vectors[clean.images.rows_of("test"), :5] += 3.0 * (trial % 2)
        found += len(found_by(hidden_class.CHECKS, with_features(clean, vectors), "hidden-class"))
    # So few images have one by chance about once in a hundred times.
    assert found <= 1


def test_what_features_alone_tell_apart_matters_only_where_a_head_suffers(clean, generator):
    centres = generator.normal(size=(2, 40)) * 1.5
    labels, rows = clean.images.labels, clean.images.rows_of("test")
    vectors = centres[labels] + generator.normal(size=(len(labels), 40))
    harmless = vectors.copy()
    across = generator.normal(size=40)
    between = centres[1] - centres[0]
    across -= across @ between / (between @ between) * between
    harmless[rows] += 5.0 * across / np.linalg.norm(across)
    (finding,) = found_by(split_shift.CHECKS, with_features(clean, harmless), "split-shift")
    assert (finding.severity, finding.evidence["property"]) == ("note", "content")
    harmful = vectors.copy()
    harmful[rows] += 0.8 * between
    (finding,) = found_by(split_shift.CHECKS, with_features(clean, harmful), "split-shift")
    assert (finding.severity, finding.evidence["property"]) == ("problem", "content")
    assert finding.evidence["head_accuracy_train"] > finding.evidence["head_accuracy_part"] + 0.2


def test_a_class_that_one_split_lacks_is_a_problem(tmp_path, generator):
    root = write(tmp_path, generator)
    for path in (root / "train" / "coffee").iterdir():
        path.unlink()
    findings = found_by(SPLIT_CHECKS, facts_of(root), "hidden-class")
    assert [f.severity for f in findings] == ["problem"]
    assert "'coffee'" in findings[0].title


def test_data_without_splits_is_asked_for_shortcuts_alone(tmp_path, generator):
    for label in ("astronaut", "coffee"):
        (tmp_path / label).mkdir()
        for number, crop in enumerate(crops(label, 30, generator)):
            cv2.imwrite(str(tmp_path / label / f"{number}.jpg"), frame(crop) if label == "coffee" else crop)
    data = facts_of(tmp_path)
    assert [f for check in SPLIT_CHECKS for f in check.find(Facts(data=data))] == []
    assert found_by(shortcuts.CHECKS, data, "shortcut")[0].evidence["feature"] == "border"


def test_nothing_is_asked_of_nothing():
    assert [f for check in (*SPLIT_CHECKS, *shortcuts.CHECKS) for f in check.find(Facts())] == []


def test_how_much_a_test_split_can_tell_goes_by_its_size(clean):
    (finding,) = found_by(SPLIT_CHECKS, clean, "too-few")
    assert (finding.severity, finding.evidence["images"], finding.evidence["accuracy_is"]) == ("warning", 60, "assumed")
    for images, severity in ((12, "problem"), (2000, "note")):
        true = np.arange(images) % 2
        right = np.where(np.arange(images) % 10 == 0, 1 - true, true)
        field = ModelFacts("test", ("a",) * images, true, np.eye(2, dtype=np.float32)[right], {}, None)
        findings = [f for check in SPLIT_CHECKS for f in check.find(Facts(model=field)) if f.cause == "too-few"]
        assert [f.severity for f in findings] == [severity]
        assert findings[0].evidence["accuracy_is"] == "measured"


def test_splits_of_many_classes_with_few_images_are_not_more_varied_by_themselves(rng, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4]))
    from benchmarks.doctor.healthy import healthy_data

    found = 0
    for _ in range(10):
        images = healthy_data(rng, 100, 5, features=0, thumbnails=False).images
        found += bool(split_shift.compare_properties(images, images.rows_of("test"), images.rows_of("train")))
    # One in a thousand each: three of ten once in eight million times. By distances from the training median it was nearly all.
    assert found <= 2


def test_one_image_of_few_classes_is_no_other_mix():
    images = ImageTable(
        paths=tuple(map(str, range(25))), labels=np.array([0] * 10 + [1] * 10 + [0] * 4 + [1]), splits=np.array([0] * 20 + [2] * 5),
        digests=(), formats=(), properties={}, thumbnails=np.empty((0, 64, 64, 3), np.uint8),
    )  # fmt: skip
    data = DataFacts("d", Path("d"), ("a", "b"), images, (), None, None, has_splits=True)
    assert found_by(split.CHECKS, data, "prior-shift") == []
