"""Faults of ONNX files that ONNX Runtime cannot open: their weights are elsewhere, or they need more than it has."""

import os
import re
from pathlib import Path

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.files import content_kind, hint_for, kind_of
from edgeclf.runtime.session.graph_outline import GraphOutline, read_graph_outline

_NEWEST_IR = re.compile(r"max supported IR version: (\d+)")
_NEWEST_OPSET = re.compile(r"official support for domain \S+ is till opset (\d+)")
_CUSTOM_OPERATOR = re.compile(r"([\w.\-]+):(\w+)\(-?\d+\) is not a registered function/op")
_UNKNOWN_OPERATOR = re.compile(r"No Op registered for (\w+) with domain_version of (\d+)")
_OPSET_WORDS = "released onnx opset versions"


def known_fault(path: Path, message: str) -> ModelFileError | None:
    """The error for a file that could not be opened, where its outline shows why; None where it does not.

    Args:
        path: The file.
        message: What ONNX Runtime said.
    """
    try:
        outline = read_graph_outline(path)
    except ModelFileError:
        return None
    return missing_weights(path, outline) or _too_new(path, outline, message) or _unknown_operator(path, message)


def missing_weights(path: Path, outline: GraphOutline) -> ModelFileError | None:
    """The error for a file whose weights are in another that is missing, too short or outside of its folder; None for any other.

    Args:
        path: The file.
        outline: Its graph.
    """
    ends: dict[str, int] = {}
    for tensor in outline.initializers.values():
        if tensor.external:
            ends[tensor.location] = max(tensor.end, ends.get(tensor.location, 0))
    for location, end in sorted(ends.items()):
        # Joined as text: a location may be absolute, and may climb out of the folder.
        whole = os.path.normpath(os.path.join(path.parent, location))  # noqa: PTH118
        if not location or os.path.isabs(location) or not _is_beside(path, whole):  # noqa: PTH117 - text
            return ModelFileError(
                f"cannot open model {path}",
                got=f"weights in {location or 'a file without a name'}, outside of its folder",
                expected="weights inside the file, or in files beside it",
                hint="save it again as one file, with onnx.save_model(..., save_as_external_data=False)",
            )
        if kind_of(whole) != "file":
            return ModelFileError(
                f"cannot open model {path}",
                got=f"no {location} beside it",
                expected="the file that has its weights",
                hint="copy both files into one folder",
            )
        size = os.stat(whole).st_size  # noqa: PTH116 - text
        if size < end:
            kind = content_kind(whole)
            return ModelFileError(
                f"cannot open model {path}",
                got=f"{location} of {size:,} bytes" + (f", {kind}" if kind == "a Git LFS pointer" else ""),
                expected=f"the whole file that has its weights, {end:,} bytes",
                hint=hint_for(kind, "copy or download it again"),
            )
    return None


def _is_beside(path: Path, whole: str) -> bool:
    """Whether a file lies in a model's folder, or beside what the model is a link to: caches keep both files in one folder."""
    if "\0" in whole:
        # No file has such a name.
        return False
    inside = Path(os.path.realpath(whole))
    if inside.is_relative_to(os.path.realpath(path.parent)):
        return True
    is_named_inside = Path(whole).is_relative_to(os.path.normpath(path.parent))
    return is_named_inside and inside.parent == Path(os.path.realpath(path)).parent


def _unknown_operator(path: Path, message: str) -> ModelFileError | None:
    custom, unknown = _CUSTOM_OPERATOR.search(message), _UNKNOWN_OPERATOR.search(message)
    if custom is None and unknown is None:
        return None
    got = (
        f"{custom[2]} of the domain {custom[1]}" if custom else f"{unknown[1]} of opset {unknown[2]}" if unknown else ""
    )
    return ModelFileError(
        f"{path} has an operator that the installed ONNX Runtime does not have",
        got=got,
        expected="operators of ONNX, and of ONNX Runtime's own com.microsoft",
        hint="export it without custom operators, or with an opset that has them",
    )


def _too_new(path: Path, outline: GraphOutline, message: str) -> ModelFileError | None:
    newest_ir = _NEWEST_IR.search(message)
    if newest_ir is not None:
        got, expected = f"IR version {outline.ir_version}", f"at most {newest_ir[1]}"
    elif _OPSET_WORDS in message:
        newest = _NEWEST_OPSET.search(message)
        got = f"opset {outline.opsets.get('', 0)}"
        expected = f"at most {newest[1]}" if newest else "one that the installed ONNX Runtime knows"
    else:
        return None
    return ModelFileError(
        f"{path} is newer than the installed ONNX Runtime",
        got=got,
        expected=expected,
        hint="update onnxruntime, or export the model with an older opset",
    )
