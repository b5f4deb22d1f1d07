"""The model spec, and what all JSON documents that come from files have in common: they are typed as they are read, once."""

from edgeclf.runtime.spec.model_spec import (
    AREA,
    FIT_MODES,
    INTERPOLATION_NAMES,
    INTERPOLATIONS,
    MOST_PIXELS_OF_A_SIDE,
    SCHEMA_VERSION,
    SPEC_KEY,
    UNKNOWN_LABEL,
    FitMode,
    Interpolation,
    ModelSpec,
    Preprocess,
    spec_from_json,
)

__all__ = [
    "AREA",
    "FIT_MODES",
    "INTERPOLATIONS",
    "INTERPOLATION_NAMES",
    "MOST_PIXELS_OF_A_SIDE",
    "SCHEMA_VERSION",
    "SPEC_KEY",
    "UNKNOWN_LABEL",
    "FitMode",
    "Interpolation",
    "ModelSpec",
    "Preprocess",
    "spec_from_json",
]
