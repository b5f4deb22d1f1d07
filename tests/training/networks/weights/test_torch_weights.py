"""Reading legacy PyTorch weights: hand-made files with the real layout, hostile ones, and every truncation."""

import contextlib
import io
import os
import pickle
import sys
import types
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


def legacy_file(torch, state, storages):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", getattr(torch, obj.kind), obj.key, "cpu", len(obj.values), None)
            return None

    stream = io.BytesIO()
    pickle.dump(MAGIC, stream, 2)
    pickle.dump(1001, stream, 2)
    pickle.dump({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}, stream, 2)
    Pickler(stream, 2).dump(state)
    pickle.dump([storage.key for storage in storages], stream, 2)
    for storage in storages:
        stream.write(np.int64(len(storage.values)).tobytes() + storage.values.tobytes())
    return stream.getvalue()


def example(torch):
    weights = Storage("140", np.arange(24, dtype=np.float32))
    steps = Storage("7", np.array([41, 42], np.int64), "LongStorage")
    state = OrderedDict(
        plain=Tensor(weights, 0, (4, 6), (6, 1)),
        permuted=Tensor(weights, 0, (6, 4), (1, 6)),
        conv=Tensor(weights, 0, (2, 3, 2, 2), (1, 2, 12, 6)),
        window=Tensor(weights, 7, (2, 2), (6, 1)),
        scalar=Tensor(steps, 1, (), ()),
    )
    return legacy_file(torch, state, [weights, steps])


def write(tmp_path, data):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return path


def test_strides_and_offsets_are_respected(tmp_path, torch_names):
    weights = read_torch_weights(write(tmp_path, example(torch_names)))
    values = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(weights["plain"], values.reshape(4, 6))
    np.testing.assert_array_equal(weights["permuted"], values.reshape(4, 6).T)
    np.testing.assert_array_equal(weights["conv"], values.reshape(2, 2, 3, 2).transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(weights["window"], [[7, 8], [13, 14]])
    assert weights["scalar"].shape == ()
    assert weights["scalar"] == 42
    assert all(array.flags.c_contiguous for array in weights.values())
    assert (weights["conv"].dtype, weights["scalar"].dtype) == (np.float32, np.int64)


def test_every_truncation_is_an_input_error(tmp_path, torch_names):
    data = example(torch_names)
    for length in range(len(data)):
        with pytest.raises(InputError, match="cannot read weights"):
            read_torch_weights(write(tmp_path, data[:length]))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_but_never_a_crash(tmp_path_factory, position, value):
    with pytest.MonkeyPatch.context() as monkeypatch:
        data = bytearray(example(torch_names.__wrapped__(monkeypatch)))
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
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path, torch_names, size, stride, offset):
    storage = Storage("0", np.arange(24, dtype=np.float32))
    data = legacy_file(torch_names, OrderedDict(w=Tensor(storage, offset, size, stride)), [storage])
    with pytest.raises(InputError, match="truncated or damaged"):
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
    with pytest.raises(InputError, match="a zip archive") as caught:
        read_torch_weights(write(tmp_path, b"PK\x03\x04 and more"))
    assert "install" not in str(caught.value)
    with pytest.raises(InputError, match="install the package again"):
        read_torch_weights(write(tmp_path, b""), hint="install the package again")
