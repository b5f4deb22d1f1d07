"""Facts of a model file on photographs: what it gives in the way it is used, and in the ways that are often meant instead."""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeclf.runtime import ForeignModel, ModelSession, PixelScaling
from edgeclf.runtime.arrays import FloatArray, IntArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import DatasetError, ImageError, InputError, ModelFileError
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session.foreign.findings import ASSUMED
from edgeclf.runtime.session.foreign.given import numbers_text
from edgeclf.runtime.session.foreign.graph_entry import graph_entry
from edgeclf.runtime.session.foreign.presets import IMAGENET, SIGNED_UNIT, UNIT
from edgeclf.runtime.session.foreign.resolution import resolve_foreign
from edgeclf.runtime.session.foreign.use import Channels, ModelUse
from edgeclf.runtime.session.graph_outline import read_graph_outline
from edgeclf.runtime.spec import INTERPOLATION_NAMES, FitMode, Preprocess
from edgeclf.toolkit.doctor.facts import DataFacts, ModelFacts, Trial, UseFacts
from edgeclf.toolkit.doctor.gather.data import sample_rows
from edgeclf.toolkit.doctor.gather.probes import PERTURBATIONS, perturb_images
from edgeclf.toolkit.doctor.statistics import is_above_chance
from edgeclf.toolkit.doctor.use_analysis import Judgement, answers_of, judge_use, outputs_by_name
from edgeclf.toolkit.foreign import options_for

# Photographs that the model is shown, and of unlabelled ones, of which little can be told.
LABELLED_IMAGES, UNLABELLED_IMAGES = 300, 100
_BATCH = 32
# A way is given up once it is clearly worse on so many images, by so many standard deviations of a sign test.
_LEAST_SEEN, _CLEARLY_WORSE = 64, 3.5
_CAFFE = PixelScaling((123.68, 116.779, 103.939), (1.0,))
_BYTES = PixelScaling((0.0,), (1.0,))
_SCALINGS = (IMAGENET, UNIT, SIGNED_UNIT, _BYTES, _CAFFE)
_FITS: tuple[tuple[FitMode, float], ...] = (("stretch", 1.0), ("crop", 1.0), ("crop", 0.875), ("letterbox", 1.0))


@dataclass(frozen=True, eq=False)
class _Way:
    """One way of using a model: the options that differ, what is opened, and what images go through before."""

    changes: Mapping[str, str]
    session: ModelSession
    preprocess: Preprocess
    is_swapped: bool = False

    def run(self, images_rgb: UInt8Array) -> FloatArray:
        return self.session.run(np.ascontiguousarray(images_rgb[..., ::-1]) if self.is_swapped else images_rgb)


@dataclass(frozen=True, eq=False)
class ExaminedFile:
    """What was gathered of a model file.

    Attributes:
        use: What it gives in each way.
        used_as: How it is used; None for a file with a spec.
        held_out: Its predictions, unchanged and perturbed, for the checks of a network; None where another way fits
            better, or nothing tells which output is which class.
    """

    use: UseFacts
    used_as: ModelUse | None
    held_out: ModelFacts | None


