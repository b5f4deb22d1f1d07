"""Check of shortcuts: classes predictable from a file property, a corner or the scene instead of the object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.toolkit.doctor.checks.factors import channel_share, colourfulness, visible_blockiness
from edgeclf.toolkit.doctor.checks.separability import binned, class_chances, held_out_scores, measure_separability
from edgeclf.toolkit.doctor.facts import THUMBNAIL, Check, DataFacts, Facts, ImageTable
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.statistics import stratified_auc

# Balanced accuracy of one feature alone (0.5 is guessing) for a warning and for a problem.
_WARNING, _PROBLEM = 0.62, 0.8
# Balanced accuracy of a scene feature for a note and, for colour, for a warning: it may well belong to the object.
_SCENE_NOTE, _SCENE_WARNING = 0.75, 0.95
# Significance in standard deviations of shuffled labels.
_SIGNIFICANT_Z = 4.5
# A more fundamental feature explains others whose accuracy above guessing is up to this many times its own.
_EXPLAINS = 1.5
# Corners: a lower significance is enough, where the AUC also exceeds that of patches elsewhere by this much.
_CORNER_SIGNIFICANT_Z, _CORNER_LEAD = 4.0, 0.05
# Side of a patch in pixels of the thumbnail.
_PATCH = 10
# Most predictable classes that are tested per feature, and size of the sample of images.
_CLASSES, _MAX_IMAGES = 3, 10_000
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


# Features that do not depend on the content, most fundamental first: a frame fills the corners; fewer pixels and another
# format change the file's size.
_FILE_FEATURES: Mapping[str, Callable[[ImageTable], Float64Array]] = {
    "border": _columns("border"),
    "resolution": _columns("width", "height"),
    "format": _formats,
    "compression": _compression,
    "orientation": _columns("orientation"),
    "file-size": _columns("file_bytes"),
}
# Features of the scene, which may belong to the object.
_SCENE_FEATURES: Mapping[str, Callable[[ImageTable], Float64Array]] = {
    "brightness": _columns("brightness"),
    "colour": _colours,
    "blur": _columns("edge_sharpness"),
    "noise": _columns("noise"),
}
# Features with the four corners, chance of a false finding over all of them and all classes, and shuffles that it takes.
_TESTED, _LEVEL = len(_FILE_FEATURES) + len(_SCENE_FEATURES) + 4, 0.01
_LABEL_SHUFFLES = round(_TESTED / _LEVEL) - 1
_FEATURE_NAMES = {
    "border": "a frame around the image",
    "corner": "a patch in a corner",
    "resolution": "width and height",
    "format": "the file format",
    "compression": "how strongly the file is compressed",
    "orientation": "the EXIF orientation",
    "file-size": "the file's size",
    "brightness": "the mean brightness",
    "colour": "the mean colour",
    "blur": "how sharp the image is",
    "noise": "how noisy the image is",
}


@dataclass(frozen=True, eq=False)
class ShortcutScore:
    """Predictability of one class from one feature.

    Attributes:
        feature: Name of the feature.
        label: Class index.
        accuracy: Balanced accuracy, one class against all others; 0.5 is guessing.
        auc: Area under the ROC curve.
        z: AUC above that of shuffled labels, in standard deviations.
        scores: (N,) held-out scores.
        where: Name of the corner, for a corner.
        elsewhere: For a corner, the best AUC of patches of the same size that are no corners.
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
    feature: str, design: Float64Array, labels: IntArray, significant_z: float = _SIGNIFICANT_Z
) -> ShortcutScore | None:
    """Score of the class that a feature predicts best; None where no class is significant.

    Args:
        feature: Name of the feature.
        design: (N, F) design matrix of the feature.
        labels: (N,) class indices.
        significant_z: Required significance in standard deviations of shuffled labels.
    """
    if not len(design) or (design == design[0]).all():
        return None
    present = np.unique(labels)
    targets = labels[:, None] == present[None, :]
    counts = targets.sum(axis=0)
    # In standard deviations of the rank sum, so that a class of three images is not the best by luck.
    aucs = stratified_auc(held_out_scores(design, targets.astype(np.float64)), targets)
    surprise = (aucs - 0.5) * np.sqrt(12.0 * counts * (len(labels) - counts) / (len(labels) + 1.0))
    scores = []
    for position in np.argsort(-surprise)[:_CLASSES]:
        if surprise[position] < significant_z / 2 or counts[position] < _FEWEST / 2:
            continue
        separability = measure_separability(design, targets[:, position])
        if separability.z < significant_z:
            continue
        scores.append(
            ShortcutScore(
                feature,
                int(present[position]),
                separability.accuracy,
                separability.auc,
                separability.z,
                separability.scores,
            )
        )
    if not scores:
        return None
    # The best of many classes, by one of many features, is far out by luck.
    chances = class_chances(design, labels, fewest=_FEWEST // 2, shuffles=_LABEL_SHUFFLES)
    sure = [score for score in scores if chances[np.searchsorted(present, score.label)] <= _LEVEL / _TESTED]
    return max(sure, key=lambda score: score.accuracy, default=None)


def score_corners(thumbnails: UInt8Array, labels: IntArray) -> ShortcutScore | None:
    """Score of the corner that predicts a class best; None where other patches predict that class as well.

    A linear classifier on pixels finds what is at the same place in many images, such as a logo; patches that are no corners
    give the baseline.

    Args:
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR.
        labels: (N,) class indices.
    """
    low, middle, high = 0, (THUMBNAIL - _PATCH) // 2, THUMBNAIL - _PATCH
    corners = {
        "top left": (low, low),
        "top right": (low, high),
        "bottom left": (high, low),
        "bottom right": (high, high),
    }
    others = [(low, middle), (high, middle), (middle, low), (middle, high), (middle, middle)]
    scores = {
        name: score_feature("corner", _patch(thumbnails, *place), labels, _CORNER_SIGNIFICANT_Z)
        for name, place in corners.items()
    }
    found = {name: score for name, score in scores.items() if score is not None}
    if not found:
        return None
    where = max(found, key=lambda name: found[name].accuracy)
    best = found[where]
    elsewhere = 0.5
    for place in others:
        separability = measure_separability(_patch(thumbnails, *place), labels == best.label)
        elsewhere = max(elsewhere, separability.auc)
    if best.auc - elsewhere < _CORNER_LEAD:
        return None
    return ShortcutScore(best.feature, best.label, best.accuracy, best.auc, best.z, best.scores, where, elsewhere)


def _patch(thumbnails: UInt8Array, top: int, left: int) -> Float64Array:
    """(N, F) luma and colour differences of a patch at half resolution, without the mean and slope that the scene causes."""
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
    """Scores of all features that predict a class.

    Args:
        images: The image table.
        rows: Rows of the images that are used.

    Returns:
        Scores of file features, most fundamental first, and of scene features.
    """
    labels = images.labels[rows]
    found: dict[str, ShortcutScore | None] = {
        name: score_feature(name, make(images)[rows], labels) for name, make in _FILE_FEATURES.items()
    }
    thumbnails = np.stack([images.thumbnails[row] for row in rows])
    found["corner"] = score_corners(thumbnails, labels) if found["border"] is None else None
    order = ("border", "corner", *(name for name in _FILE_FEATURES if name != "border"))
    scene = [score_feature(name, make(images)[rows], labels) for name, make in _SCENE_FEATURES.items()]
    return [score for name in order if (score := found[name]) is not None], [
        score for score in scene if score is not None
    ]


def sampled_rows(images: ImageTable, seed: int = 0) -> IntArray:
    """Rows of all images of all splits, or of a random sample: a shortcut in test as well is invisible in test accuracy."""
    rows = np.arange(len(images))
    return rows if len(rows) <= _MAX_IMAGES else np.sort(np.random.default_rng(seed).permutation(rows)[:_MAX_IMAGES])


def _find(facts: Facts) -> list[Finding]:
    data = facts.data
    if data is None or len(data.classes) < 2:
        return []
    rows = sampled_rows(data.images)
    if len(rows) < _FEWEST or len(np.unique(data.images.labels[rows])) < 2:
        return []
    of_file, of_scene = find_shortcuts(data.images, rows)
    shortcuts = [score for score in of_file if score.accuracy >= _WARNING]
    # Detail takes bytes: where the scene predicts as much, it explains the file's size.
    scene_best = max((score.accuracy for score in of_scene), default=0.5)
    shortcuts = [
        t
        for t in shortcuts
        if t.feature != "file-size" or (t.accuracy >= _SCENE_NOTE and t.accuracy > scene_best + 0.1)
    ]
    findings = []
    if shortcuts:
        most = max(score.accuracy for score in shortcuts) - 0.5
        root = next(score for score in shortcuts if (score.accuracy - 0.5) * _EXPLAINS >= most)
        severity: Severity = "problem" if root.accuracy >= _PROBLEM and root.feature != "file-size" else "warning"
        findings.append(
            _finding(data, rows, root, severity, [score for score in (*of_file, *of_scene) if score is not root])
        )
    # One finding for the scene. Textures differ in sharpness by nature; colour that predicts nearly all is rarely the object's.
    scene = [score for score in of_scene if score.accuracy >= _SCENE_NOTE]
    if scene and not shortcuts:
        tinted = [score for score in scene if score.feature == "colour" and score.accuracy >= _SCENE_WARNING]
        score = tinted[0] if tinted else max(scene, key=lambda score: score.accuracy)
        others = [other for other in of_scene if other is not score]
        findings.append(_finding(data, rows, score, "warning" if tinted else "note", others))
    return findings


def _finding(
    data: DataFacts, rows: IntArray, score: ShortcutScore, severity: Severity, others: list[ShortcutScore]
) -> Finding:
    name = data.classes[score.label]
    rest = repr(data.classes[1 - score.label]) if len(data.classes) == 2 else "the other classes"
    shown = rows[np.argsort(-score.scores, kind="stable")]
    shown = shown[data.images.labels[shown] == score.label][:_SHOWN]
    where = f" ({score.where})" if score.where else ""
    fix = (
        "If that is how the object looks, let it be; if it is where or when the images were taken, add images of every "
        "class taken otherwise"
        if score.feature in _SCENE_FEATURES
        else "Prepare the images of all classes alike: cut frames and marks off, and save all in one size and format"
    )
    return Finding(
        cause="shortcut",
        severity=severity,
        title=(
            f"{name!r} can be told from {rest} by {_FEATURE_NAMES[score.feature]}{where} alone: {score.accuracy:.0%} right, "
            "guessing gives 50%"
        ),
        fix=fix,
        evidence={
            "feature": score.feature,
            "class": name,
            "accuracy": round(score.accuracy, 4),
            "auc": round(score.auc, 4),
            "z": round(score.z, 1),
            **({"corner": score.where, "auc_elsewhere": round(score.elsewhere or 0.5, 4)} if score.where else {}),
            "also_tell": {other.feature: round(other.accuracy, 4) for other in others},
            "images": len(rows),
        },
        items=tuple(data.images.paths[row] for row in shown),
        weight=min(1.0, 2 * (score.accuracy - 0.5)),
    )


CHECKS: tuple[Check, ...] = (
    Check(
        name="shortcuts",
        theme="shortcuts",
        causes=("shortcut",),
        condition=(
            f"a frame, a corner, size, format, compression, orientation or bytes alone tell one class from the others for "
            f"{_WARNING:.0%} of the images, both sides counting the same ({_PROBLEM:.0%} is a problem), {_SIGNIFICANT_Z:g} standard "
            f"deviations beyond shuffled labels and beyond chance (shuffled labels again, {_LEVEL:g} over all features and classes); brightness, colour, blur or noise do for {_SCENE_NOTE:.0%} (a note; colour "
            f"from {_SCENE_WARNING:.0%} on a warning)"
        ),
        find=_find,
    ),
)
