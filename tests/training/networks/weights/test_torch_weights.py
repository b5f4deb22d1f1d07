"""Reading PyTorch weights, legacy and of today: hand-made files with the real layouts, hostile ones, and every truncation."""

import contextlib
import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import InputError
from edgeclf.training.networks.weights.lite_weights import lite_weights_path
from edgeclf.training.networks.weights.torch_weights import read_torch_weights

MAGIC = 0x1950A86A20F9469CFC6C


class Storage:
    """Stands for a torch storage while a file is written."""

    def __init__(self, key, values, kind="FloatStorage"):
        self.key, self.values, self.kind = key, values, kind


class Tensor:
    """Pickles as a view of a storage, as torch's own tensors do."""

    def __init__(self, storage, offset, size, stride):
        self.arguments = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture
def torch_names(monkeypatch):
    """Just enough modules named like torch's for the standard pickler to write references to them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in ("FloatStorage", "LongStorage", "HalfStorage"):
        setattr(torch, kind, type(kind, (), {"__module__": "torch", "__qualname__": kind}))

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("only ever written")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def pickler(torch, *more):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", getattr(torch, obj.kind), obj.key, "cpu", len(obj.values), *more)
            return None

    return Pickler


def zip_file(torch, state, storages, *, order=b"little", compression=zipfile.ZIP_STORED, folder="weights"):
    """As PyTorch 1.6 and later write it."""
    described = io.BytesIO()
    pickler(torch)(described, 2).dump(state)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", described.getvalue())
        archive.writestr(f"{folder}/byteorder", order)
        for storage in storages:
            archive.writestr(f"{folder}/data/{storage.key}", storage.values.tobytes())
        archive.writestr(f"{folder}/version", b"3\n")
    return stream.getvalue()


def legacy_file(torch, state, storages):
    write = pickler(torch, None)
    stream = io.BytesIO()
    pickle.dump(MAGIC, stream, 2)
    pickle.dump(1001, stream, 2)
    pickle.dump({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}, stream, 2)
    write(stream, 2).dump(state)
    pickle.dump([storage.key for storage in storages], stream, 2)
    for storage in storages:
        stream.write(np.int64(len(storage.values)).tobytes() + storage.values.tobytes())
    return stream.getvalue()


FORMATS = pytest.mark.parametrize("write_file", [legacy_file, zip_file])


def example(torch, write_file=legacy_file):
    weights = Storage("140", np.arange(24, dtype=np.float32))
    steps = Storage("7", np.array([41, 42], np.int64), "LongStorage")
    state = OrderedDict(
        plain=Tensor(weights, 0, (4, 6), (6, 1)),
        permuted=Tensor(weights, 0, (6, 4), (1, 6)),
        conv=Tensor(weights, 0, (2, 3, 2, 2), (1, 2, 12, 6)),
        window=Tensor(weights, 7, (2, 2), (6, 1)),
        scalar=Tensor(steps, 1, (), ()),
    )
    return write_file(torch, state, [weights, steps])


def write(tmp_path, data):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return path


@FORMATS
def test_strides_and_offsets_are_respected(tmp_path, torch_names, write_file):
    weights = read_torch_weights(write(tmp_path, example(torch_names, write_file)))
    values = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(weights["plain"], values.reshape(4, 6))
    np.testing.assert_array_equal(weights["permuted"], values.reshape(4, 6).T)
    np.testing.assert_array_equal(weights["conv"], values.reshape(2, 2, 3, 2).transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(weights["window"], [[7, 8], [13, 14]])
    assert weights["scalar"].shape == ()
    assert weights["scalar"] == 42
    assert all(array.flags.c_contiguous for array in weights.values())
    assert (weights["conv"].dtype, weights["scalar"].dtype) == (np.float32, np.int64)


@FORMATS
def test_every_truncation_is_an_input_error(tmp_path, torch_names, write_file):
    data = example(torch_names, write_file)
    for length in range(len(data)):
        with pytest.raises(InputError, match="cannot read weights"):
            read_torch_weights(write(tmp_path, data[:length]))


@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from([legacy_file, zip_file]))
def test_a_changed_byte_is_read_or_refused_but_never_a_crash(tmp_path_factory, position, value, write_file):
    with pytest.MonkeyPatch.context() as monkeypatch:
        data = bytearray(example(torch_names.__wrapped__(monkeypatch), write_file))
    data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "changed.pth"
    path.write_bytes(bytes(data))
    with contextlib.suppress(InputError):
        read_torch_weights(path)


class Malicious:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("call", "name"),
    [((os.system, ("touch hacked",)), r"(posix|nt)\.system"), ((eval, ("1",)), r"builtins\.eval|__builtin__\.eval")],
)
@pytest.mark.parametrize("place", range(4))
def test_a_pickle_that_asks_for_a_function_is_refused_wherever_it_stands(tmp_path, monkeypatch, call, name, place):
    monkeypatch.chdir(tmp_path)
    pickles = [MAGIC, 1001, {}, OrderedDict()]
    pickles[place] = Malicious(*call)
    with pytest.raises(InputError, match=f"a pickle that asks for {name}"):
        read_torch_weights(write(tmp_path, b"".join(pickle.dumps(p, 2) for p in pickles)))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((25,), (1,), 0),
        ((4, 6), (7, 1), 0),
        ((2,), (1,), 23),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((2, 2), (1,), 0),
        ((-3,), (1,), 0),
        ((2**40, 24), (0, 1), 0),
    ],
)
@FORMATS
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path, torch_names, size, stride, offset, write_file):
    storage = Storage("0", np.arange(24, dtype=np.float32))
    data = write_file(torch_names, OrderedDict(w=Tensor(storage, offset, size, stride)), [storage])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_torch_weights(write(tmp_path, data))


@pytest.mark.parametrize(
    ("call", "name"),
    [((os.system, ("touch hacked",)), r"(posix|nt)\.system"), ((eval, ("1",)), r"builtins\.eval|__builtin__\.eval")],
)
def test_an_archive_that_asks_for_a_function_is_refused(tmp_path, monkeypatch, torch_names, call, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"a pickle that asks for {name}"):
        read_torch_weights(write(tmp_path, zip_file(torch_names, OrderedDict(w=Malicious(*call)), [])))
    assert not (tmp_path / "hacked").exists()


def test_archives_of_anything_else_are_refused_by_what_they_are(tmp_path, torch_names):
    values = Storage("0", np.arange(4, dtype=np.float32))
    tensor = Tensor(values, 0, (4,), (1,))
    # The names of members stand in the archive as bytes.
    for data, words in (
        (zip_file(torch_names, {"w": tensor}, [values], compression=zipfile.ZIP_DEFLATED), "with compressed data"),
        (zip_file(torch_names, {"w": tensor}, [values], order=b"big"), "of a big-endian machine"),
        (zip_file(torch_names, {"w": tensor}, [values]).replace(b"data.pkl", b"none.pkl"), "PyTorch did not write"),
        (zip_file(torch_names, {"epoch": 3, "w": tensor}, [values]), "a dictionary with 'epoch' in it"),
        (zip_file(torch_names, {"w": tensor}, [Storage("0", values.values[:3])]), "truncated or damaged"),
        (zip_file(torch_names, {"w": tensor}, []), "truncated or damaged"),
        (zip_file(torch_names, [tensor], [values]), "truncated or damaged"),
    ):
        with pytest.raises(InputError, match=words):
            read_torch_weights(write(tmp_path, data))


def test_other_formats_and_storages_are_refused(tmp_path, torch_names):
    for data in (b"", b"PK\x03\x04 a zip", b"<html>", pickle.dumps(1), pickle.dumps([]), os.urandom(100)):
        with pytest.raises(InputError, match="cannot read weights"):
            read_torch_weights(write(tmp_path, data))
    half = Storage("0", np.zeros(4, np.float16), "HalfStorage")
    data = legacy_file(torch_names, OrderedDict(w=Tensor(half, 0, (4,), (1,))), [half])
    with pytest.raises(InputError, match=r"asks for torch\.HalfStorage"):
        read_torch_weights(write(tmp_path, data))
    for state in ([], {"w": 1}, OrderedDict(w="text")):
        with pytest.raises(InputError, match="cannot read weights"):
            read_torch_weights(write(tmp_path, legacy_file(torch_names, state, [])))
    with pytest.raises(InputError, match="no such file"):
        read_torch_weights(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="got a folder"):
        read_torch_weights(tmp_path)


@pytest.fixture(scope="module")
def lite0_weights():
    return read_torch_weights(lite_weights_path("efficientnet-lite0"))


def test_the_published_weights_are_all_there(lite0_weights):
    arrays = {name: a for name, a in lite0_weights.items() if not name.endswith("num_batches_tracked")}
    head = sum(a.size for name, a in arrays.items() if name.startswith("_fc"))
    assert sum(a.size for a in arrays.values()) == 4_694_024
    assert sum(a.size for a in arrays.values()) - head == 3_413_024
    assert lite0_weights["_fc.weight"].shape == (1000, 1280)
    assert lite0_weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert all(np.isfinite(a).all() for a in arrays.values())


def test_the_published_file_cut_short_is_refused(tmp_path):
    data = lite_weights_path("efficientnet-lite0").read_bytes()
    path = tmp_path / "short.pth"
    for share in (0.0001, 0.001, 0.002, 0.01, 0.3, 0.7, 0.999):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match="cannot read weights"):
            read_torch_weights(path)


def test_a_file_of_the_users_own_is_not_called_a_package(tmp_path):
    with pytest.raises(InputError, match="truncated or damaged") as caught:
        read_torch_weights(write(tmp_path, b"PK\x03\x04 and more"))
    assert "install" not in str(caught.value)
    assert "torch.save(model.state_dict(), path)" in str(caught.value)
    with pytest.raises(InputError, match="install the package again"):
        read_torch_weights(write(tmp_path, b""), hint="install the package again")
