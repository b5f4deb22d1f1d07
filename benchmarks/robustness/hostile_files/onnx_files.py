"""ONNX files with weights elsewhere, metadata of any kind and size, graphs that make no sense, and odd files beside them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.robustness.hostile_files.bases import field_bytes, properties_bytes
from benchmarks.robustness.hostile_files.sandbox import Drawing, Kind
from benchmarks.robustness.hostile_files.specs import WRONG, any_text, draw_change, draw_document_text

if TYPE_CHECKING:
    import onnx

_SPEC_KEY = "edgeclf.spec"
_SIDE_FILES: Mapping[str, Any] = {
    "config.json": {
        "architecture": "mobilenetv3",
        "num_classes": 3,
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 32, 32], "crop_pct": 0.9},
        "id2label": {"0": "a", "1": "b", "2": "c"},
        "architectures": ["ViTForImageClassification"],
        "auto_map": {"AutoConfig": "evil.Evil"},
    },
    "preprocessor_config.json": {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "crop_size": {"height": 32, "width": 32},
    },
}


def _load(draw: Drawing, *, own: bool) -> "onnx.ModelProto":
    import onnx

    return onnx.load_model_from_string(draw.bases.own if own else draw.bases.foreign)


def _write(draw: Drawing, model: "onnx.ModelProto") -> Path:
    return draw.write("model.onnx", model.SerializeToString())


def _elsewhere(draw: Drawing) -> Path:
    """Weights in a file outside, in a link to one, in a folder, in what does not end, at places that are none."""
    import onnx

    model = _load(draw, own=draw.rng.random() < 0.5)
    tensor = draw.one(model.graph.initializer)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    location = draw.way_out("secret.bin")
    match int(draw.rng.integers(5)):
        case 0 | 1:
            pass
        case 2:
            location = str(draw.one(("weights.bin", "x/weights.bin")))
            (draw.folder / "x").mkdir()
            target = draw.box.outside / "secret.bin" if "/" not in location else draw.box.outside
            link = draw.folder / location.split("/")[0]
            if link.is_dir():
                link.rmdir()
            link.symlink_to(target)
            location = location if "/" not in location else "x/secret.bin"
        case 3:
            location = str(
                draw.one(("", ".", "..", "/", "/dev/zero", "weights\0.bin", "a\\..\\b", "~/.ssh/x", "x" * 300))
            )
        case _:
            location = "weights.bin"
            draw.write(location, draw.rng.bytes(size))
    values = {"location": location}
    if draw.rng.random() < 0.5:
        values["offset"] = str(draw.one(("0", "-1", "4096", str(2**63), "x", "1e3", "")))
        values["length"] = str(draw.one((str(size), "-4", "0", str(2**62), "x", "")))
    for key, value in values.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return _write(draw, model)


def _spec(draw: Drawing) -> Path:
    """A spec of which a part is of a wrong type, or that is none."""
    model = _load(draw, own=True)
    (entry,) = (entry for entry in model.metadata_props if entry.key == _SPEC_KEY)
    text = draw_document_text(json.loads(entry.value), draw.rng)
    model.metadata_props.remove(entry)
    return draw.write("model.onnx", model.SerializeToString() + properties_bytes([(_SPEC_KEY, text)]))


def _metadata(draw: Drawing) -> Path:
    """Metadata that is large, deep, there many times, or looks like Python."""
    own = bool(draw.rng.random() < 0.5)
    model = _load(draw, own=own)
    canary = str(draw.box.canary)
    python = f"__import__('os').system('touch {canary}')"
    depth = int(draw.rng.integers(100, 50_000))
    texts = (
        python,
        "{0: " + python + "}",
        "{0: 'a', 1: 'b', 2: f'{" + python + "}'}",
        "{" * depth + "}" * depth,
        "[" * depth,
        "(" * depth + ")" * depth,
        "-" * depth + "1",
        "{0: " + "1" * 5000 + "}",
        "x" * 30_000_000,
        json.dumps({str(number): "x" for number in range(100_000)}),
        json.dumps(draw.one(WRONG)),
        f"!!python/object/apply:os.system ['touch {canary}']",
    )
    keys = (
        "names",
        "labels",
        "classes",
        "imgsz",
        "task",
        "stride",
        "Image.BitmapPixelFormat",
        _SPEC_KEY,
        any_text(draw.rng),
    )
    properties = [
        (str(draw.one(keys)), str(draw.one(texts))[: 30_000_000 if number < 9 else 50])
        for number in range(int(draw.one((1, 2, 3, 2000))))
    ]
    return draw.write("model.onnx", model.SerializeToString() + properties_bytes(properties))


def _not_utf8(draw: Drawing) -> Path:
    """Names and texts that are no UTF-8, in place of others of the same length."""
    data = bytearray(draw.bases.own if draw.rng.random() < 0.5 else draw.bases.foreign)
    for word in (b"probabilities", b"image", b"edgeclf.spec", b"labels", b"Softmax", b"brick", b"dense"):
        at = data.find(word)
        if at >= 0 and draw.rng.random() < 0.5:
            data[at : at + len(word)] = draw.rng.bytes(len(word))
    return draw.write("model.onnx", bytes(data))


def _sizes(draw: Drawing) -> Path:
    """Shapes without bounds, of none or of less than nothing; types that ONNX does not have."""
    from onnx import TensorProto, helper

    model = _load(draw, own=draw.rng.random() < 0.5)
    graph = model.graph
    value = draw.one((*graph.input, *graph.output))
    match int(draw.rng.integers(4)):
        case 0:
            draw.one(value.type.tensor_type.shape.dim).dim_value = draw.one((0, -1, 1, 2**31, 2**62))
        case 1:
            value.type.tensor_type.elem_type = int(draw.one((0, 1, 7, 8, 10, 14, 99)))
        case 2:
            sizes = draw.one(((2**40,), (0,), (-1,), (2**31, 2**31), (), (3, 3)))
            draw.one(graph.initializer).dims[:] = [int(size) for size in sizes]
        case _:
            wide = int(draw.one((2**33, 2**45, -1)))
            graph.initializer.append(helper.make_tensor("wide", TensorProto.INT64, [1], [wide]))
            graph.node.insert(0, helper.make_node("ConstantOfShape", ["wide"], ["big"]))
            graph.node.insert(1, helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0))
    return _write(draw, model)


def _graph(draw: Drawing) -> Path:
    """Graphs with circles, missing values, other operators and versions, without nodes, or one in the other without end."""
    model = _load(draw, own=draw.rng.random() < 0.5)
    graph = model.graph
    node = draw.one(graph.node)
    match int(draw.rng.integers(7)):
        case 0:
            node.input[0] = node.output[0]
        case 1:
            node.input[0] = any_text(draw.rng).encode("utf-8", "replace").decode()
        case 2:
            node.op_type = str(draw.one(("PyOp", "Evil", "Softmax", "If", "")))
            node.domain = str(draw.one(("", "ai.onnx.contrib", "evil")))
        case 3:
            del graph.node[:]
        case 4:
            draw.one(model.opset_import).version = int(draw.one((0, 1, 5, 99, 2**40)))
            model.ir_version = int(draw.one((0, 3, 8, 99, 2**40)))
        case 5:
            # A second graph field is joined to the first. `onnx` itself writes no more than 100 messages in each other.
            node_bytes = _nested_loops(int(draw.one((10, 30, 90, 2000))))
            return draw.write("model.onnx", model.SerializeToString() + field_bytes(7, field_bytes(1, node_bytes)))
        case _:
            graph.output.append(graph.output[0])
            graph.input.append(graph.input[0])
    return _write(draw, model)


def _nested_loops(depth: int) -> bytes:
    """A node whose body has such a node, and so on, as a protocol buffer."""
    graph = field_bytes(2, b"inner")
    node = b""
    for _ in range(depth):
        of_type_graph = b"\xa0\x01\x05"
        body = field_bytes(1, b"body") + field_bytes(6, graph) + of_type_graph
        node = field_bytes(1, b"") * 2 + field_bytes(2, b"deep") + field_bytes(4, b"Loop") + field_bytes(5, body)
        graph = field_bytes(1, node) + field_bytes(2, b"inner")
    return node


def _beside(draw: Drawing) -> Path:
    """Files beside a model that are said to be read: values of wrong types, other text, names that climb out."""
    path = _write(draw, _load(draw, own=False))
    for name, document in _SIDE_FILES.items():
        if draw.rng.random() < 0.7:
            changed = draw_change(document, draw.rng)
            draw.write(
                name,
                json.dumps(changed).encode()
                if draw.rng.random() < 0.8
                else draw_document_text(document, draw.rng).encode("utf-8", "replace"),
            )
    if draw.rng.random() < 0.5:
        labels = "\n".join(any_text(draw.rng) for _ in range(3)).encode("utf-8", "surrogateescape")
        draw.write("labels.txt", draw.one((labels, b"\xff\xfe" + labels, bytes(1000), b"a\n" * 2_000_000)))
    for name in ("evil.py", "onnx.py", "numpy.py", "usercustomize.py", "conftest.py"):
        draw.write(name, f"open({str(draw.box.canary)!r}, 'w').close()\n".encode())
    return path


def _no_file(draw: Drawing) -> Path:
    """A folder, a link that leads to itself or nowhere, a pipe, or an empty file in the place of a model."""
    path = draw.folder / "model.onnx"
    match int(draw.rng.integers(5)):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path)
        case 2:
            path.symlink_to(draw.folder / "nothing")
        case 3:
            os.mkfifo(path)
        case _:
            path.touch()
    return path


def _damaged(draw: Drawing) -> Path:
    return draw.write("model.onnx", draw.damaged(draw.bases.own if draw.rng.random() < 0.5 else draw.bases.foreign))


ONNX: Mapping[str, Kind] = {
    "onnx: weights elsewhere": _elsewhere,
    "onnx: a spec of wrong types": _spec,
    "onnx: metadata": _metadata,
    "onnx: names that are no text": _not_utf8,
    "onnx: sizes without bounds": _sizes,
    "onnx: a graph that makes no sense": _graph,
    "onnx: odd files beside it": _beside,
    "onnx: no file": _no_file,
    "onnx: damaged": _damaged,
}
