"""Files: pictures that are unlike the others, or hold nothing."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, IntArray
from edgeclf.toolkit.doctor.facts import Check, DataFacts, Facts, ImageTable
from edgeclf.toolkit.doctor.findings import Finding, Severity

# From this share of a data set on, a kind of odd picture is more than a few accidents.
WARNING_SHARE = 0.05
# Tukey's "far out": so many interquartile ranges beyond the quartiles lies one in 400,000 of a normal distribution.
_FAR_OUT = 3.0
# His ordinary fence, where a second condition says how far is far.
_OUT = 1.5
# Pictures of the rarer formats that are named: nothing is wrong with them.
_MOST_OF_OTHER_FORMATS = 100


def find_blank(facts: Facts) -> list[Finding]:
    """Pictures of one colour."""
    return _odd(
        facts,
        "blank",
        lambda images: images.properties["contrast"] < 2.0,
        lambda images, row: f"luma deviates by {images.properties['contrast'][row]:.1f}",
        title="{count} of {total} pictures {are} of one colour",
        fix="Remove them: nothing can be learned from them",
        least="warning",
    )


def find_blurred(facts: Facts) -> list[Finding]:
    """Pictures that are far less sharp than the others."""

    def rows(images: ImageTable) -> BoolArray:
        sharpness = _relative_sharpness(images)
        # A decade less than the median: about a Gaussian blur of two pixels, on a picture of 256.
        return (
            _far_below(sharpness, _OUT)
            & (sharpness < np.median(sharpness) - 1.0)
            # One of one colour is not blurred.
            & (images.properties["contrast"] >= 2.0)
        )

    return _odd(
        facts,
        "blurred",
        rows,
        lambda images, row: f"relative sharpness {_relative_sharpness(images)[row]:.2f}",
        title="{count} of {total} pictures {have} no sharp edge, far from what the others have",
        fix="Look at them; remove those that nobody could recognize",
        rank=_relative_sharpness,
    )


def find_exposure(facts: Facts) -> list[Finding]:
    """Pictures that are mostly black or mostly white among others that are not."""

    def rows(images: ImageTable) -> BoolArray:
        wrong = np.zeros(len(images), np.bool_)
        for name in ("dark_share", "bright_share"):
            share = images.properties[name]
            wrong |= (share > 0.6) & _far_below(-share)
        return np.asarray(wrong & (images.properties["contrast"] >= 2.0))

    def detail(images: ImageTable, row: int) -> str:
        dark, bright = (images.properties[name][row] for name in ("dark_share", "bright_share"))
        return f"{dark:.0%} of the pixels are black" if dark > bright else f"{bright:.0%} of the pixels are white"

    return _odd(
        facts,
        "exposure",
        rows,
        detail,
        title="{count} of {total} pictures {are} mostly black or mostly white, far from what the others are",
        fix="Look at them; remove those that nobody could recognize",
        rank=lambda images: -np.maximum(images.properties["dark_share"], images.properties["bright_share"]),
    )


def find_grey(facts: Facts) -> list[Finding]:
    """Grey pictures among coloured ones, or the other way round."""
    data = facts.data
    if data is None or not len(data.images):
        return []
    grey = data.images.properties["channel_spread"] < 1.0
    fewer = grey if 2 * grey.sum() <= len(grey) else ~grey
    kinds = ("grey", "coloured") if fewer is grey else ("coloured", "grey")
    return _odd(
        facts,
        "grey",
        lambda _: fewer,
        lambda images, row: f"channels differ by {images.properties['channel_spread'][row]:.1f}",
        title=f"{{count}} of {{total}} pictures {{are}} {kinds[0]}, the others {kinds[1]}",
        fix="Check that the device's pictures are mixed like these; else turn all to grey, or leave them out",
    )


def find_odd_size(facts: Facts) -> list[Finding]:
    """Pictures whose size or shape is far from that of the others."""

    def rows(images: ImageTable) -> BoolArray:
        aspect = np.log2(images.properties["aspect"])
        side = np.log2(np.minimum(images.properties["width"], images.properties["height"]))
        # Far out, and by more than a factor: where all have one size the quartiles say nothing.
        long = (_far_below(aspect) | _far_below(-aspect)) & (np.abs(aspect - np.median(aspect)) > np.log2(2.5))
        small = _far_below(side) & (side < np.median(side) - 2.0)
        large = _far_below(-side) & (side > np.median(side) + 3.0)
        return np.asarray(long | small | large | (side < 4.0))

    return _odd(
        facts,
        "odd-size",
        rows,
        lambda images, row: f"{images.properties['width'][row]:.0f} x {images.properties['height'][row]:.0f} pixels",
        title="{count} of {total} pictures {have} a size or shape far from that of the others",
        fix="Look at them: of a long picture the network sees the middle only, of a tiny one next to nothing",
    )


def find_rotated(facts: Facts) -> list[Finding]:
    """Pictures that other programs may show on their side."""
    return _odd(
        facts,
        "rotated",
        lambda images: images.properties["orientation"] != 1,
        lambda images, row: f"EXIF orientation {images.properties['orientation'][row]:.0f}",
        title="{count} of {total} pictures {are} upright only by their EXIF orientation",
        fix="edgeclf turns them, on the device as well; other programs that feed the model must do the same",
        most="note",
    )


def find_mixed_formats(facts: Facts) -> list[Finding]:
    """More than one file format."""
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
            title=f"The pictures come in {len(counts)} formats: {', '.join(f'{n:,} {name}' for name, n in common)}",
            fix="Nothing needs to be done as long as no class, and no part, has a format of its own",
            evidence={"counts": dict(common)},
            items=tuple(data.images.paths[row] for row in rare[:_MOST_OF_OTHER_FORMATS]),
            details=tuple(data.images.formats[row] for row in rare[:_MOST_OF_OTHER_FORMATS]),
        )
    ]


def _relative_sharpness(images: ImageTable) -> Float64Array:
    """Sharpness over contrast: a dark or a hazy picture need not be blurred."""
    return np.asarray(images.properties["sharpness"] - np.log10(images.properties["contrast"] ** 2 + 1.0))


def _far_below(values: Float64Array, ranges: float = _FAR_OUT) -> BoolArray:
    """Which values lie below the lower quartile by more than so many interquartile ranges."""
    low, high = np.quantile(values, (0.25, 0.75)) if len(values) else (0.0, 0.0)
    return np.asarray(values < low - ranges * (high - low))


def _odd(
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
    """A finding about pictures unlike the others, none where there are none.

    Args:
        facts: Of the data.
        cause: Of the finding.
        choose: (N,) which pictures are meant.
        describe: What to say below one of them.
        title: With `{count}`, `{total}`, and `{are}` or `{have}`.
        fix: What to do.
        rank: (N,) of which the lowest are the worst; None leaves the pictures in their order.
        least: Severity where they are a few.
        most: Severity from `WARNING_SHARE` of the pictures on.
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
    few = len(rows) < WARNING_SHARE * total
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


