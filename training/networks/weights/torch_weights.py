"""Reads the weights in a PyTorch `.pth` file without PyTorch, and without trusting it.

A legacy file, of before PyTorch 1.6, is a row of pickles - a magic number, a protocol version, system facts, the state dict, the keys of
its storages - and then each storage: its number of elements as int64, and its raw values. A file of today is a zip archive that
compresses nothing: `NAME/data.pkl`, the state dict, and `NAME/data/KEY`, the values of each storage. In the state dict a tensor is a
call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride)` with the storage as a persistent id. A pickle
can name any function, so only the four names that weights need are admitted.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.files import content_kind, kind_of, kind_of_bytes

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_HINT = "save it with torch.save(model.state_dict(), path), or leave --weights out"


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
        path: A `.pth` file, legacy or of today.
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
    if not data.startswith((_PICKLE, _ZIP)):
        raise _weights_error(path, kind_of_bytes(data[:4096], path.suffix.lower()), hint)
    try:
        state, storages = _read_archive(data) if data.startswith(_ZIP) else _read_legacy(io.BytesIO(data))
        return {name: _to_array(tensor, storages) for name, tensor in state.items()}
    except (_OtherContentError, pickle.UnpicklingError) as error:
        raise _weights_error(path, str(error), hint) from error
    except _DAMAGE as error:
        raise _weights_error(path, f"a truncated or damaged file ({type(error).__name__})", hint) from error


# Of pickle, NumPy and zipfile. What zipfile raises of a compression, a version or an encryption that it cannot read is a RuntimeError.
_DAMAGE = (
    *(EOFError, LookupError, AttributeError, TypeError, ValueError, ArithmeticError, MemoryError),
    *(zipfile.BadZipFile, RuntimeError, OSError),
)


class _OtherContentError(Exception):
    """A whole file of something else than a state dict."""


def _read_legacy(stream: io.BytesIO) -> tuple[Mapping[str, _Tensor], Mapping[str, AnyArray]]:
    """The tensors, and the values of their storages."""
    if _RestrictedUnpickler(stream).load() != _MAGIC:
        raise _OtherContentError("another format")
    for _ in range(2):  # protocol version, system facts
        _RestrictedUnpickler(stream).load()
    state = _RestrictedUnpickler(stream).load()
    keys = _RestrictedUnpickler(stream).load()
    return state, _read_storages(stream, keys, _storages_of(state))


def _read_archive(data: bytes) -> tuple[Mapping[str, _Tensor], Mapping[str, AnyArray]]:
    """The tensors, and the values of their storages."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        described = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(described) != 1:
            raise _OtherContentError("a zip archive that PyTorch did not write")
        folder = described[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and _stored(archive, order) != b"little":
            raise _OtherContentError("a file of a big-endian machine")
        state = _RestrictedUnpickler(io.BytesIO(_stored(archive, described[0]))).load()
        storages = {}
        for key, storage in _storages_of(state).items():
            values = np.frombuffer(_stored(archive, f"{folder}data/{key}"), storage.dtype)
            if len(values) != storage.elements:
                raise ValueError(f"storage {key} has {len(values)} elements, expected {storage.elements}")
            storages[key] = values
        return state, storages


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member of an archive, its checksum checked; PyTorch compresses none, and what is compressed may be of any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise _OtherContentError("a zip archive that PyTorch did not write, with compressed data")
    return archive.read(name)


def _storages_of(state: Mapping[str, _Tensor]) -> dict[str, _Storage]:
    """The storages of a state dict's tensors, by key."""
    if isinstance(state, dict) and any(not isinstance(value, _Tensor) for value in state.values()):
        name = next(name for name, value in state.items() if not isinstance(value, _Tensor))
        raise _OtherContentError(f"a dictionary with {name!r} in it, which is no tensor")
    return {tensor.storage.key: tensor.storage for tensor in state.values()}


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
        # Legacy files have a sixth part, what the storage is a view of.
        kind, storage_type, key, _location, elements, *_view = pid
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


def _to_array(tensor: _Tensor, storages: Mapping[str, AnyArray]) -> AnyArray:
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
        expected="a PyTorch state dict (.pth) of float32 or Keras weights",
        hint=hint,
    )
