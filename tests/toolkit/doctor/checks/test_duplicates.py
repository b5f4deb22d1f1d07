"""Copies of real images are found whatever was done to them; images that only look alike are not called copies."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as photographs

from edgeclf.runtime.images.preprocess import resize
from edgeclf.runtime.progress import no_progress
from edgeclf.toolkit.doctor.checks.duplicates import candidates
from edgeclf.toolkit.doctor.checks.duplicates.checks import (
    find_contradictions,
    find_leakage,
    find_left_out,
    find_overlapping,
    find_repeated,
)
from edgeclf.toolkit.doctor.checks.duplicates.copies import find_copies
from edgeclf.toolkit.doctor.checks.duplicates.inverted_file import InvertedFile
from edgeclf.toolkit.doctor.checks.duplicates.same_image import ORIENTATIONS, match, oriented, prealign, square
from edgeclf.toolkit.doctor.facts import THUMBNAIL, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding
from edgeclf.toolkit.doctor.gather.data import gather_data
from edgeclf.toolkit.doctor.registry import all_checks

pytestmark = pytest.mark.slow

TILE = 128
SOURCES = ("astronaut", "coffee", "brick", "grass", "gravel", "camera")


def tiles(shift: int = 0) -> dict[str, list[np.ndarray]]:
    """Tiles of photographs and textures, none of which overlap another one; BGR."""
    found = {}
    for name in SOURCES:
        image = getattr(photographs, name)()
        image = np.dstack([image] * 3) if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
        found[name] = [
            image[top + shift : top + shift + TILE, left + shift : left + shift + TILE]
            for top in range(0, image.shape[0] - TILE - shift + 1, TILE + 8)
            for left in range(0, image.shape[1] - TILE - shift + 1, TILE + 8)
        ]
    return found


def encode(path: Path, image: np.ndarray, quality: int = 92) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def write_tiles(folder: Path, parts: tuple[str, ...] = ("train", "test")) -> Path:
    """Two classes, colour and texture, each tile in one part."""
    for name, images in tiles().items():
        label = "photo" if name in {"astronaut", "coffee", "camera"} else "texture"
        for number, image in enumerate(images):
            encode(folder / parts[number % len(parts)] / label / f"{name}-{number}.png", image)
    return folder


def facts(folder: Path) -> Facts:
    return Facts(data=gather_data(folder, max_features=0, progress=no_progress))


def examine(folder: Path) -> dict[str, Finding]:
    """The findings about copies, by cause and kind."""
    known = facts(folder)
    found = [f for check in all_checks() if check.theme == "duplicates" for f in check.find(known)]
    return {" ".join(filter(None, (f.cause, f.evidence.get("kind")))): f for f in found}


def crop(share: float, x: float, y: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        kept_h, kept_w = round(height * (1 - share)), round(width * (1 - share))
        top, left = round((height - kept_h) * y), round((width - kept_w) * x)
        return image[top : top + kept_h, left : left + kept_w]

    return change


def smaller(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: resize(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))


PERTURBATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, int, str]] = {
    "same pixels, another format": (lambda image: image, ".bmp", 0, "re-encoded"),
    "JPEG quality 60": (lambda image: image, ".jpg", 60, "re-encoded"),
    "JPEG quality 30": (lambda image: image, ".jpg", 30, "re-encoded"),
    "70 %": (smaller(0.7), ".jpg", 92, "re-encoded"),
    "cropped in the middle": (crop(0.05, 0.5, 0.5), ".jpg", 92, "cropped"),
    "cropped in a corner": (crop(0.05, 0.0, 1.0), ".jpg", 92, "cropped"),
    "cropped by a tenth": (crop(0.1, 0.8, 0.2), ".jpg", 92, "cropped"),
    "mirrored": (lambda image: image[:, ::-1], ".jpg", 92, "mirrored"),
    "turned": (np.rot90, ".png", 0, "turned"),
    "darker": (lambda image: cv2.convertScaleAbs(image, alpha=0.8), ".jpg", 80, "re-encoded"),
    "all at once": (lambda image: smaller(0.7)(crop(0.05, 0.3, 0.6)(image)[:, ::-1]), ".jpg", 70, "mirrored"),
}


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_changed_copies_of_test_images_in_training_are_leakage(tmp_path: Path, name: str):
    change, suffix, quality, kind = PERTURBATIONS[name]
    folder = write_tiles(tmp_path)
    tested = sorted((folder / "test").rglob("*.png"))
    copied = [tested[n] for n in np.random.default_rng(0).permutation(len(tested))[:8]]
    for number, path in enumerate(copied):
        target = folder / "train" / path.parent.name / f"copy-{number}{suffix}"
        encode(target, np.ascontiguousarray(change(cv2.imread(str(path)))), quality)

    found = examine(folder)

    assert set(found) == {"leakage"}
    wanted = {path.relative_to(folder).as_posix() for path in copied}
    named = set(found["leakage"].items)
    assert named <= wanted
    # A tenth is about where copies end and other images of the same thing begin.
    assert len(wanted - named) <= (1 if name == "cropped by a tenth" else 0)
    assert found["leakage"].severity == "problem"
    assert found["leakage"].evidence["kinds"] == {kind: len(named)}
    assert all("train/" in detail and "copy-" in detail for detail in found["leakage"].details)
    assert f"{len(named)} of" in found["leakage"].title


def test_clean_tiles_of_the_same_photographs_and_textures_give_no_finding(tmp_path: Path):
    assert examine(write_tiles(tmp_path)) == {}


def test_the_same_file_is_found_even_without_any_detail(tmp_path: Path):
    folder = write_tiles(tmp_path)
    for part, label in (("train", "photo"), ("test", "photo")):
        encode(folder / part / label / "white.png", np.full((TILE, TILE, 3), 255, np.uint8))
    found = examine(folder)
    assert found["leakage"].items == ("test/photo/white.png",)
    assert found["leakage"].evidence["kinds"] == {"exact": 1}
    # One image of a few dozen is more than the share that is a problem.
    assert found["leakage"].severity == "problem"


def test_images_that_only_look_alike_are_no_copies(tmp_path: Path):
    generator = np.random.default_rng(0)
    folder = write_tiles(tmp_path)
    base = tiles()["coffee"][1]
    spotted, tinted = base.copy(), base.copy()
    # A defect, as inspection images have it.
    cv2.circle(spotted, (70, 50), 14, (20, 40, 200), -1)
    tinted[..., 2] = np.clip(tinted[..., 2].astype(int) + 60, 0, 255)
    disc = np.full((TILE, TILE, 3), 128, np.uint8)
    cv2.circle(disc, (64, 64), 40, (60, 60, 60), -1)
    noisy = [np.clip(disc + generator.normal(0, 25, disc.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    blank = [np.full((TILE, TILE, 3), value, np.uint8) for value in (0, 128, 129, 255)]
    for number, image in enumerate((base, spotted, tinted, *noisy, *blank)):
        encode(folder / ("train", "test")[number % 2] / "photo" / f"alike-{number}.png", image)
    original = next(path for path in sorted(folder.rglob("coffee-1.png")))
    original.unlink()

    assert examine(folder) == {}


def test_images_that_overlap_are_said_to_and_not_called_copies(tmp_path: Path):
    folder = write_tiles(tmp_path)
    moved = tiles(shift=4)
    for name in ("brick", "coffee"):
        encode(folder / "train" / "photo" / f"moved-{name}.png", moved[name][1])

    found = examine(folder)

    assert set(found) == {"duplicates overlapping"}
    assert {*found["duplicates overlapping"].items} == {"test/texture/brick-1.png", "test/photo/coffee-1.png"}
    # Four of 128 pixels less on both sides.
    assert found["duplicates overlapping"].evidence["smallest_overlap"] == pytest.approx(0.938, abs=0.01)
    assert found["duplicates overlapping"].severity == "warning"


def test_a_crop_that_two_overlapping_images_hold_comes_from_where_it_is_in_the_middle(tmp_path: Path):
    folder = write_tiles(tmp_path)
    encode(folder / "test" / "texture" / "moved.png", tiles(shift=2)["brick"][1])
    encode(folder / "train" / "texture" / "copy.png", crop(0.06, 0.5, 0.5)(tiles()["brick"][1]))
    found = examine(folder)
    assert found["leakage"].items == ("test/texture/brick-1.png",)
    assert "duplicates overlapping" in found


def test_copies_under_two_classes_are_a_matter_of_labels(tmp_path: Path):
    folder = write_tiles(tmp_path)
    wrong = folder / "train" / "photo" / "wrong.jpg"
    encode(wrong, tiles()["gravel"][0][:, ::-1])

    found = examine(folder)

    assert set(found) == {"label-noise contradicting-copies"}
    finding = found["label-noise contradicting-copies"]
    assert set(finding.items) == {"train/photo/wrong.jpg", "train/texture/gravel-0.png"}
    assert finding.evidence["classes"] == {"photo and texture": 1}
    assert set(finding.details) == {"labelled photo", "labelled texture"}


def test_repeated_images_matter_more_where_a_random_split_will_separate_them(tmp_path: Path):
    folder = write_tiles(tmp_path)
    encode(folder / "train" / "texture" / "again.jpg", tiles()["gravel"][0], 80)
    (noted,) = find_repeated(facts(folder))
    assert (noted.severity, noted.items) == ("note", ("train/texture/gravel-0.png",))

    for part in ("train", "test"):
        for path in (folder / part).rglob("*.*"):
            target = folder / path.parent.name / path.name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        for empty in (*(folder / part).iterdir(), folder / part):
            empty.rmdir()
    known = facts(folder)
    (warned,) = find_repeated(known)
    assert warned.severity == "warning"
    assert "random split" in warned.fix
    assert find_leakage(known) == find_contradictions(known) == find_overlapping(known) == []


def test_a_frame_that_all_images_share_neither_hides_copies_nor_makes_any(tmp_path: Path):
    folder = write_tiles(tmp_path)
    leaked = min((folder / "test").rglob("coffee*.png"))
    encode(folder / "train" / "photo" / "copy.jpg", cv2.imread(str(leaked)), 70)
    for path in sorted(folder.rglob("*.*")):
        if path.is_file():
            framed = cv2.copyMakeBorder(cv2.imread(str(path)), 16, 16, 16, 16, cv2.BORDER_CONSTANT, value=(0, 0, 0))
            encode(path, framed, 70)
    found = examine(folder)
    assert set(found) == {"leakage"}
    assert found["leakage"].items == (leaked.relative_to(folder).as_posix(),)


def test_thumbnails_do_where_a_file_went_away(tmp_path: Path):
    folder = write_tiles(tmp_path)
    leaked = min((folder / "test").rglob("coffee*.png"))
    encode(folder / "train" / "photo" / "copy.jpg", cv2.imread(str(leaked)), 70)
    known = facts(folder)
    leaked.unlink()
    (finding,) = find_leakage(known)
    assert finding.items == (leaked.relative_to(folder).as_posix(),)


def test_copies_are_looked_for_once(tmp_path: Path):
    known = facts(write_tiles(tmp_path)).data
    assert isinstance(known, DataFacts)
    assert known.derived(find_copies) is known.derived(find_copies)
    # What was derived goes with the facts.
    copies = weakref.ref(known.derived(find_copies))
    del known
    gc.collect()
    assert copies() is None


@pytest.mark.parametrize("count", [0, 1])
def test_no_images_have_no_copies(tmp_path: Path, count: int):
    encode(tmp_path / "a" / "0.png", tiles()["coffee"][0])
    known = facts(tmp_path).data
    assert isinstance(known, DataFacts)
    table = known.images
    first = replace(
        table,
        paths=table.paths[:count],
        labels=table.labels[:count],
        splits=table.splits[:count],
        digests=table.digests[:count],
        formats=table.formats[:count],
        properties={},
        thumbnails=table.thumbnails[:count],
    )
    few = replace(known, images=first)
    assert find_copies(few).groups == ()


@settings(max_examples=12, derandomize=True)
@given(
    share=st.floats(0.03, 0.1),
    x=st.floats(0.0, 1.0),
    y=st.floats(0.0, 1.0),
    orientation=st.integers(0, ORIENTATIONS - 1),
    name=st.sampled_from(("astronaut", "brick", "coffee", "gravel")),
)
def test_match_says_where_a_crop_lies(share: float, x: float, y: float, orientation: int, name: str):
    image = getattr(photographs, name)()[:320, :320]
    whole = np.dstack([image] * 3) if image.ndim == 2 else image
    part = crop(share, x, y)(whole)
    side = part.shape[0] / 320
    where = np.array([round((320 - part.shape[1]) * x), round((320 - part.shape[0]) * y)]) / 320
    # `match` orients the inner image: undo that beforehand.
    undone = next(
        turned
        for turned in (np.asarray(oriented(part, number)) for number in range(ORIENTATIONS))
        if np.array_equal(oriented(turned, orientation), part)
    )
    start = np.array([[side, 0.0, where[0] + 0.01], [0.0, side, where[1] - 0.01]])

    found = match(square(whole, 128), square(undone, 128), start, orientation)

    assert found is not None
    assert found.contained
    assert found.inner_is_smaller
    assert found.inner_in_outer == pytest.approx(np.array([[side, 0, where[0]], [0, side, where[1]]]), abs=0.004)
    assert found.area_ratio == pytest.approx(side**2, abs=0.01)


def test_different_textures_do_not_match():
    for name in ("brick", "grass", "gravel"):
        first, second = (cv2.cvtColor(square(tile, 32), cv2.COLOR_BGR2GRAY) for tile in tiles()[name][:2])
        start = np.eye(2, 3)
        better = prealign(first, second, start, 0)
        if better is not None:
            assert match(square(tiles()[name][0], 128), square(tiles()[name][1], 128), better, 0) is None


def test_what_the_battery_injects_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4]))
    from benchmarks.doctor.faults import base, duplicates

    for number, fault in enumerate(duplicates.FAULTS):
        folder = write_tiles(tmp_path / str(number))
        truth = fault.inject(folder, np.random.default_rng(0))
        verdict = base.judge([finding.to_json() for finding in examine(folder).values()], truth)
        assert (verdict.found, verdict.recall, verdict.precision) == (True, 1.0, 1.0), fault.name


def textures(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, THUMBNAIL, THUMBNAIL, 3) patterns of several scales, unlike each other."""
    drawn = []
    for _ in range(count):
        scales = [rng.normal(size=(cells, cells)) * 100 / cells**0.5 for cells in (3, 6, 12, 24)]
        luma = sum(cv2.resize(each, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_CUBIC) for each in scales)
        drawn.append(np.repeat(np.clip(luma + 120, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return np.stack(drawn)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1 << 30), orientation=st.integers(0, ORIENTATIONS - 1), side=st.integers(59, THUMBNAIL))
def test_cells_hold_the_pairs_that_comparing_all_finds(seed: int, orientation: int, side: int):
    rng = np.random.default_rng(seed)
    thumbnails = textures(rng, 120)
    for row in range(10):
        part = thumbnails[row, (THUMBNAIL - side) // 2 :, (THUMBNAIL - side) // 2 :][:side, :side]
        thumbnails[100 + row] = square(np.asarray(oriented(part, orientation), np.uint8), THUMBNAIL)
    rows, splits = np.arange(5, 120), rng.integers(0, 3, 115)
    stages: list[tuple[str, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_PROBES", 120)
        found, left_out = candidates.find_candidates(
            thumbnails, rows, splits, lambda *stage: stages.append(stage), exhaustive=10
        )
    every, _ = candidates.find_candidates(thumbnails, rows, splits)
    assert left_out == 0
    ways = {frozenset((one.outer, one.inner)): one for one in found}
    alike = [one for one in every if one.similarity >= 0.6]
    # Crops by less than a tenth and orientations reach 0.77 and more.
    assert {frozenset((row, 100 + row)) for row in range(5, 10)} <= {frozenset((c.outer, c.inner)) for c in alike}
    for one in alike:
        assert ways[frozenset((one.outer, one.inner))].similarity == pytest.approx(one.similarity, abs=0.1)
    assert stages[-1] == ("copies: compared", 115, 115)
    assert all(candidate.outer in rows and candidate.inner in rows for candidate in found)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 60), asked=st.integers(1, 20), seed=st.integers(0, 1 << 30))
def test_an_inverted_file_searched_in_all_cells_is_a_search_of_all(count: int, asked: int, seed: int):
    rng = np.random.default_rng(seed)
    vectors, queries = (rng.normal(size=(n, 5)).astype(np.float32) for n in (count, asked))
    vectors, queries = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (vectors, queries))
    file = InvertedFile.of(vectors)
    every = queries @ vectors.T
    for probes in (1, len(file.centres)):
        found = {
            (query, row): similarity
            for part in file.search(queries, 0.5, probes)
            for query, row, similarity in zip(*(each.tolist() for each in part), strict=True)
        }
        assert all(similarity == pytest.approx(every[pair], abs=1e-5) for pair, similarity in found.items())
        if probes > 1:
            assert set(zip(*np.nonzero(every >= 0.5 + 1e-5), strict=True)) <= set(found)


def test_pairs_beyond_those_that_are_verified_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_tiles(tmp_path)
    for number in range(3):
        encode(folder / "train" / "texture" / f"again-{number}.jpg", tiles()["gravel"][0], 80 + number)
    assert find_left_out(facts(folder)) == []
    monkeypatch.setattr(candidates, "MAX_PAIRS", 2)
    (finding,) = find_left_out(facts(folder))
    assert (finding.cause, finding.severity) == ("unchecked", "note")
    assert finding.evidence["left_out"] >= 3