def gather_model_file(
    model: Path,
    data: DataFacts,
    *,
    foreign: ForeignModel,
    given: Mapping[str, str],
    int8: Path | None,
    max_images: int | None,
    seed: int,
    progress: Progress,
) -> ExaminedFile:
    """Shows photographs to a model file, in the way it is used and in others.

    Args:
        model: The `.onnx` file.
        data: Facts of the photographs.
        foreign: What is said of a file without a spec.
        given: The same as it was typed, values by option.
        int8: An int8 file of the same classes, to compare with; None for none.
        max_images: Most photographs it is shown; None for 300 with labels and 100 without.
        seed: Seed of the sample.
        progress: Reports stages.

    Raises:
        ModelFileError: The file cannot be opened, or says too little about itself.
        UsageError: Options are given for a file that has a spec.
        DatasetError: None of the photographs can be read.
    """
    session, is_scaling_unsaid = _open(model, foreign, is_labelled=bool(data.classes))
    reader = _Reader(data, _chosen(data, max_images, seed))
    given_way = _Way({}, session, session.spec.preprocess)
    by_name = outputs_by_name(data.classes, session.spec.labels)
    ways = [given_way, *_other_pixels(given_way), *(_other_fits(given_way) if data.classes else ())]
    tried = _try(ways, reader, by_name, "the model in other ways", progress)
    use = UseFacts(
        model=str(model),
        data=data.given,
        given=given,
        is_foreign=session.is_foreign,
        is_scaling_unsaid=is_scaling_unsaid,
        scales_itself=session.is_foreign and graph_entry(read_graph_outline(model)).scales_bytes,
        labels=session.spec.labels,
        has_names=session.use is None or session.use.origins["labels"] != ASSUMED,
        activation=None if session.use is None else session.use.activation,
        is_one_value=session.use is not None and session.use.classes == 1,
        paths=tuple(data.images.paths[row] for row in tried.rows),
        folders=data.classes,
        true=data.images.labels[tried.rows],
        trials=tried.trials,
        raw=tried.raw,
    )
    judgement = use.derived(judge_use)
    if judgement is not None and {"--mean", "--channels"} & use.trials[judgement.best].changes.keys():
        best = next(way for way in ways if way.changes == use.trials[judgement.best].changes)
        fits = _try([given_way, *_other_fits(best)], reader, by_name, "the better way in other fits", progress)
        use = replace(use, trials=(*use.trials, *fits.trials[1:]))
        judgement = use.derived(judge_use)
    held_out = None
    if judgement is not None and not judgement.is_better:
        held_out = _held_out(given_way, tried, use, judgement, int8, foreign, seed, progress)
    return ExaminedFile(use, session.use, held_out)


def _open(model: Path, foreign: ForeignModel, *, is_labelled: bool) -> tuple[ModelSession, bool]:
    """The session, and whether its scaling was missing: a division by 255 stands in where labels can tell the right one."""
    own = options_for(model, foreign)
    if own is None:
        return ModelSession(model, device="cpu", foreign=foreign), False
    is_unsaid = is_labelled and _lacks_scaling_alone(model, own)
    return ModelSession(model, device="cpu", foreign=replace(own, scaling=UNIT) if is_unsaid else own), is_unsaid


def _lacks_scaling_alone(model: Path, foreign: ForeignModel) -> bool:
    try:
        outline = read_graph_outline(model)
    except ModelFileError:
        # Opening it says why.
        return False
    use = resolve_foreign(model, outline, foreign)
    return len(use.missing) == 1 and not use.origins["scaling"]


def _chosen(data: DataFacts, max_images: int | None, seed: int) -> IntArray:
    """Rows of the images that are shown, in random order, so that each prefix is a sample too."""
    most = max_images or (LABELLED_IMAGES if data.classes else UNLABELLED_IMAGES)
    rows = sample_rows(data.images.labels, data.images.splits, most, seed)
    return np.random.default_rng(seed).permutation(rows)


def _other_pixels(way: _Way) -> list[_Way]:
    """The ways that differ in channels, and for a float input in scaling."""
    use = way.session.use
    if use is None:
        # Options say nothing of a file with a spec.
        return [replace(way, changes={"--channels": "bgr"}, is_swapped=True)]
    orders: tuple[Channels, ...] = ("grey",) if use.channels == "grey" else ("rgb", "bgr")
    scalings: list[PixelScaling | None] = [use.scaling]
    if use.scaling is not None:
        # The mean and std of B, G, R, as some write them down.
        backwards = PixelScaling(use.scaling.mean[::-1], use.scaling.std[::-1])
        for usual in (*_SCALINGS, backwards):
            is_known = any(_is_same(usual, other, use.input.channels) for other in scalings)
            if usual.of_channels(use.input.channels) is not None and not is_known:
                scalings.append(usual)
    ways = []
    for scaling in scalings:
        for order in orders:
            changes: dict[str, str] = {}
            if scaling is not use.scaling and scaling is not None:
                changes |= {"--mean": numbers_text(scaling.mean), "--std": numbers_text(scaling.std)}
            if order != use.channels:
                changes |= {"--channels": order}
            if changes:
                other = replace(use, scaling=scaling, channels=order)
                ways.append(replace(way, changes=changes, session=way.session.used_as(other)))
    return ways


