"""Can the label be told from something that is not the object? Then a network will learn that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.toolkit.doctor.checks.factors import channel_share, colourfulness, visible_blockiness
from edgeclf.toolkit.doctor.checks.separability import binned, held_out_scores, measure_separability
from edgeclf.toolkit.doctor.facts import THUMBNAIL, Check, DataFacts, Facts, ImageTable
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.statistics import stratified_auc

# Mean of the shares of right answers inside and outside the class, 0.5 by guessing: from here on it is worth saying, and
# from there on a network that looks at nothing else does well.
_WARNING, _PROBLEM = 0.62, 0.8
# What is told from the scene, or from what the picture shows, is often rightly so.
_SCENE_NOTE, _SCENE_WARNING = 0.75, 0.95
# Standard deviations of shuffled labels.
_BELIEVED = 4.5
# A more fundamental feature explains those that tell up to so many times as much above guessing.
_EXPLAINS = 1.5
# A corner has more to tell it from: fewer standard deviations do, if its area under the curve leads that of as large a
# patch anywhere else by so much.
_CORNER_BELIEVED, _CORNER_LEAD = 4.0, 0.05
# Side of a patch in the thumbnail.
_PATCH = 10
# Classes of which each feature's best is tested, and images that are looked at.
_CLASSES, _IMAGES = 3, 10_000
_FEWEST = 20
_SHOWN = 24


def _columns(*names: str) -> Callable[[ImageTable], Float64Array]:
    return lambda images: binned(np.stack([images.properties[name] for name in names], axis=1))


def _formats(images: ImageTable) -> Float64Array:
    kinds = sorted(set(images.formats))
    return np.array([[float(value == kind) for kind in kinds] for value in images.formats])


def _compression(images: ImageTable) -> Float64Array:
    return binned(np.stack([images.properties["jpeg_quality"], visible_blockiness(images)], axis=1))


def _colours(images: ImageTable) -> Float64Array:
    values = [channel_share("red")(images), channel_share("blue")(images), np.round(colourfulness(images), 3)]
    return binned(np.stack(values, axis=1))


# What the pictures' own content has no part in, in the order of cause and effect: a frame fills the corners; fewer pixels,
# and another format, change the file's size.
_FILE: Mapping[str, Callable[[ImageTable], Float64Array]] = {
    "border": _columns("border"),
    "resolution": _columns("width", "height"),
    "format": _formats,
    "compression": _compression,
    "orientation": _columns("orientation"),
    "file-size": _columns("file_bytes"),
}
# What may well belong to the object.
_SCENE: Mapping[str, Callable[[ImageTable], Float64Array]] = {
    "brightness": _columns("brightness"),
    "colour": _colours,
    "blur": _columns("edge_sharpness"),
    "noise": _columns("noise"),
}
_WORDS = {
    "border": "a frame around the picture",
    "corner": "a patch in a corner",
    "resolution": "width and height",
    "format": "the file format",
    "compression": "how strongly the file is compressed",
    "orientation": "the EXIF orientation",
    "file-size": "the file's size",
    "brightness": "the mean brightness",
    "colour": "the mean colour",
    "blur": "how sharp the picture is",
    "noise": "how noisy the picture is",
}


@dataclass(frozen=True, eq=False)
class ShortcutScore:
    """How well one feature alone tells one class from all others.

    Attributes:
        feature: What was looked at.
        label: The class, by position.
        accuracy: Mean of the shares of right answers inside and outside the class; 0.5 is guessing.
        auc: Area under the ROC curve.
        z: Standard deviations beyond shuffled labels.
        scores: (N,) held-out scores.
        where: For a corner, which.
        elsewhere: For a corner, the area under the curve of as large a patch at the best other place.
    """

    feature: str
    label: int
    accuracy: float
    auc: float
    z: float
    scores: Float64Array
    where: str | None = None
    elsewhere: float | None = None


def score_feature(
    feature: str, design: Float64Array, labels: IntArray, believed: float = _BELIEVED
) -> ShortcutScore | None:
    """The class that a feature tells best, if it tells any.

    Args:
        feature: Its name.
        design: (N, F) what it says about each picture.
        labels: (N,) classes.
        believed: Standard deviations beyond shuffled labels.
    """
    if not len(design) or (design == design[0]).all():
        return None
    present = np.unique(labels)
    targets = labels[:, None] == present[None, :]
    counts = targets.sum(axis=0)
    # By how many standard deviations of the rank sum, so that a class of three pictures is not the best by luck.
    aucs = stratified_auc(held_out_scores(design, targets.astype(np.float64)), targets)
    surprise = (aucs - 0.5) * np.sqrt(12.0 * counts * (len(labels) - counts) / (len(labels) + 1.0))
    tells = []
    for position in np.argsort(-surprise)[:_CLASSES]:
        if surprise[position] < believed / 2 or counts[position] < _FEWEST / 2:
            continue
        told = measure_separability(design, targets[:, position])
        tells.append(ShortcutScore(feature, int(present[position]), told.accuracy, told.auc, told.z, told.scores))
    return max((tell for tell in tells if tell.z >= believed), key=lambda tell: tell.accuracy, default=None)


def score_corners(thumbnails: UInt8Array, labels: IntArray) -> ShortcutScore | None:
    """The corner that tells a class best, where it tells more than patches that are no corners do.

    A linear classifier on pixels finds what is at the same place in many pictures, such as a logo, and little else; the
    patches beside the corners say how much that little is.

    Args:
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR.
        labels: (N,) classes.
    """
    low, middle, high = 0, (THUMBNAIL - _PATCH) // 2, THUMBNAIL - _PATCH
    corners = {
        "top left": (low, low),
        "top right": (low, high),
        "bottom left": (high, low),
        "bottom right": (high, high),
    }
    others = [(low, middle), (high, middle), (middle, low), (middle, high), (middle, middle)]
    tells = {
        name: score_feature("corner", _patch(thumbnails, *place), labels, _CORNER_BELIEVED)
        for name, place in corners.items()
    }
    found = {name: tell for name, tell in tells.items() if tell is not None}
    if not found:
        return None
    where = max(found, key=lambda name: found[name].accuracy)
    best = found[where]
    elsewhere = 0.5
    for place in others:
        told = measure_separability(_patch(thumbnails, *place), labels == best.label)
        elsewhere = max(elsewhere, told.auc)
    if best.auc - elsewhere < _CORNER_LEAD:
        return None
    return ShortcutScore(best.feature, best.label, best.accuracy, best.auc, best.z, best.scores, where, elsewhere)


def _patch(thumbnails: UInt8Array, top: int, left: int) -> Float64Array:
    """(N, F) luma and colour of a patch, without their mean and slope, which the scene has a say in."""
    patch = thumbnails[:, top : top + _PATCH, left : left + _PATCH].astype(np.float32)
    half = _PATCH // 2
    coarse = patch.reshape(len(patch), half, 2, half, 2, 3).mean(axis=(2, 4))
    luma = coarse @ np.array([0.114, 0.587, 0.299], np.float32)
    colour = coarse[..., ::2] - coarse[..., 1:2]
    rows = [_without_plane(values) for values in (luma, colour[..., 0], colour[..., 1])]
    return np.asarray(np.concatenate(rows, axis=1), np.float64)


def _without_plane(values: FloatArray) -> FloatArray:
    side = values.shape[1]
    along = np.linspace(-1, 1, side)
    plane = np.stack([np.ones((side, side)), np.tile(along, (side, 1)), np.tile(along[:, None], (1, side))]).reshape(
        3, -1
    )
    basis = np.linalg.qr(plane.T)[0].astype(np.float32)
    flat = values.reshape(len(values), -1)
    return np.asarray(flat - (flat @ basis) @ basis.T, np.float32)


def find_shortcuts(images: ImageTable, rows: IntArray) -> tuple[list[ShortcutScore], list[ShortcutScore]]:
    """What tells a class: of the file, by cause and effect, and of the scene.

    Args:
        images: All of them.
        rows: Those that are looked at.
    """
    labels = images.labels[rows]
    found: dict[str, ShortcutScore | None] = {
        name: score_feature(name, make(images)[rows], labels) for name, make in _FILE.items()
    }
    thumbnails = np.stack([images.thumbnails[row] for row in rows])
    found["corner"] = score_corners(thumbnails, labels) if found["border"] is None else None
    order = ("border", "corner", *(name for name in _FILE if name != "border"))
    scene = [score_feature(name, make(images)[rows], labels) for name, make in _SCENE.items()]
    return [tell for name in order if (tell := found[name]) is not None], [tell for tell in scene if tell is not None]


def looked_at(images: ImageTable, seed: int = 0) -> IntArray:
    """Rows of all images, or of a sample: what test has as well, no test accuracy gives away."""
    rows = np.arange(len(images))
    return rows if len(rows) <= _IMAGES else np.sort(np.random.default_rng(seed).permutation(rows)[:_IMAGES])


def _find(facts: Facts) -> list[Finding]:
    data = facts.data
    if data is None or len(data.classes) < 2:
        return []
    rows = looked_at(data.images)
    if len(rows) < _FEWEST or len(np.unique(data.images.labels[rows])) < 2:
        return []
    of_file, of_scene = find_shortcuts(data.images, rows)
    told = [tell for tell in of_file if tell.accuracy >= _WARNING]
    # Detail takes bytes: where the scene tells as much, it has its say in the file's size.
    scene_best = max((tell.accuracy for tell in of_scene), default=0.5)
    told = [
        t for t in told if t.feature != "file-size" or (t.accuracy >= _SCENE_NOTE and t.accuracy > scene_best + 0.1)
    ]
    findings = []
    if told:
        most = max(tell.accuracy for tell in told) - 0.5
        root = next(tell for tell in told if (tell.accuracy - 0.5) * _EXPLAINS >= most)
        severity: Severity = "problem" if root.accuracy >= _PROBLEM and root.feature != "file-size" else "warning"
        findings.append(
            _finding(data, rows, root, severity, [tell for tell in (*of_file, *of_scene) if tell is not root])
        )
    # One finding for the scene. Textures differ in sharpness by nature; colour that tells all is rarely the object's.
    scene = [tell for tell in of_scene if tell.accuracy >= _SCENE_NOTE]
    if scene and not told:
        tinted = [tell for tell in scene if tell.feature == "colour" and tell.accuracy >= _SCENE_WARNING]
        tell = tinted[0] if tinted else max(scene, key=lambda tell: tell.accuracy)
        others = [other for other in of_scene if other is not tell]
        findings.append(_finding(data, rows, tell, "warning" if tinted else "note", others))
    return findings


def _finding(
    data: DataFacts, rows: IntArray, tell: ShortcutScore, severity: Severity, others: list[ShortcutScore]
) -> Finding:
    name = data.classes[tell.label]
    rest = repr(data.classes[1 - tell.label]) if len(data.classes) == 2 else "the other classes"
    shown = rows[np.argsort(-tell.scores, kind="stable")]
    shown = shown[data.images.labels[shown] == tell.label][:_SHOWN]
    where = f" ({tell.where})" if tell.where else ""
    fix = (
        "If that is how the object looks, let it be; if it is where or when the pictures were taken, add pictures of every "
        "class taken otherwise"
        if tell.feature in _SCENE
        else "Prepare the pictures of all classes alike: cut frames and marks off, and save all in one size and format"
    )
    return Finding(
        cause="shortcut",
        severity=severity,
        title=(
            f"{name!r} can be told from {rest} by {_WORDS[tell.feature]}{where} alone: {tell.accuracy:.0%} right, "
            "guessing gives 50%"
        ),
        fix=fix,
        evidence={
            "feature": tell.feature,
            "class": name,
            "accuracy": round(tell.accuracy, 4),
            "auc": round(tell.auc, 4),
            "z": round(tell.z, 1),
            **({"corner": tell.where, "auc_elsewhere": round(tell.elsewhere or 0.5, 4)} if tell.where else {}),
            "also_tell": {other.feature: round(other.accuracy, 4) for other in others},
            "images": len(rows),
        },
        items=tuple(data.images.paths[row] for row in shown),
        weight=min(1.0, 2 * (tell.accuracy - 0.5)),
    )


CHECKS: tuple[Check, ...] = (
    Check(
        name="shortcuts",
        theme="shortcuts",
        causes=("shortcut",),
        condition=(
            f"a frame, a corner, size, format, compression, orientation or bytes alone tell one class from the others for "
            f"{_WARNING:.0%} of the images, both sides counting the same ({_PROBLEM:.0%} is a problem), {_BELIEVED:g} standard "
            f"deviations beyond shuffled labels; brightness, colour, blur or noise do for {_SCENE_NOTE:.0%} (a note; colour "
            f"from {_SCENE_WARNING:.0%} on a warning)"
        ),
        find=_find,
    ),
)
