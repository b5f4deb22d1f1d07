"""The model spec: the JSON document in `metadata_props["edgeclf.spec"]` of a model file and in a run's `spec.json`.

The spec is everything an application needs besides the graph - labels, input size, resize policy - and everything a
person needs to trust it: how it was trained, quantized and verified, and on which processor.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.files import parse_failure
from edgeclf.runtime.spec.json_documents import Shape, check_shape, check_writable, parse_json, record_from_json, shown

SPEC_KEY = "edgeclf.spec"
SCHEMA_VERSION = 1
UNKNOWN_LABEL = "unknown"

FitMode = Literal["stretch", "crop", "letterbox"]
FIT_MODES: tuple[FitMode, ...] = get_args(FitMode)
Interpolation = Literal["area-down-linear-up", "bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
# OpenCV's INTER_AREA along an axis that shrinks, INTER_LINEAR along one that grows.
AREA: Interpolation = "area-down-linear-up"
# As options call them.
INTERPOLATION_NAMES: dict[str, Interpolation] = {"area": AREA, "bilinear": "bilinear", "bicubic": "bicubic"}

# Of an input: 0.8 GB for the pixels of one image, beyond which no classifier goes.
MOST_PIXELS_OF_A_SIDE = 2**14


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of a decoded image: input size and fit mode.

    Attributes:
        size_hw: Input height and width in pixels.
        fit: `stretch` scales each axis on its own; `crop` cuts the centred region of the input's aspect ratio;
            `letterbox` keeps the whole image and pads.
        crop_fraction: With `crop`, the share of that region's height and width which is kept, in (0, 1]. The usual
            ImageNet evaluation (resize the short side to 256, cut 224) is 0.875; timm calls it `crop_pct`.
        pad_value: With `letterbox`, the grey value 0..255 of the padding.
        interpolation: `area-down-linear-up` is OpenCV's INTER_AREA along an axis that shrinks, INTER_LINEAR along one that
            grows. `bilinear` and `bicubic` are Pillow's, antialiased; `crop` is then resizing the whole image and cutting
            its centre, on whole pixels, as torchvision and timm do. See docs/interpolation.md.
    """

    size_hw: tuple[int, int]
    fit: FitMode = "stretch"
    crop_fraction: float = 1.0
    pad_value: int = 114
    interpolation: Interpolation = AREA

    def __post_init__(self) -> None:
        if len(self.size_hw) != 2 or not 1 <= min(self.size_hw) <= max(self.size_hw) <= MOST_PIXELS_OF_A_SIDE:
            raise ValueError(f"size_hw must be two integers of 1 to {MOST_PIXELS_OF_A_SIDE}, got {self.size_hw!r}")
        if self.fit not in FIT_MODES:
            raise ValueError(f"fit must be one of {', '.join(FIT_MODES)}, got {self.fit!r}")
        if not 0.0 < self.crop_fraction <= 1.0:
            raise ValueError(f"crop_fraction must lie in (0, 1], got {self.crop_fraction!r}")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value must lie in 0..255, got {self.pad_value!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")

    @property
    def key(self) -> str:
        """A short text, for cache keys and tables, that differs whenever a field does that this fit mode uses."""
        height, width = self.size_hw
        text = f"{height}x{width}-{self.fit}"
        if self.fit == "crop" and self.crop_fraction != 1.0:
            text += repr(self.crop_fraction)
        if self.fit == "letterbox":
            text += str(self.pad_value)
        return f"{text}-{self.interpolation}"


@dataclass(frozen=True)
class ModelSpec:
    """Description of a classifier: labels, preprocessing, and the origin of its figures.

    Attributes:
        labels: Class names in the order of the model's output.
        preprocess: How images become inputs.
        temperature: What the logits are divided by before the softmax, inside the graph.
        rejection_threshold: Predictions less confident than this are `unknown`; None accepts everything.
        architecture: Name of the network, such as `efficientnet-lite0`.
        precision: `fp32`, `int8` or `fp16`.
        quantization: The recipe that made an int8 file, None for floats.
        training: Summary of the training run: options, epochs, metrics.
        source: Of a file made from a model that others made: which file that was, how it is used, and where each part of that
            comes from, see docs/export-foreign.md; None for one that edgeclf trained.
        dataset_fingerprint: Digest of the labelled images the model was trained and selected on.
        seen_images: Which images these are: of those that trained (`train`) and those that chose (`val`) the first four bytes
            of each file's BLAKE2b-128 digest, sorted, one after the other in base64. None where it is not recorded.
        package_versions: Versions of the packages that made the model.
        parity: Figures of the parity gate this file passed.
        latency: Measured latencies, with the processor they were measured on.
        portable: Of an exported file: whether it gives the same bits on every CPU; None where that is not recorded.
        portable_reason: Why it does not; empty where it does.
        self_test: Golden inputs and what the file computed of them, see docs/self-test.md; None for a file without.
        schema_version: Version of this document's layout.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess
    temperature: float = 1.0
    rejection_threshold: float | None = None
    architecture: str = "unknown"
    precision: str = "fp32"
    quantization: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] | None = None
    dataset_fingerprint: str | None = None
    seen_images: Mapping[str, str] | None = None
    package_versions: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    portable: bool | None = None
    portable_reason: str = ""
    self_test: Mapping[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be one or more different names, got {list(self.labels)!r}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")
        if self.rejection_threshold is not None and not 0.0 <= self.rejection_threshold <= 1.0:
            raise ValueError(f"rejection_threshold must lie in 0..1, got {self.rejection_threshold!r}")

    def to_json(self) -> str:
        """The spec as one JSON document, keys sorted, so that equal specs give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False)

    def with_changes(self, **changes: Any) -> "ModelSpec":  # noqa: ANN401 - the fields have different types
        """A copy with the named fields replaced."""
        return replace(self, **changes)


