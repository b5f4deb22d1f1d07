"""Keras models with code in them, with values of wrong types, with weights that are elsewhere: `.keras` and `.h5`."""

import base64
import io
import json
import marshal
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.hostile_files.sandbox import Call, Drawing, Kind
from benchmarks.robustness.hostile_files.specs import draw_change


def _program(draw: Drawing) -> str:
    # Bytecode as Keras writes it for a Lambda layer.
    source = f"lambda x: (open({str(draw.box.canary)!r}, 'w').close(), x)[1]"
    return base64.b64encode(marshal.dumps(eval(source).__code__)).decode()


def _hostile_layer(draw: Drawing) -> dict[str, Any]:
    """The config of a layer that runs code, or reads what is outside."""
    canary, outside = str(draw.box.canary), draw.box.outside
    function = {"class_name": "__lambda__", "config": {"code": _program(draw), "defaults": None, "closure": None}}
    call = {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"}
    torch = {"class_name": "__bytes__", "config": {"value": base64.b64encode(draw.pickled()).decode()}}
    layers: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("keras.layers", "Lambda", {"function": function}),
        ("keras.layers", "Lambda", {"function": [_program(draw), None, None], "function_type": "lambda"}),
        ("keras.layers", "Lambda", {"function": call, "arguments": {}}),
        ("keras.layers", "Activation", {"activation": call}),
        ("keras.layers", "TorchModuleWrapper", {"module": torch}),
        ("keras.layers", "TFSMLayer", {"filepath": str(outside / "saved"), "call_endpoint": "serve"}),
        ("keras.layers", "StringLookup", {"vocabulary": str(outside / "secret.txt"), "invert": False}),
        ("keras.layers", "TextVectorization", {"vocabulary": f"file://{outside}/secret.txt"}),
        ("keras.layers", "IntegerLookup", {"vocabulary": str(outside / "secret.txt")}),
        ("os", "system", {"command": f"touch {canary}"}),
        ("subprocess", "Popen", {"args": ["touch", canary]}),
        ("pathlib", "Path", {"args": canary}),
        ("keras.utils", "get_file", {"fname": canary, "origin": f"file://{outside}/secret.txt"}),
        ("keras.src.utils.file_utils", "makedirs", {"path": canary}),
        ("keras.models", "load_model", {"filepath": str(outside / "secret.h5")}),
    )
    module, name, config = draw.one(layers)
    return {"module": module, "class_name": name, "config": {"name": "evil", **config}, "registered_name": None}


def _layers_of(config: dict[str, Any]) -> list[Any]:
    found: list[Any] = config["config"]["layers"]
    return found


