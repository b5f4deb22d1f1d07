"""The record of the original in the spec of a file that was made from a model that others made."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.files import parse_failure
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.spec import ModelSpec

# Names that exporters give every file.
_GENERIC = frozenset(
    {"best", "classifier", "exported", "keras_model", "model", "model_optimized", "network", "saved_model"}
)


def architecture_of(stem: str, producer: str) -> str:
    """What the spec calls the network of a file that others made: the file's name, unless exporters name every file so.

    Args:
        stem: The file's name without its suffix.
        producer: The program that wrote it; empty where that is not known.
    """
    return stem if stem.lower() not in _GENERIC else f"of {producer or 'an unknown producer'}"


def source_record(
    path: Path, *, producer: str, used_as: Mapping[str, Any] | None, name: str | None = None
) -> dict[str, Any]:
    """The value of `ModelSpec.source`.

    Args:
        path: The original: a file, or a folder such as a SavedModel, of which every file counts.
        producer: The program that wrote it, with its version; empty where that is not known.
        used_as: How it is used, each part with its origin, as `ModelUse.to_json` gives it; None for a file with a spec.
        name: Its name in the record; None takes that of the path. Never the folders it lies in.

    Returns:
        `file`, `digest` (BLAKE2b-128 of its bytes), `bytes`, `producer` and `used_as`, whose label names are those of the spec.

    Raises:
        ModelFileError: It cannot be read.
    """
    digest, size = _digest_and_size(path)
    return {
        "file": name or path.name,
        "digest": digest,
        "bytes": size,
        "producer": producer or None,
        "used_as": None if used_as is None else _without_labels(used_as),
    }


def _without_labels(used_as: Mapping[str, Any]) -> dict[str, Any]:
    """The record without the names: the spec has them, and a thousand would stand there twice."""
    labels = {key: value for key, value in used_as["labels"].items() if key != "value"}
    return {**used_as, "labels": labels}


def recorded_use(spec: ModelSpec, path: Path) -> ForeignModel | None:
    """How a file was used when another was made of it, as its user would say it; None where it is another file.

    Args:
        spec: The spec of the file that was made; what is damaged in its `source` counts as nothing.
        path: The file.

    Raises:
        ModelFileError: The file cannot be read.
    """
    record = spec.source
    try:
        if record is None or record["used_as"] is None or record["digest"] != _digest_and_size(path)[0]:
            return None
        used = record["used_as"]
        scaling, fit = used["scaling"], used["fit"]
        channels = used["channels"]["value"]
        return ForeignModel(
            labels=spec.labels,
            scaling=None if scaling["mean"] is None else PixelScaling(tuple(scaling["mean"]), tuple(scaling["std"])),
            fit=fit["value"],
            crop_fraction=fit["crop_fraction"],
            pad_value=fit["pad_value"],
            interpolation=used["interpolation"]["value"],
            channels=None if channels == "grey" else channels,
            image_size=tuple(used["image_size"]["value"]),
            output=used["output"]["value"],
            activation=used["activation"]["value"],
        )
    except (KeyError, TypeError, UsageError):
        return None


def _digest_and_size(path: Path) -> tuple[str, int]:
    digest, size = hashlib.blake2b(digest_size=16), 0
    try:
        files = [path] if not path.is_dir() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            if path.is_dir():
                digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as opened:
                while chunk := opened.read(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
    except OSError as error:
        raise ModelFileError(
            f"cannot read {path}", got=parse_failure(error), expected="a model file", hint="check the path"
        ) from error
    return f"blake2b-128 {digest.hexdigest()}", size