def _is_same(scaling: PixelScaling, other: PixelScaling | None, channels: int) -> bool:
    """Whether two normalisations give a network nearly the same."""
    numbers, others = scaling.of_channels(channels), None if other is None else other.of_channels(channels)
    if numbers is None or others is None:
        return False
    mean, std = (np.subtract(one, two) / np.array(others[1]) for one, two in zip(numbers, others, strict=True))
    return bool((np.abs(mean) < 0.05).all() and (np.abs(std) < 0.05).all())


def _other_fits(way: _Way) -> list[_Way]:
    """The ways that differ in fit or in interpolation."""
    now = way.preprocess
    ways = []
    for fit, fraction in _FITS:
        if (fit, fraction) != (now.fit, now.crop_fraction if now.fit == "crop" else 1.0):
            changes = {"--fit": fit, "--crop-fraction": f"{fraction:g}"} if fit == "crop" else {"--fit": fit}
            other = replace(now, fit=fit, crop_fraction=fraction)
            ways.append(replace(way, changes={**way.changes, **changes}, preprocess=other))
    for name, interpolation in INTERPOLATION_NAMES.items():
        if interpolation != now.interpolation:
            other = replace(now, interpolation=interpolation)
            ways.append(replace(way, changes={**way.changes, "--interpolation": name}, preprocess=other))
    return ways


class _Reader:
    """The chosen photographs, decoded a few at a time."""

    def __init__(self, data: DataFacts, rows: IntArray) -> None:
        self._data = data
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def outputs(self, rows: Sequence[IntArray], by_name: IntArray) -> IntArray:
        """(N,) the output that each row's class has by its name; -1 for none."""
        labels = self._data.images.labels[np.concatenate(rows)]
        return by_name[labels] if len(by_name) else np.full(len(labels), -1)

    def nothing_readable(self) -> DatasetError:
        """The error for photographs of which none can be read."""
        what = f"no image of {self._data.given} can be read"
        return DatasetError(what, expected="photographs", hint="check the files")

    def batches(self) -> Iterator[tuple[IntArray, list[UInt8Array]]]:
        """Rows of the image table, and their pixels in BGR; what cannot be read any more is left out."""
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for start in range(0, len(self._rows), _BATCH):
                part = self._rows[start : start + _BATCH]
                images = list(pool.map(self._load, part.tolist()))
                kept = [n for n, image in enumerate(images) if image is not None]
                if kept:
                    yield part[kept], [image for image in images if image is not None]

    def _load(self, row: int) -> UInt8Array | None:
        try:
            return load_image(self._data.root / self._data.images.paths[row])
        except ImageError:
            return None


@dataclass(frozen=True, eq=False)
class _Tried:
    """Results of the ways: their trials, the images of the first way, its output as it is, and the rows of the table."""

    trials: tuple[Trial, ...]
    images_rgb: UInt8Array
    raw: FloatArray
    rows: IntArray


def _try(ways: Sequence[_Way], reader: _Reader, by_name: IntArray, stage: str, progress: Progress) -> _Tried:
    """Runs every way on the photographs; one that is clearly worse than the first is given up."""
    found: list[list[FloatArray]] = [[] for _ in ways]
    alive = list(range(len(ways)))
    as_it_is = _as_it_is(ways[0].session)
    rows: list[IntArray] = []
    raw: list[FloatArray] = []
    first: list[UInt8Array] = []
    done = 0
    for part, images in reader.batches():
        inputs: dict[Preprocess, UInt8Array] = {}
        for number in alive:
            way = ways[number]
            if way.preprocess not in inputs:
                inputs[way.preprocess] = np.stack([preprocess_bgr(image, way.preprocess) for image in images])
            found[number].append(way.run(inputs[way.preprocess]))
        first.append(inputs[ways[0].preprocess])
        raw.append(found[0][-1] if as_it_is is None else as_it_is.run(first[-1]))
        rows.append(part)
        done += len(images)
        outputs = reader.outputs(rows, by_name)
        alive = [n for n in alive if n == 0 or not _is_worse(found[n], found[0], outputs)]
        progress(stage, done, len(reader))
    if not rows:
        raise reader.nothing_readable()
    trials = tuple(Trial(way.changes, np.concatenate(its)) for way, its in zip(ways, found, strict=True))
    return _Tried(trials, np.concatenate(first), np.concatenate(raw), np.concatenate(rows))


