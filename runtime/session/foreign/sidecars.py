"""Files beside a model that say how it was trained: timm's and Hugging Face's config.json, preprocessor_config.json, labels.txt."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeclf.runtime.errors import EdgeclfError, ModelFileError, UsageError
from edgeclf.runtime.files import kind_of, parse_failure
from edgeclf.runtime.session.foreign.findings import Findings, found_in
from edgeclf.runtime.session.foreign.given import PixelScaling, numbers_text
from edgeclf.runtime.session.foreign.labels import labels_from, read_labels
from edgeclf.runtime.spec import AREA, MOST_PIXELS_OF_A_SIDE, Interpolation

_CONFIG, _PREPROCESSOR, _LABELS = "config.json", "preprocessor_config.json", "labels.txt"
# A file of names and numbers; anything larger is something else.
_MOST_BYTES = 1 << 24
# timm/data/constants.py and the defaults of resolve_data_config.
_TIMM_MEAN, _TIMM_STD, _TIMM_CROP = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875
# No number of classes and no statistic of pixels is larger.
_MOST_CLASSES, _MOST_NUMBER = 1 << 20, 1e9
# No mean lies beyond the largest pixel, but for rounding.
_BEYOND_RANGE = 1.01
# Smaller crops are a few pixels of the usual image.
_LEAST_CROP = 0.01
# Filters that are not there are replaced by the nearest one that is.
_INTERPOLATIONS: Mapping[str, tuple[Interpolation, bool]] = {
    "bilinear": ("bilinear", True),
    "bicubic": ("bicubic", True),
    "lanczos": ("bicubic", False),
    "hamming": ("bilinear", False),
    "box": (AREA, False),
    "nearest": ("bilinear", False),
}
# PIL.Image.Resampling.
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_OTHER_TASKS = (
    "ObjectDetection",
    "Segmentation",
    "SequenceClassification",
    "TokenClassification",
    "CausalLM",
    "DepthEstimation",
)


def read_sidecars(path: Path) -> list[Findings]:
    """What the files beside a model say, the most trusted first; files that are about something else are passed over.

    Args:
        path: The model's file, or the folder of a SavedModel. Where a file's folder is called `onnx`, as in repositories of Hugging Face, files lie above it too.

    Raises:
        ModelFileError: They say that the model is no image classifier.
    """
    found: list[Findings] = []
    preprocessor, config = _json_beside(path, _PREPROCESSOR, found), _json_beside(path, _CONFIG, found)
    if preprocessor is not None and ("image_mean" in preprocessor or "size" in preprocessor):
        found.append(_hugging_face_processor(preprocessor))
    if config is not None:
        if _is_timm(config):
            found.append(timm_findings(config))
        elif "id2label" in config or "architectures" in config:
            found.append(_hugging_face_config(config, path))
    beside = _beside(path, _LABELS)
    if beside is not None:
        try:
            labels = read_labels(beside)
        except EdgeclfError as error:
            found.append(Findings(found_in(_LABELS), notes=(str(error).removesuffix("."),)))
        else:
            found.append(Findings(found_in(_LABELS), labels=labels.labels, notes=(labels.note,) if labels.note else ()))
    return found


def read_timm_config(path: Path) -> Findings | None:
    """What timm's config.json beside a model says; None where there is none."""
    config = _json_beside(path, _CONFIG)
    return timm_findings(config) if config is not None and _is_timm(config) else None


def _is_timm(config: Mapping[str, Any]) -> bool:
    # On the hub the numbers lie in a part of their own; what timm writes locally may have them at the top.
    return isinstance(config.get("pretrained_cfg"), Mapping) or ("crop_pct" in config and "mean" in config)


def timm_findings(config: Mapping[str, Any]) -> Findings:
    """What a config.json of timm says, as `timm.data.resolve_data_config` and `create_transform` understand it."""
    inner = config.get("pretrained_cfg")
    values: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
    notes: list[str] = []
    crop_pct = _number(values.get("crop_pct"), _TIMM_CROP)
    if crop_pct < _LEAST_CROP:
        crop_pct = _TIMM_CROP
    mode = str(values.get("crop_mode") or "center")
    mean, std = _triple(values.get("mean")) or _TIMM_MEAN, _triple(values.get("std")) or _TIMM_STD
    interpolation = _interpolation(values.get("interpolation") or "bicubic", notes)
    scaling, unusable = _timm_scaling(mean, std)
    if mode in {"squash", "border"} and crop_pct != 1.0:
        notes.append(
            f"config.json asks for crop_mode {mode} with crop_pct {crop_pct:g}: the whole image is shown instead"
        )
    pad_value = None
    if mode == "border" and 0 <= min(mean) <= max(mean) <= 1:
        colour = [round(255 * value) for value in mean]
        pad_value = round(sum(255 * value for value in mean) / 3) if len(mean) == 3 else colour[0]
        if len(set(colour)) > 1:
            notes.append(f"config.json pads with the colour {tuple(colour)}: grey {pad_value} is used instead")
    # A list of names, or WordNet's identifiers with descriptions beside them.
    names = config.get("label_names", values.get("label_names"))
    descriptions = config.get("label_descriptions", values.get("label_descriptions"))
    labels = labels_from(names)
    if labels is not None and isinstance(descriptions, Mapping):
        described = labels_from([descriptions.get(label, label) for label in labels])
        labels = labels if described is None else described
    classes = config.get("num_classes", values.get("num_classes"))
    size = values.get("input_size")
    return Findings(
        found_in(_CONFIG),
        labels=labels,
        scaling=scaling,
        channels="rgb",
        fit={"squash": "stretch", "border": "letterbox"}.get(mode, "crop"),  # type: ignore[arg-type]  # fit modes
        crop_fraction=crop_pct if 0 < crop_pct <= 1 else None,
        pad_value=pad_value,
        interpolation=interpolation,
        size_hw=None if (sides := _sides(size, 3)) is None else (sides[1], sides[2]),
        classes=_positive(classes, _MOST_CLASSES),
        unusable_scaling=unusable,
        notes=tuple(notes),
    )