_FEW = f"a note below {WARNING_SHARE:.0%} of the pictures, a warning from there on"

CHECKS: tuple[Check, ...] = (
    Check("blank", "files", ("blank",), "the luma's standard deviation is below 2 of 255", find_blank),
    Check(
        "blurred",
        "files",
        ("blurred",),
        f"the sharpness over the contrast lies {_OUT:g} interquartile ranges below the lower quartile and a decade below the median; {_FEW}",
        find_blurred,
    ),
    Check(
        "exposure",
        "files",
        ("exposure",),
        f"over 60 % of the pixels are black (below 10) or white (above 245), {_FAR_OUT:g} interquartile ranges above the upper quartile; {_FEW}",
        find_exposure,
    ),
    Check(
        "grey", "files", ("grey",), f"some pictures' channels differ by less than 1, others' do not; {_FEW}", find_grey
    ),
    Check(
        "odd-size",
        "files",
        ("odd-size",),
        f"a shape 2.5 times off the median, a short side 4 times below or 8 times above it, each {_FAR_OUT:g} interquartile ranges out; or one below 16 pixels; {_FEW}",
        find_odd_size,
    ),
    Check("rotated", "files", ("rotated",), "a file has an EXIF orientation other than 1", find_rotated),
    Check("mixed-formats", "files", ("mixed-formats",), "there is more than one file format", find_mixed_formats),
)
