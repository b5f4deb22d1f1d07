"""Good files of every kind, small, which the hostile ones are made from; and what lies outside of their folders."""

import io
import pickle
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.robustness.hostile_files.sandbox import Bases, Sandbox

_SIDE_PX = 32
_CLASSES = 3
# pickle names classes by these: PyTorch need not be installed.
_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def make_bases() -> Bases:
    """One good file of each kind; imports Keras."""
    import cv2
    import h5py  # noqa: F401 - that it is there

    encoded = cv2.imencode(".png", np.full((_SIDE_PX, _SIDE_PX, 3), (0, 0, 200), np.uint8))[1].tobytes()
    keras, h5 = _keras_files()
    return Bases(
        keras=keras, h5=h5, own=onnx_file(own=True), foreign=onnx_file(own=False), torch=_torch(), picture=encoded
    )


def fill_outside(box: Sandbox, bases: Bases) -> None:
    """What hostile files name, and must not reach."""
    import h5py

    (box.outside / "secret.txt").write_text("secret\nwords\n", encoding="utf-8")
    (box.outside / "secret.bin").write_bytes(np.full(4096, 0.25, np.float32).tobytes())
    (box.outside / "secret.png").write_bytes(bases.picture)
    with h5py.File(box.outside / "secret.h5", "w") as file:
        file["weights"] = np.full((3, 3, 3, 4), 0.25, np.float32)
    (box.outside / "saved").mkdir()
    (box.outside / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")


def _keras_files() -> tuple[bytes, bytes]:
    import keras

    model = keras.Sequential(
        [
            keras.layers.Input((_SIDE_PX, _SIDE_PX, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(_CLASSES, activation="softmax"),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name in ("model.keras", "model.h5"):
            model.save(Path(folder) / name)
            found.append((Path(folder) / name).read_bytes())
    return found[0], found[1]


def onnx_file(*, own: bool) -> bytes:
    """A classifier of the mean colour in three classes: with a spec, or as Ultralytics writes them."""
    from onnx import TensorProto, helper, numpy_helper

    from benchmarks.robustness.hostile_files.specs import LABELS, full_spec
    from edgeclf.export.graph.contract import attach_spec
    from edgeclf.export.verify.golden import make_self_test
    from edgeclf.runtime.spec import spec_from_json

    rng = np.random.default_rng(0)
    dense = numpy_helper.from_array(rng.normal(0, 0.1, (3, _CLASSES)).astype(np.float32), "dense")
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2] if own else [2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    if own:
        nodes.insert(0, helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT))
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", _SIDE_PX, _SIDE_PX, 3])
    else:
        image = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, _SIDE_PX, _SIDE_PX])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", _CLASSES])
    graph = helper.make_graph(nodes, "colours", [image], [output], [dense])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if own:
        spec = spec_from_json(full_spec(), "the base")
        with tempfile.TemporaryDirectory() as folder:
            self_test = make_self_test(model, spec, model, Path(folder))
        attach_spec(model, spec.with_changes(self_test=self_test))
    else:
        # As Ultralytics writes them: enough to use it without an option.
        names = dict(enumerate(LABELS))
        helper.set_model_props(model, {"names": str(names), "task": "classify", "imgsz": f"[{_SIDE_PX}, {_SIDE_PX}]"})
    data: bytes = model.SerializeToString()
    return data


def properties_bytes(properties: Iterable[tuple[str, str]]) -> bytes:
    """Properties of an ONNX model, to be put behind its bytes: also with halves of characters, which `onnx` refuses to write."""
    entries = [
        b"".join(field_bytes(number, text.encode(errors="surrogatepass")) for number, text in enumerate(entry, 1))
        for entry in properties
    ]
    return b"".join(field_bytes(14, entry) for entry in entries)


def field_bytes(number: int, data: bytes) -> bytes:
    """A field of bytes of a protocol buffer."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    return varint(number << 3 | 2) + varint(len(data)) + data


def _torch() -> bytes:
    """A legacy file of one tensor of two numbers, as `torch.save` wrote it before 1.6."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x02NtQ"
    tensor = _REBUILD + b"(" + storage + b"K\0(K\x02t(K\x01t\x89ccollections\nOrderedDict\n(tRtR"
    state = b"\x80\x02}X\x06\0\0\0weight" + tensor + b"s."
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
        stream.write(pickle.dumps(value, 2))
    stream.write(state + pickle.dumps(["0"], 2) + struct.pack("<q", 2) + struct.pack("<2f", 1.0, 2.0))
    return stream.getvalue()