_CPU: Shape = {"model": str, "architecture": str, "isa_flags": [str], "usable_cpus": int}
# The values of the document that programs read.
_SHAPE: Shape = {
    "labels": [str],
    "preprocess": {},
    "temperature": float,
    "rejection_threshold": float,
    "architecture": str,
    "precision": str,
    "quantization": {
        "target": str,
        "portable": bool,
        "portable_reason": str,
        "equalized_streams": int,
        "keep_float": [str],
        "float_entrance": [str],
        "saturation": {},
    },
    "training": {
        "best_epoch": int,
        "calibration": {"false_rejection_rate": float, "temperature": float},
        "classes_before": {"kept": [str], "renamed": [{"from": str, "to": str}], "new": [str], "gone": [str]},
        "ending": str,
        "fine_tune": {},
        "freezes_backbone": bool,
        "images": {"*": int},
        "quantization_aware": bool,
        "ranges_8bit": {"*": {"scale": float, "zero_point": int}},
        "trained_from": str,
        "weights": str,
        "weights_8bit": {"*": {"scales": [float], "norm": str}},
        "weights_match": {},
    },
    "source": {
        "file": str,
        "digest": str,
        "bytes": int,
        "producer": str,
        "used_as": {
            "image_size": {"value": [int]},
            "channels": {"value": str},
            "scaling": {"mean": [float], "std": [float]},
            "fit": {"value": str, "crop_fraction": float, "pad_value": int},
            "interpolation": {"value": str},
            "output": {"value": str},
            "activation": {"value": str},
            "labels": {},
        },
    },
    "dataset_fingerprint": str,
    "seen_images": {"*": str},
    "package_versions": {"*": str},
    "parity": {"cpu": _CPU, "limits": {"rule": str}, "verdict": {"outcome": str, "failures": [str], "doubts": [str]}},
    "latency": {"cpu": _CPU},
    "portable": bool,
    "portable_reason": str,
    "self_test": {
        "version": int,
        "class_step": int,
        "tolerance": {"cpu": float, "other": float},
        "inputs": [{"seed": int, "grids": [int], "label_index": int, "probabilities": str}],
    },
    "schema_version": int,
}


def spec_from_json(text: str, source: str) -> ModelSpec:
    """Reads a spec that `ModelSpec.to_json` wrote, perhaps by an older or newer edgeclf.

    Args:
        text: The JSON document.
        source: Name of the file it comes from, for the error.

    Returns:
        The spec. Keys that this version does not know are ignored as long as the schema version is not newer.

    Raises:
        ModelFileError: The text is not such a document, or its schema is newer than this program.
    """
    expected = "the JSON document edgeclf writes"
    hint = "export or train the model again"
    try:
        document = parse_json(text)
    except ValueError as error:
        raise ModelFileError(
            f"cannot read the spec of {source}", got=parse_failure(error), expected=expected, hint=hint
        ) from error
    if not isinstance(document, dict):
        raise ModelFileError(
            f"cannot read the spec of {source}", got=type(document).__name__, expected=expected, hint=hint
        )
    version = document.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        is_newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise ModelFileError(
            f"cannot read the spec of {source}",
            got=f"schema version {shown(version)}",
            expected=f"at most {SCHEMA_VERSION}" if is_newer else f"1 to {SCHEMA_VERSION}",
            hint="update edgeclf" if is_newer else hint,
        )
    try:
        check_shape(document, _SHAPE)
        check_writable(document)
        # Null stands for what is not recorded.
        known = {item.name: document[item.name] for item in fields(ModelSpec) if document.get(item.name) is not None}
        known["preprocess"] = record_from_json(Preprocess, known["preprocess"], "preprocess")
        known["labels"] = tuple(known["labels"])
        return ModelSpec(**known)
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            f"cannot read the spec of {source}", got=parse_failure(error), expected=expected, hint=hint
        ) from error
