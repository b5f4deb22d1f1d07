"""Checks of single images: blank, blurred, badly exposed, grey, of odd size, rotated by EXIF, in other formats."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, IntArray
from edgeclf.toolkit.doctor.facts import Check, DataFacts, Facts, ImageTable
from edgeclf.toolkit.doctor.findings import Finding, Severity

# Fraction of a data set from which on unusual images are a warning.
WARNING_FRACTION = 0.05
# Tukey's outer fence in interquartile ranges beyond the quartiles: one in 400,000 of a normal distribution lies outside.
_OUTER_FENCE = 3.0
# Tukey's inner fence, used together with an absolute threshold.
_INNER_FENCE = 1.5
# Fewest images whose quartiles say what is usual.
_LEAST_IMAGES = 20
# Most images of rarer formats that are listed.
_MOST_OF_OTHER_FORMATS = 100


def find_blank(facts: Facts) -> list[Finding]:
    """Blank images: hardly any contrast."""
    return _finding(
        facts,
        "blank",
        lambda images: images.properties["contrast"] < 2.0,
        lambda images, row: f"luma deviates by {images.properties['contrast'][row]:.1f}",
        title="{count} of {total} images {are} of one colour",
        fix="Remove them: nothing can be learned from them",
        least="warning",
    )


def find_blurred(facts: Facts) -> list[Finding]:
    """Blurred images: relative sharpness far below the data set's."""

    def rows(images: ImageTable) -> BoolArray:
        sharpness = _relative_sharpness(images)
        # A decade below the median: about a Gaussian blur of two pixels on an image of 256.
        return (
            _far_below(sharpness, _INNER_FENCE)
            & (sharpness < np.median(sharpness) - 1.0)
            # Blank images have a finding of their own.
            & (images.properties["contrast"] >= 2.0)
        )

    return _finding(
        facts,
        "blurred",
        rows,
        lambda images, row: f"relative sharpness {_relative_sharpness(images)[row]:.2f}",
        title="{count} of {total} images {have} no sharp edge, far from what the others have",
        fix="Look at them; remove those that nobody could recognize",
        rank=_relative_sharpness,
    )


def find_exposure(facts: Facts) -> list[Finding]:
    """Under- and overexposed images: mostly black or white pixels where the other images are not."""

    def rows(images: ImageTable) -> BoolArray:
        wrong = np.zeros(len(images), np.bool_)
        for name in ("dark_share", "bright_share"):
            share = images.properties[name]
            wrong |= (share > 0.6) & _far_below(-share)
        return np.asarray(wrong & (images.properties["contrast"] >= 2.0))

    def detail(images: ImageTable, row: int) -> str:
        dark, bright = (images.properties[name][row] for name in ("dark_share", "bright_share"))
        return f"{dark:.0%} of the pixels are black" if dark > bright else f"{bright:.0%} of the pixels are white"

    return _finding(
        facts,
        "exposure",
        rows,
        detail,
        title="{count} of {total} images {are} mostly black or mostly white, far from what the others are",
        fix="Look at them; remove those that nobody could recognize",
        rank=lambda images: -np.maximum(images.properties["dark_share"], images.properties["bright_share"]),
    )


def find_grey(facts: Facts) -> list[Finding]:
    """Grey images among coloured ones, or the reverse."""
    data = facts.data
    if data is None or not len(data.images):
        return []
    grey = data.images.properties["channel_spread"] < 1.0
    fewer = grey if 2 * grey.sum() <= len(grey) else ~grey
    kinds = ("grey", "coloured") if fewer is grey else ("coloured", "grey")
    return _finding(
        facts,
        "grey",
        lambda _: fewer,
        lambda images, row: f"channels differ by {images.properties['channel_spread'][row]:.1f}",
        title=f"{{count}} of {{total}} images {{are}} {kinds[0]}, the others {kinds[1]}",
        fix="Check that the device's images are mixed like these; else turn all to grey, or leave them out",
    )


def find_odd_size(facts: Facts) -> list[Finding]:
    """Images of unusual size or aspect ratio."""

    def rows(images: ImageTable) -> BoolArray:
        aspect = np.log2(images.properties["aspect"])
        side = np.log2(np.minimum(images.properties["width"], images.properties["height"]))
        # A minimum factor as well: where all images have one size, the interquartile range is zero.
        long = (_far_below(aspect) | _far_below(-aspect)) & (np.abs(aspect - np.median(aspect)) > np.log2(2.5))
        small = _far_below(side) & (side < np.median(side) - 2.0)
        large = _far_below(-side) & (side > np.median(side) + 3.0)
        return np.asarray(long | small | large | (side < 4.0))

    return _finding(
        facts,
        "odd-size",
        rows,
        lambda images, row: f"{images.properties['width'][row]:.0f} x {images.properties['height'][row]:.0f} pixels",
        title="{count} of {total} images {have} a size or shape far from that of the others",
        fix="Look at them: of a long image the network sees the middle only, of a tiny one next to nothing",
    )


def find_rotated(facts: Facts) -> list[Finding]:
    """Images that are upright only by their EXIF orientation."""
    return _finding(
        facts,
        "rotated",
        lambda images: images.properties["orientation"] != 1,
        lambda images, row: f"EXIF orientation {images.properties['orientation'][row]:.0f}",
        title="{count} of {total} images {are} upright only by their EXIF orientation",
        fix="edgeclf turns them, on the device as well; other programs that feed the model must do the same",
        most="note",
    )