def _as_it_is(session: ModelSession) -> ModelSession | None:
    """The session without what is done to the output of a foreign model; None where nothing is done."""
    if session.use is None or session.use.activation in {"softmax", "sigmoid"}:
        return None
    return session.used_as(replace(session.use, activation="softmax"))


def _is_worse(found: Sequence[FloatArray], first: Sequence[FloatArray], outputs: IntArray) -> bool:
    """Whether a way is clearly worse than the first one: a difference that no later image makes good."""
    known = outputs >= 0
    if int(known.sum()) < _LEAST_SEEN:
        return False
    right, right_first = (answers_of(np.concatenate(its))[known] == outputs[known] for its in (found, first))
    # By names in a wrong order, the best way is the worst.
    largest = float(np.bincount(outputs[known]).max() / known.sum())
    if not is_above_chance(float(right_first.mean()), largest, len(right_first)):
        return False
    lost, won = int((right_first & ~right).sum()), int((right & ~right_first).sum())
    return lost - won > _CLEARLY_WORSE * math.sqrt(lost + won)


def _held_out(
    way: _Way,
    tried: _Tried,
    use: UseFacts,
    judgement: Judgement,
    int8: Path | None,
    foreign: ForeignModel,
    seed: int,
    progress: Progress,
) -> ModelFacts | None:
    """Predictions of the images whose class is an output, unchanged and perturbed."""
    outputs = judgement.outputs[use.true]
    kept = np.flatnonzero((outputs >= 0) & np.isfinite(tried.trials[0].probabilities).all(axis=1))
    if not len(kept):
        return None
    images = tried.images_rgb[kept]
    perturbed = {}
    for number, name in enumerate(PERTURBATIONS):
        progress("changed images", number, len(PERTURBATIONS))
        perturbed[name] = np.nan_to_num(_run(way.session, perturb_images(images, name, seed)))
    progress("changed images", len(PERTURBATIONS), len(PERTURBATIONS))
    return ModelFacts(
        split="given",
        paths=tuple(use.paths[row] for row in kept),
        true=outputs[kept],
        probabilities=tried.trials[0].probabilities[kept],
        perturbed=perturbed,
        int8=None if int8 is None else _int8(way, int8, foreign, images),
        labels=_names(use, judgement),
    )


def _names(use: UseFacts, judgement: Judgement) -> tuple[str, ...]:
    """Names of the outputs: those of the folders where the answers say which is which."""
    names = list(use.labels)
    if judgement.follows_answers:
        for folder, output in zip(use.folders, judgement.by_answers.tolist(), strict=True):
            if output >= 0:
                names[output] = folder
    return tuple(names)


def _int8(way: _Way, path: Path, foreign: ForeignModel, images_rgb: UInt8Array) -> FloatArray:
    other = ModelSession(path, device="cpu", foreign=options_for(path, foreign))
    mine, its = way.session.spec, other.spec
    if len(its.labels) != len(mine.labels) or its.preprocess.size_hw != mine.preprocess.size_hw:
        raise InputError(
            f"{path} is not an int8 file of {way.session.path}",
            got=f"{len(its.labels)} classes of images {its.preprocess.size_hw[0]} x {its.preprocess.size_hw[1]}",
            expected=f"{len(mine.labels)} of {mine.preprocess.size_hw[0]} x {mine.preprocess.size_hw[1]}",
            hint="export the model to int8",
        )
    return _run(other, images_rgb)


def _run(session: ModelSession, images_rgb: UInt8Array) -> FloatArray:
    return np.concatenate(
        [session.run(images_rgb[start : start + _BATCH]) for start in range(0, len(images_rgb), _BATCH)]
    )
