"""Reads the weights in a legacy (2018-style) PyTorch `.pth` file without PyTorch, and without trusting it.

Such a file is a row of pickles - a magic number, a protocol version, system facts, the state dict, the keys of its
storages - and then each storage: its number of elements as int64, and its raw values. In the state dict a tensor is a
call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride)` with the storage as a persistent id. A pickle
can name any function, so only the four names that weights need are admitted.
"""

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.files import content_kind, kind_of, kind_of_bytes

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_PICKLE = b"\x80"
_OTHER_FORMATS = {b"PK\x03\x04": "a zip archive, such as PyTorch 1.6 and later or Keras writes"}
_HINT = "save it with torch.save(state_dict, path, _use_new_zipfile_serialization=False), or leave --weights out"


class _StorageType(NamedTuple):
    dtype: np.dtype[Any]


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_weights(path: Path, *, hint: str | None = None) -> dict[str, AnyArray]:
    """Reads a state dict.

    Args:
        path: A legacy, non-zip `.pth` file.
        hint: What errors advise; None for what suits a file of the user's.

    Returns:
        Arrays by name, float32 or int64, contiguous, in PyTorch's layout - convolutions (O, I, kh, kw).

    Raises:
        InputError: The file is missing, truncated, of another format, or asks for anything besides tensors.
    """
    hint = hint or _HINT
    if kind_of(path) != "file":
        raise _weights_error(path, content_kind(path), hint)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _weights_error(path, content_kind(path), hint) from error
    for beginning, what in _OTHER_FORMATS.items():
        if data.startswith(beginning):
            raise _weights_error(path, what, hint)
    if not data.startswith(_PICKLE):
        raise _weights_error(path, kind_of_bytes(data[:4096], path.suffix.lower()), hint)
    stream = io.BytesIO(data)
    try:
        if _RestrictedUnpickler(stream).load() != _MAGIC:
            raise _weights_error(path, "another format", hint)
        for _ in range(2):  # protocol version, system facts
            _RestrictedUnpickler(stream).load()
        state = _RestrictedUnpickler(stream).load()
        keys = _RestrictedUnpickler(stream).load()
        storages = _read_storages(stream, keys, {t.storage.key: t.storage for t in state.values()})
        return {name: _to_array(tensor, storages) for name, tensor in state.items()}
    except pickle.UnpicklingError as error:
        raise _weights_error(path, str(error), hint) from error
    except (EOFError, LookupError, AttributeError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise _weights_error(path, f"a truncated or damaged file ({type(error).__name__})", hint) from error


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickles tensors' descriptions; refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - classes and functions alike
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        raise pickle.UnpicklingError(f"a pickle that asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - whatever the pickle holds, checked here
        kind, storage_type, key, _location, elements, _view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"a persistent object of kind {kind!r}")
        return _Storage(str(key), storage_type.dtype, int(elements))


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(size), tuple(stride))


def _read_storages(stream: io.BytesIO, keys: list[str], known: dict[str, _Storage]) -> dict[str, AnyArray]:
    storages = {}
    for key in keys:
        storage = known[key]
        elements = int(np.frombuffer(stream.read(8), "<i8")[0])
        if elements != storage.elements:
            raise ValueError(f"storage {key} has {elements} elements, expected {storage.elements}")
        values = np.frombuffer(stream.read(elements * storage.dtype.itemsize), storage.dtype)
        if len(values) != elements:
            raise EOFError
        storages[key] = values
    return storages


def _to_array(tensor: _Tensor, storages: dict[str, AnyArray]) -> AnyArray:
    values = storages[tensor.storage.key]
    last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.size, tensor.stride, strict=True))
    # Views that repeat elements (a stride of 0) could ask for any amount of memory; weights have none.
    repeats = math.prod(tensor.size) > len(values)
    if tensor.offset < 0 or min(tensor.stride, default=0) < 0 or last >= len(values) or repeats:
        raise IndexError(f"a tensor of {tensor.size} reaches outside its storage")
    # The strides matter: these tensors are permuted views, and reading them contiguously gives another network.
    strides = tuple(step * values.itemsize for step in tensor.stride)
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.size, strides, writeable=False)
    return view.copy()


def _weights_error(path: Path, got: str, hint: str) -> InputError:
    return InputError(
        f"cannot read weights {path}",
        got=got,
        expected="a legacy PyTorch state dict (.pth) or Keras weights",
        hint=hint,
    )