def find_mixed_formats(facts: Facts) -> list[Finding]:
    """Several file formats in one data set."""
    data = facts.data
    if data is None:
        return []
    counts = Counter(data.images.formats)
    if len(counts) < 2:
        return []
    common = counts.most_common()
    rare = [row for row, name in enumerate(data.images.formats) if name != common[0][0]]
    return [
        Finding(
            cause="mixed-formats",
            severity="note",
            title=f"The images come in {len(counts)} formats: {', '.join(f'{n:,} {name}' for name, n in common)}",
            fix="Nothing needs to be done as long as no class, and no split, has a format of its own",
            evidence={"counts": dict(common)},
            items=tuple(data.images.paths[row] for row in rare[:_MOST_OF_OTHER_FORMATS]),
            details=tuple(data.images.formats[row] for row in rare[:_MOST_OF_OTHER_FORMATS]),
        )
    ]


def _relative_sharpness(images: ImageTable) -> Float64Array:
    """(N,) log10 sharpness relative to contrast, so that dark or hazy images do not count as blurred."""
    return np.asarray(images.properties["sharpness"] - np.log10(images.properties["contrast"] ** 2 + 1.0))


def _far_below(values: Float64Array, ranges: float = _OUTER_FENCE) -> BoolArray:
    """(N,) whether a value lies more than `ranges` interquartile ranges below the lower quartile; of few images, none does."""
    if len(values) < _LEAST_IMAGES:
        return np.zeros(len(values), np.bool_)
    low, high = np.quantile(values, (0.25, 0.75))
    return np.asarray(values < low - ranges * (high - low))


def _finding(
    facts: Facts,
    cause: str,
    choose: Callable[[ImageTable], BoolArray],
    describe: Callable[[ImageTable, int], str],
    *,
    title: str,
    fix: str,
    rank: Callable[[ImageTable], Float64Array] | None = None,
    least: Severity = "note",
    most: Severity = "warning",
) -> list[Finding]:
    """Finding about the images that a predicate selects; none where it selects none.

    Args:
        facts: Facts of the data.
        cause: Cause of the finding.
        choose: Predicate: (N,) whether an image is meant.
        describe: Caption of an image, by its row.
        title: Title with `{count}`, `{total}`, and `{are}` or `{have}`.
        fix: Remedy.
        rank: (N,) order of the images, the lowest first; None for that of the table.
        least: Severity below `WARNING_FRACTION` of the images.
        most: Severity from `WARNING_FRACTION` on.
    """
    data = facts.data
    if data is None or not len(data.images):
        return []
    rows = np.flatnonzero(choose(data.images))
    if not len(rows):
        return []
    total = len(data.images)
    evidence: dict[str, object] = {"count": len(rows), "images": total, "by_class": _by_class(data, rows)}
    if rank is not None:
        rows = rows[np.argsort(rank(data.images)[rows], kind="stable")]
    few = len(rows) < WARNING_FRACTION * total
    shown = rows.tolist()
    return [
        Finding(
            cause=cause,
            severity=least if few else most,
            title=title.format(
                count=f"{len(rows):,}",
                total=f"{total:,}",
                are="is" if len(rows) == 1 else "are",
                have="has" if len(rows) == 1 else "have",
            ),
            fix=fix,
            evidence=evidence,
            items=tuple(data.images.paths[row] for row in shown),
            details=tuple(describe(data.images, row) for row in shown),
            weight=len(rows) / total,
        )
    ]


def _by_class(data: DataFacts, rows: IntArray) -> dict[str, int]:
    return {
        label: count
        for position, label in enumerate(data.classes)
        if (count := int((data.images.labels[rows] == position).sum()))
    }


_FEW = f"a note below {WARNING_FRACTION:.0%} of the images, a warning from there on"

CHECKS: tuple[Check, ...] = (
    Check("blank", "files", ("blank",), "the luma's standard deviation is below 2 of 255", find_blank),
    Check(
        "blurred",
        "files",
        ("blurred",),
        f"of {_LEAST_IMAGES} images or more, the sharpness over the contrast lies {_INNER_FENCE:g} interquartile ranges below the lower quartile and a decade below the median; {_FEW}",
        find_blurred,
    ),
    Check(
        "exposure",
        "files",
        ("exposure",),
        f"of {_LEAST_IMAGES} images or more, over 60 % of the pixels are black (below 10) or white (above 245), {_OUTER_FENCE:g} interquartile ranges above the upper quartile; {_FEW}",
        find_exposure,
    ),
    Check(
        "grey", "files", ("grey",), f"some images' channels differ by less than 1, others' do not; {_FEW}", find_grey
    ),
    Check(
        "odd-size",
        "files",
        ("odd-size",),
        f"a shape 2.5 times off the median, a short side 4 times below or 8 times above it, each {_OUTER_FENCE:g} interquartile ranges out, of {_LEAST_IMAGES} images or more; or one below 16 pixels; {_FEW}",
        find_odd_size,
    ),
    Check("rotated", "files", ("rotated",), "a file has an EXIF orientation other than 1", find_rotated),
    Check("mixed-formats", "files", ("mixed-formats",), "there is more than one file format", find_mixed_formats),
)
