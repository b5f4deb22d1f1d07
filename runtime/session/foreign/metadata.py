"""Metadata: what exporters write into a file's properties about its preprocessing and labels."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.findings import IN_METADATA, Findings
from edgeclf.runtime.session.foreign.given import ChannelOrder, PixelScaling
from edgeclf.runtime.session.foreign.labels import labels_from, literal_of
from edgeclf.runtime.session.foreign.presets import PRESETS, SIGNED_UNIT, UNIT
from edgeclf.runtime.spec import MOST_PIXELS_OF_A_SIDE

# Of Windows ML, written by Custom Vision among others: onnx/docs/MetadataProps.md.
_PIXEL_FORMATS: Mapping[str, ChannelOrder] = {"bgr8": "bgr", "bgra8": "bgr", "rgb8": "rgb", "rgba8": "rgb"}
_PIXEL_RANGES = {
    "nominalrange_0_255": PixelScaling((0.0,), (1.0,)),
    "normalized_0_1": UNIT,
    "normalized_1_1": SIGNED_UNIT,
}


def read_metadata(metadata: Mapping[str, str], path: Path) -> Findings | None:
    """What a file's properties say; None where they say nothing that is known here.

    Args:
        metadata: The properties.
        path: The file, for the error.

    Raises:
        ModelFileError: They say that the file is no classifier.
    """
    task = metadata.get("task")
    if task is not None and "names" in metadata and task != "classify":
        raise ModelFileError(
            f"{path} is no image classifier",
            got=f"a model of Ultralytics for the task {task!r}",
            expected="the task 'classify'",
            hint="export a -cls model",
        )
    findings = Findings(
        IN_METADATA,
        labels=_labels(metadata),
        scaling=_PIXEL_RANGES.get(metadata.get("Image.NominalPixelRange", "").lower()),
        channels=_PIXEL_FORMATS.get(metadata.get("Image.BitmapPixelFormat", "").lower()),
    )
    if task == "classify" and "names" in metadata:
        findings = replace(
            PRESETS["ultralytics"].findings,
            origin=IN_METADATA,
            labels=findings.labels,
            size_hw=_size(metadata.get("imgsz", "")),
        )
    return None if findings == Findings(IN_METADATA) else findings


def _labels(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    return next(
        (labels for key in ("names", "labels", "classes") if (labels := labels_from(literal_of(metadata.get(key))))),
        None,
    )


def _size(text: str) -> tuple[int, int] | None:
    value = literal_of(text)
    given = value if isinstance(value, list | tuple) else [value, value]
    sides = [side for side in given if isinstance(side, int) and not isinstance(side, bool)]
    if len(sides) == len(given) == 2 and 0 < min(sides) <= max(sides) <= MOST_PIXELS_OF_A_SIDE:
        return int(sides[0]), int(sides[1])
    return None