def archive_of(members: Mapping[str, bytes]) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _members(draw: Drawing) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(draw.bases.keras)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _with_config(draw: Drawing, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The Keras model with another config: in an archive, or in an `.h5`."""
    if draw.rng.random() < 0.5:
        members = _members(draw)
        config = json.loads(members["config.json"])
        config = change(config) or config
        return draw.write("model.keras", archive_of({**members, "config.json": json.dumps(config).encode()}))
    import h5py

    path = draw.write("model.h5", draw.bases.h5)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config)
    return path


def _keras_code(draw: Drawing) -> Path:
    def change(config: dict[str, Any]) -> None:
        layers = _layers_of(config)
        layers.insert(int(draw.rng.integers(1, len(layers) + 1)), _hostile_layer(draw))

    return _with_config(draw, change)


def _keras_whole(draw: Drawing) -> Path:
    """The model itself, its optimizer's or its compilation's place is what runs code."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        if draw.rng.random() < 0.5:
            return _hostile_layer(draw)
        return {**config, "compile_config": {"optimizer": _hostile_layer(draw), "loss": _hostile_layer(draw)}}

    return _with_config(draw, change)


def _keras_wrong(draw: Drawing) -> Path:
    """A value of the config of a wrong type."""
    return _with_config(draw, lambda config: draw_change(config, draw.rng))


def _keras_deep(draw: Drawing) -> Path:
    depth = int(draw.rng.integers(100, 100_000))
    text = draw.one(('{"a":' * depth + "1" + "}" * depth, "[" * depth + "]" * depth, "[" * depth, "1" * depth))
    return draw.write("model.keras", archive_of({**_members(draw), "config.json": text.encode()}))


def _keras_large(draw: Drawing) -> Path:
    """Numbers that no memory holds, in shapes and units; zeros that an archive blows up to 200 MB."""
    if draw.rng.random() < 0.3:
        name = str(draw.one(("config.json", "metadata.json", "model.weights.h5")))
        return draw.write("model.keras", archive_of({**_members(draw), name: bytes(200_000_000)}))

    def change(config: dict[str, Any]) -> None:
        number = draw.one((2**31, 2**40, 2**63, 10**30, -1, 0))
        for layer in _layers_of(config):
            for key in ("units", "filters", "batch_input_shape", "batch_shape", "kernel_size"):
                if key in layer.get("config", {}):
                    layer["config"][key] = number if "shape" not in key else [None, number, number, 3]

    return _with_config(draw, change)


def _keras_archive(draw: Drawing) -> Path:
    """An archive whose members climb out of it, are there twice, are missing, encrypted or damaged."""
    members = _members(draw)
    way = str(draw.one(("../../written", f"{draw.box.outside}/written", "..\\..\\written", "assets/../../../written")))
    match int(draw.rng.integers(4)):
        case 0:
            return draw.write("model.keras", archive_of({**members, way: b"x", f"assets/{way}": b"x"}))
        case 1:
            members.pop(draw.one(list(members)))
            return draw.write("model.keras", archive_of(members))
        case 2:
            name = draw.one(list(members))
            return draw.write("model.keras", archive_of({**members, name: draw.damaged(members[name])}))
        case _:
            link = zipfile.ZipInfo("model.weights.h5")
            link.external_attr = 0o120777 << 16
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for name, data in members.items():
                    if name == link.filename:
                        archive.writestr(link, str(draw.box.outside / "secret.h5"))
                    else:
                        archive.writestr(name, data)
            return draw.write("model.keras", stream.getvalue())


def _keras_weights(draw: Drawing) -> Path:
    """Weights that are links, or storage, outside; or a pickle in place of HDF5."""
    import h5py

    members = _members(draw)
    if draw.rng.random() < 0.2:
        npz = io.BytesIO()
        np.savez(npz, weights=np.array([Call(os.mkdir, str(draw.box.canary))], dtype=object))
        members.pop("model.weights.h5")
        return draw.write("model.keras", archive_of({**members, "model.weights.npz": npz.getvalue()}))
    is_old = draw.rng.random() < 0.5
    path = draw.write("model.h5" if is_old else "weights", draw.bases.h5 if is_old else members["model.weights.h5"])
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = str(draw.one(names))
        shape, kind = file[name].shape, file[name].dtype
        del file[name]
        secret = draw.way_out("secret.h5")
        match int(draw.rng.integers(5)):
            case 0:
                file[name] = h5py.ExternalLink(secret, "/weights")
            case 1:
                outside = [(draw.way_out("secret.bin"), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset(name, shape, kind, external=outside)
            case 2:
                layout = h5py.VirtualLayout(shape=shape, dtype=kind)
                layout[...] = h5py.VirtualSource(secret, "/weights", shape=shape)
                file.create_virtual_dataset(name, layout)
            case 3:
                file[name] = h5py.SoftLink(f"/{name}")
            case _:
                file.create_dataset(name, draw.one(((2**40,), (0,), (1, 2, 3, 4, 5), ())), dtype="f4", chunks=None)
    if is_old:
        return path
    weights = path.read_bytes()
    path.unlink()
    return draw.write("model.keras", archive_of({**members, "model.weights.h5": weights}))


def _keras_damaged(draw: Drawing) -> Path:
    if draw.rng.random() < 0.5:
        return draw.write("model.keras", draw.damaged(draw.bases.keras))
    return draw.write("model.h5", draw.damaged(draw.bases.h5))


KERAS: Mapping[str, Kind] = {
    "keras: code in a layer": _keras_code,
    "keras: code in place of the model": _keras_whole,
    "keras: a value of a wrong type": _keras_wrong,
    "keras: a config without end": _keras_deep,
    "keras: more than memory holds": _keras_large,
    "keras: an archive that climbs out": _keras_archive,
    "keras: weights that are elsewhere": _keras_weights,
    "keras: damaged": _keras_damaged,
}
