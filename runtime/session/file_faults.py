"""Faults of ONNX files that ONNX Runtime cannot open: their weights are elsewhere, or they are newer than it is."""

import os
import re
from pathlib import Path

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.session.graph_outline import GraphOutline, read_graph_outline

_NEWEST_IR = re.compile(r"max supported IR version: (\d+)")
_NEWEST_OPSET = re.compile(r"official support for domain \S+ is till opset (\d+)")
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
    return missing_weights(path, outline) or _too_new(path, outline, message)


def missing_weights(path: Path, outline: GraphOutline) -> ModelFileError | None:
    """The error for a file whose weights are in another that is missing or outside of its folder; None for any other.

    Args:
        path: The file.
        outline: Its graph.
    """
    locations = {tensor.location for tensor in outline.initializers.values() if tensor.external}
    for location in sorted(locations):
        # Joined as text: a location may be absolute, and may climb out of the folder.
        whole = os.path.normpath(os.path.join(path.parent, location))  # noqa: PTH118
        is_inside = Path(os.path.realpath(whole)).is_relative_to(os.path.realpath(path.parent))
        if not location or os.path.isabs(location) or not is_inside:  # noqa: PTH117 - text
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
    return None


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
