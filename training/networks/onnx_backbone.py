"""Any ONNX file as a frozen backbone: the graph up to its pooled features, from uint8 RGB pixels on.

The features are computed by ONNX Runtime: TensorFlow cannot run the graph, so it cannot be trained either.
"""

import functools
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.errors import InputError, ModelFileError, UsageError
from edgeclf.runtime.files import file_identity, parse_failure
from edgeclf.runtime.session.foreign.activation import probe_images
from edgeclf.runtime.session.foreign.findings import ASSUMED
from edgeclf.runtime.session.foreign.given import ForeignModel
from edgeclf.runtime.session.foreign.image_input import PixelConversion
from edgeclf.runtime.session.foreign.resolution import resolve_foreign
from edgeclf.runtime.session.foreign.use import ModelUse
from edgeclf.runtime.session.graph_outline import read_graph_outline
from edgeclf.runtime.session.opening import open_session, open_session_from_bytes
from edgeclf.runtime.spec import Preprocess
from edgeclf.runtime.spec.json_documents import check_shape, parse_json, record_from_json

if TYPE_CHECKING:
    from edgeclf.export._onnx import onnx

PREFIX = "onnx:"
# In the metadata of a backbone that was read before: the copy in an unfinished run folder.
_KEY = "edgeclf.backbone"
_FEATURES = "features"
_POOLS = frozenset(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"))
_SPATIAL = (frozenset((2, 3)), frozenset((1, 2)))
# Kernels of another graph of the same numbers round otherwise.
_TOLERANCE = 2e-3


@dataclass(frozen=True, eq=False)
class OnnxBackbone:
    """A frozen backbone that was read from an ONNX file.

    Attributes:
        name: Of its architecture: `onnx:` and the file's name.
        content: The file it came from, by its name and content.
        graph: ONNX file: uint8 (N, H, W, 3) RGB `image` in, float32 (N, F) `features` out.
        feature_count: F.
        preprocess: How images become its input.
    """

    name: str
    content: str
    graph: bytes
    feature_count: int
    preprocess: Preprocess

    @property
    def digest(self) -> str:
        """Digest of the graph."""
        return hashlib.blake2b(self.graph, digest_size=16).hexdigest()

    def build(self) -> KerasModel:
        """The backbone as a Keras model, frozen: uint8 (None, H, W, 3) RGB in, float32 (None, F) out."""
        from edgeclf.export.source.feature_layer import feature_layer_class

        layer = feature_layer_class()(self.feature_count, self.digest, self.graph, name=_FEATURES)
        from keras import Input, Model

        inputs = Input((*self.preprocess.size_hw, 3), dtype="uint8", name="image")
        return Model(inputs, layer(inputs), name="backbone")


def read_onnx_backbone(path: Path, output: str | None, given: ForeignModel) -> OnnxBackbone:
    """Reads a frozen backbone from an ONNX file.

    Args:
        path: The file: an image classifier, or any network from one image to a row of features.
        output: Name of the value with the features, (N, F); None for what the last pooling over height and width gives.
        given: How its images are prepared, as far as the user knows: scaling, preset, fit, channels, image size.

    Raises:
        UsageError: There is no value of that name, no pooling, or the user contradicts the file.
        ModelFileError: The file cannot be read or run, or does not say how its images are prepared.
        InputError: The value is no row of features, or the graph takes a fixed number of images.
    """
    return _read(path, file_identity(path), output, given)


# Options are resolved more than once in a training; the identity of the file makes a changed one miss.
@functools.lru_cache(maxsize=2)
def _read(path: Path, identity: object, output: str | None, given: ForeignModel) -> OnnxBackbone:  # noqa: ARG001 - a key
    from edgeclf.export._onnx import onnx
    from edgeclf.export.graph.adopt.adoption import adopt_model
    from edgeclf.export.graph.adopt.reading import read_foreign_model

    own = read_graph_outline(path).metadata.get(_KEY)
    if own is not None:
        return _read_copy(path, own)
    model = read_foreign_model(path)
    name = _find_features(model, path) if output is None else _check_name(model.graph, path, output)
    cut = _cut(model, name, path)
    with tempfile.TemporaryDirectory(prefix="edgeclf-backbone-") as folder:
        file = Path(folder) / path.name
        file.write_bytes(cut.SerializeToString())
        use = resolve_foreign(path, read_graph_outline(file), replace(given, output=name, activation="logits"))
        if use.missing:
            raise use.missing[0].error(path)
        scores = _run_original(file, use, path, name)
    # The values are taken as they are, as those of a sigmoid would be.
    use = replace(use, classes=scores.shape[1], activation="sigmoid")
    adopted = adopt_model(cut, use).model
    _rename_output(adopted)
    preprocess = _preprocess(use)
    _check_features(adopted, use, scores, path)
    content = _content(path)
    record = {"name": PREFIX + path.stem, "content": content, "preprocess": asdict(preprocess)}
    entry = adopted.metadata_props.add()
    entry.key, entry.value = _KEY, json.dumps(record, sort_keys=True)
    onnx.checker.check_model(adopted, full_check=True)
    return OnnxBackbone(PREFIX + path.stem, content, adopted.SerializeToString(), scores.shape[1], preprocess)


def _read_copy(path: Path, text: str) -> OnnxBackbone:
    try:
        record = parse_json(text)
        check_shape(record, {"name": str, "content": str})
        name, content = record["name"], record["content"]
        preprocess = record_from_json(Preprocess, record["preprocess"], "preprocess")
        graph = path.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_copy(path, parse_failure(error)) from error
    shape = open_session_from_bytes(graph, threads=1).get_outputs()[0].shape
    if len(shape) != 2 or not isinstance(shape[1], int) or not name or not content:
        raise _no_copy(path, f"features of shape {shape}" if name and content else "no name")
    return OnnxBackbone(name, content, graph, shape[1], preprocess)


def _no_copy(path: Path, got: str) -> ModelFileError:
    return ModelFileError(
        f"cannot read the backbone {path}",
        got=got,
        expected="the copy that edgeclf train keeps of one",
        hint="name the file that it was made of",
    )


def _content(path: Path) -> str:
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return f"{path.name} (blake2b-128 {digest})"


def _find_features(model: "onnx.ModelProto", path: Path) -> str:
    """The value of the last pooling over height and width that an output is computed from."""
    graph, pooled = model.graph, _pooled_to_one(model)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if not needed & set(node.output):
            continue
        if node.op_type in _POOLS or node.output[0] in pooled or _is_spatial_mean(node, constants):
            return str(node.output[0])
        needed |= set(node.input)
    raise UsageError(
        f"{path} has no pooling over height and width, which would give its features",
        got="no pooling to one value a channel, and no mean over two axes",
        expected="the name of the value with one row of features an image",
        hint=f"pass --backbone-output, such as one of {', '.join(_last_names(graph))}",
    )


def _pooled_to_one(model: "onnx.ModelProto") -> set[str]:
    """Values of poolings with a kernel as large as what they pool, as older networks have them."""
    from edgeclf.export.graph.float_graph import infer_value_types

    nodes = [node for node in model.graph.node if node.op_type in {"AveragePool", "MaxPool"}]
    types = infer_value_types(model) if nodes else {}
    shapes = {name: [side.dim_value for side in kind.shape.dim] for name, kind in types.items()}
    return {node.output[0] for node in nodes if shapes.get(node.output[0], [])[2:] == [1, 1]}


def _is_spatial_mean(node: "onnx.NodeProto", constants: Mapping[str, Any]) -> bool:
    if node.op_type not in {"ReduceMean", "ReduceMax"}:
        return False
    from edgeclf.export._onnx import onnx

    axes = [axis for item in node.attribute if item.name == "axes" for axis in item.ints]
    if len(node.input) > 1 and node.input[1] in constants:
        axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
    return frozenset(axis % 4 for axis in axes) in _SPATIAL and len(axes) == 2


def _check_name(graph: "onnx.GraphProto", path: Path, name: str) -> str:
    if any(name in node.output for node in graph.node):
        return name
    raise UsageError(
        f"{path} has no value {name!r}",
        expected=f"the name of what a node gives, such as {', '.join(_last_names(graph))}",
        hint="see them in a viewer such as Netron, or leave --backbone-output out for the last pooled features",
    )


def _last_names(graph: "onnx.GraphProto", most: int = 6) -> list[str]:
    return [node.output[0] for node in list(graph.node)[-most:] if node.output]


def _cut(model: "onnx.ModelProto", name: str, path: Path) -> "onnx.ModelProto":
    """The model with one inner value as its only output, of a width that is left open."""
    from edgeclf.export._onnx import onnx
    from edgeclf.export.graph.adopt.class_output import keep_output
    from edgeclf.export.graph.float_graph import infer_value_types

    kind = infer_value_types(model).get(name)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    element = onnx.TensorProto.FLOAT if kind is None or not kind.elem_type else kind.elem_type
    sides = [] if kind is None or not kind.HasField("shape") else [dim.dim_value for dim in kind.shape.dim[1:]]
    if element not in floats or sum(side != 1 for side in sides) > 1:
        shape = f"(N, {', '.join(str(side or '?') for side in sides)})"
        raise InputError(
            f"{name} of {path} is no row of features",
            got=f"{onnx.TensorProto.DataType.Name(element).lower()} {shape}",
            expected="floating-point numbers (N, F), or (N, F, 1, 1)",
            hint="name the value behind the pooling: --backbone-output NAME",
        )
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    if name not in {value.name for value in cut.graph.output}:
        cut.graph.output.append(onnx.helper.make_tensor_value_info(name, element, None))
    for value in cut.graph.output:
        if value.name == name:
            # Of another width than its labels or sidecars know, as far as these are asked.
            value.CopyFrom(onnx.helper.make_tensor_value_info(name, element, None))
    keep_output(cut, name)
    return cut


def _run_original(file: Path, use: ModelUse, path: Path, name: str) -> FloatArray:
    """(N, F) features of probe images, by the graph as the file has it."""
    if use.size_hw is None:
        raise AssertionError(use)
    session = open_session(file, threads=1)
    convert = PixelConversion(use.input, is_bgr=use.channels == "bgr", scaling=use.scaling)
    batch = use.input.batch or 1
    rows = []
    for image in probe_images(use.size_hw)[-3:]:
        tensor = convert(np.repeat(image[None], batch, axis=0))
        try:
            (found,) = session.run([name], {use.input.name: tensor})
        except Exception as error:
            # As in `open_session`.
            raise ModelFileError(
                f"cannot run {path} up to {name}", got=str(error).split("\n", 1)[0][:300], expected="a row of features"
            ) from error
        rows.append(np.asarray(found, np.float32).reshape(batch, -1)[0])
    scores = np.stack(rows)
    if scores.shape[1] < 2 or not np.isfinite(scores).all():
        got = "NaN or infinity" if not np.isfinite(scores).all() else f"{scores.shape[1]} number an image"
        raise InputError(
            f"{name} of {path} cannot be used as features", got=got, expected="several numbers an image",
            hint="name another value: --backbone-output NAME",
        )  # fmt: skip
    return scores


def _rename_output(model: "onnx.ModelProto") -> None:
    from edgeclf.export.graph.adopt.editing import GraphEditor

    editor = GraphEditor(model)
    editor.clear_name(_FEATURES)
    editor.rename(model.graph.output[0].name, _FEATURES)
    model.graph.name = "backbone"


def _preprocess(use: ModelUse) -> Preprocess:
    if use.size_hw is None:
        raise AssertionError(use)
    # Features that were trained on undistorted photographs suffer from stretching, which is what files without a word get.
    fit = "crop" if use.origins["fit"] == ASSUMED else use.fit
    return Preprocess(use.size_hw, fit, use.crop_fraction, use.pad_value, use.interpolation)


def _check_features(adopted: "onnx.ModelProto", use: ModelUse, scores: FloatArray, path: Path) -> None:
    """Checks that the graph gives from pixels what the file gives from its own input."""
    images = probe_images(use.size_hw or (0, 0))[-len(scores) :]
    session = open_session_from_bytes(adopted.SerializeToString(), threads=1)
    found = session.run(None, {session.get_inputs()[0].name: images})[0]
    scale = float(np.abs(scores).max()) or 1.0
    worst = float(np.abs(found - scores).max()) / scale
    if not worst <= _TOLERANCE:
        raise InputError(
            f"the features of {path} cannot be computed from pixels",
            got=f"values that differ by {worst:.2g} of the largest from those of the file",
            expected=f"at most {_TOLERANCE:g}",
            hint="report this together with the file",
        )