def _timm_scaling(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[PixelScaling | None, str | None]:
    """The normalisation of timm, which is of pixels 0..1, and the phrase for one that contradicts itself."""
    try:
        if max(map(abs, mean)) <= 1 and max(std) <= 1:
            # A std of 1, as MobileViT's, leaves the division out.
            return PixelScaling(tuple(255 * value for value in mean), tuple(255 * value for value in std)), None
        # Some write numbers of 0..255 there.
        return PixelScaling(mean, std).in_bytes(), None
    except UsageError:
        return None, _contradiction(mean, std, _CONFIG)


def _contradiction(mean: tuple[float, ...], std: tuple[float, ...], name: str, of: str = "") -> str:
    return f"mean {numbers_text(mean)} and std {numbers_text(std)}{of} in {name}, which contradict each other"


def _hugging_face_config(config: Mapping[str, Any], path: Path) -> Findings:
    said = config.get("architectures")
    architectures = [name for name in said if isinstance(name, str)] if isinstance(said, list) else []
    other = next((name for name in architectures if any(task in name for task in _OTHER_TASKS)), None)
    if other is not None:
        raise ModelFileError(
            f"{path} is no image classifier",
            got=f"a {other}, as the config.json beside it says",
            expected="a model ForImageClassification",
            hint="export one, or move config.json away if it belongs to another model",
        )
    labels = labels_from(config.get("id2label"))
    size = config.get("image_size")
    sides = _sides(size if isinstance(size, list) else [size, size], 2)
    return Findings(
        found_in(_CONFIG),
        labels=labels,
        size_hw=None if sides is None else (sides[0], sides[1]),
        classes=None if labels is None else len(labels),
        is_multi_label=config.get("problem_type") == "multi_label_classification",
    )


def _hugging_face_processor(values: Mapping[str, Any]) -> Findings:
    """What an image processor of Hugging Face's transformers does, by its parameters."""
    notes: list[str] = []
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    height, width, shortest = _hugging_face_size(values.get("size"))
    crop_height, crop_width, crop_side = _hugging_face_size(values.get("crop_size"))
    crop_hw = _pair(crop_height or crop_side, crop_width or crop_side)
    fit: Any = None
    fraction: float | None = None
    size_hw = _pair(height, width)
    crop_pct = _number(values.get("crop_pct"), 0.0)
    if not _LEAST_CROP <= crop_pct <= 1:
        crop_pct = 0.0
    if kind.startswith("ConvNext") and shortest is not None:
        size_hw = (shortest, shortest)
        fit, fraction = ("crop", crop_pct or 0.875) if shortest < 384 else ("stretch", None)
    elif _flag(values.get("do_center_crop"), default=False) and crop_hw is not None:
        size_hw = crop_hw
        side = shortest if shortest is not None else min(height or 0, width or 0)
        if crop_pct:
            side = math.floor(side / crop_pct)
        elif kind.startswith("Levit"):
            # It resizes to 256/224 of what it is told.
            side = int(256 / 224 * side)
        if shortest is None and side > min(crop_hw):
            notes.append(f"{_PREPROCESSOR} stretches before it crops: the proportions of the image are kept instead")
        if side >= min(crop_hw):
            fit, fraction = "crop", min(crop_hw) / side
    elif size_hw is not None and _flag(values.get("do_resize"), default=True):
        fit = "stretch"
    elif (
        shortest is not None
        and kind.startswith(("ViT", "DeiT", "Beit"))
        and not isinstance(values.get("size"), Mapping)
    ):
        size_hw, fit = (shortest, shortest), "stretch"
    resample = values.get("resample")
    number = -1 if isinstance(resample, bool) or not isinstance(resample, int) else resample
    name = _RESAMPLING[number] if 0 <= number < len(_RESAMPLING) else None
    scaling, unusable = _hugging_face_scaling(values, kind, notes)
    return Findings(
        found_in(_PREPROCESSOR),
        scaling=scaling,
        channels="bgr" if _flag(values.get("do_flip_channel_order"), default=False) else "rgb",
        fit=fit,
        crop_fraction=fraction,
        interpolation=None if name is None else _interpolation(name, notes),
        size_hw=size_hw,
        unusable_scaling=unusable,
        notes=tuple(notes),
    )


def _hugging_face_size(value: object) -> tuple[int | None, int | None, int | None]:
    """Height, width and shortest edge of what processors call a size."""
    if isinstance(value, int):
        return None, None, _positive(value)
    sides = _sides(value, 2)
    if sides is not None:
        return sides[0], sides[1], None
    if not isinstance(value, Mapping):
        return None, None, None
    height, width, shortest = (value.get(key) for key in ("height", "width", "shortest_edge"))
    return _positive(height), _positive(width), _positive(shortest)


def _pair(height: int | None, width: int | None) -> tuple[int, int] | None:
    return None if height is None or width is None else (height, width)


def _hugging_face_scaling(
    values: Mapping[str, Any], kind: str, notes: list[str]
) -> tuple[PixelScaling | None, str | None]:
    """The pixel normalisation: `(pixel * rescale_factor - image_mean) / image_std`, each step if it is switched on.

    Returns:
        The normalisation, and the phrase for one that contradicts itself; None for what there is not.
    """
    factor = _number(values.get("rescale_factor"), 1 / 255) if _flag(values.get("do_rescale"), default=True) else 1.0
    # EfficientNet's processor can move pixels to -1..1 before it normalises.
    offset = 1.0 if _flag(values.get("rescale_offset"), default=False) else 0.0
    if factor <= 0:
        return None, None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    # MobileViT's processor has no such step, and does not name it.
    if _flag(values.get("do_normalize"), default=not kind.startswith("MobileViT")):
        means, stds = _triple(values.get("image_mean")), _triple(values.get("image_std"))
        if means is None or stds is None or min(stds) <= 0:
            return None, None
        mean, std = means, stds
        if factor == 1.0 and max(map(abs, mean)) <= 1 and max(std) < 1:
            # It is given images of 0..1: no pixels of 0..255 have such a std.
            factor = 1 / 255
            notes.append(
                f"{_PREPROCESSOR} has a mean and std of pixels 0..1, and does not rescale: they are scaled to 0..255"
            )
        elif max(map(abs, mean)) > _BEYOND_RANGE * 255 * factor:
            return None, _contradiction(mean, std, _PREPROCESSOR, f" behind a rescaling by {factor:.6g}")
    try:
        return PixelScaling(
            tuple((value + offset) / factor for value in mean), tuple(value / factor for value in std)
        ), None
    except UsageError:
        return None, None


def _interpolation(name: object, notes: list[str]) -> Interpolation | None:
    known = _INTERPOLATIONS.get(str(name))
    if known is None:
        return None
    if not known[1]:
        notes.append(f"the training's {name} interpolation is replaced by {'area' if known[0] == AREA else known[0]}")
    return known[0]


def _number(value: object, default: float) -> float:
    # Whole numbers of JSON may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST_NUMBER:
        return default
    return float(value)


def _flag(value: object, *, default: bool) -> bool:
    """True or false; the default for what is neither, which transformers would take for true."""
    return value if isinstance(value, bool) else default


def _positive(value: object, most: int = MOST_PIXELS_OF_A_SIDE) -> int | None:
    """A whole number from 1 to `most`, a side of an image if nothing else is said; None for anything else. `true` is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most else None


def _triple(value: object) -> tuple[float, ...] | None:
    values = [value] if isinstance(value, int | float) else value
    if not isinstance(values, list | tuple) or len(values) not in {1, 3}:
        return None
    numbers = [_number(item, math.nan) for item in values]
    return tuple(numbers) if all(map(math.isfinite, numbers)) else None


def _sides(value: object, count: int) -> list[int] | None:
    """A list of so many positive integers; None for anything else."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    sides = [side for side in map(_positive, value) if side is not None]
    return sides if len(sides) == count else None


def _beside(path: Path, name: str) -> Path | None:
    # A SavedModel is a folder: its own files come first.
    folders = [path, path.parent] if kind_of(path) == "folder" else [path.parent]
    if path.absolute().parent.name == "onnx":
        folders.append(path.absolute().parent.parent)
    return next((folder / name for folder in folders if kind_of(folder / name) == "file"), None)


def _json_beside(path: Path, name: str, found: list[Findings] | None = None) -> Mapping[str, Any] | None:
    """A JSON object beside the model; None where there is none, with a note among what was found where a file is damaged."""
    beside = _beside(path, name)
    if beside is None:
        return None
    import json

    try:
        if beside.stat().st_size > _MOST_BYTES:
            return None
        document = json.loads(beside.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if found is not None:
            text = f"the {name} beside the file cannot be read and is left out: {parse_failure(error)}"
            found.append(Findings(found_in(name), notes=(text,)))
        return None
    return document if isinstance(document, dict) else None
