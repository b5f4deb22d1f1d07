"""Values of a network on many images: in memory as far as a budget goes, in files beyond it; models run on them in batches.

Files are read and written, not mapped: pages of a mapped file count as memory of the process for as long as the system
leaves them there.
"""

import math
import shutil
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from io import BufferedRandom
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.errors import InputError, OutputError
from edgeclf.runtime.session._onnxruntime import OrtSession


class StoredValue:
    """One tensor on all images.

    Args:
        values: (N, ...) in memory; None for a tensor that is in a file.
        shape: (N, ...).
        dtype: Of its elements.
        file: Where it is kept instead.
    """

    def __init__(
        self, values: AnyArray | None, shape: tuple[int, ...], dtype: npt.DTypeLike, file: BufferedRandom | None = None
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._values, self._file = values, file
        self._batch: AnyArray | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's values."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, rows: slice) -> AnyArray:
        """(n, ...) values of some images, contiguous; those of a tensor in memory are no copy."""
        start, stop, _ = rows.indices(self.shape[0])
        if self._values is not None:
            return self._values[start:stop]
        values = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if self._file is not None:
            self._file.seek(start * self.row_bytes)
            self._file.readinto(memoryview(values.data).cast("B"))
        return values

    def target(self, rows: slice) -> AnyArray:
        """(n, ...) memory for the values of some images, which `written` then takes."""
        start, stop, _ = rows.indices(self.shape[0])
        if self._values is not None:
            return self._values[start:stop]
        if self._batch is None or len(self._batch) < stop - start:
            self._batch = np.empty((stop - start, *self.shape[1:]), self.dtype)
        return self._batch[: stop - start]

    def written(self, rows: slice, values: AnyArray) -> None:
        """Takes the values of some images, in the memory that `target` gave or in other."""
        start, stop, _ = rows.indices(self.shape[0])
        if self._values is None and self._file is not None:
            try:
                self._file.seek(start * self.row_bytes)
                self._file.write(memoryview(np.ascontiguousarray(values).data).cast("B"))
            except OSError as error:
                raise _no_room(
                    f"{error.strerror} in {tempfile.gettempdir()}", math.prod(self.shape) * self.dtype.itemsize
                ) from error
        elif self._values is not None and not np.shares_memory(values, self._values):
            self._values[start:stop] = values
        if stop == self.shape[0]:
            self._batch = None

    def close(self) -> None:
        """Gives memory or file back."""
        self._values = self._batch = None
        if self._file is not None:
            # A temporary file without a name is gone with its handle, however the process ends.
            self._file.close()


class ValueStore:
    """Tensors on all images by key.

    Args:
        memory_bytes: Memory that they take together; what is more goes into files, in a temporary folder.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._left = memory_bytes
        self._held: dict[Hashable, tuple[StoredValue, int]] = {}

    def __enter__(self) -> "ValueStore":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._held):
            self.drop(key)

    def __getitem__(self, key: Hashable) -> StoredValue:
        return self._held[key][0]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def keep(self, key: Hashable, values: AnyArray) -> None:
        """Takes a tensor that its caller holds in memory in any case."""
        self._held[key] = StoredValue(values, values.shape, values.dtype), 0

    def create(self, key: Hashable, shape: tuple[int, ...], dtype: npt.DTypeLike) -> StoredValue:
        """Makes room for a tensor.

        Args:
            key: Its key, of which there must be no other.
            shape: (N, ...).
            dtype: Of its elements.

        Raises:
            OutputError: It belongs into a file, and the disk has no room for that.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self._left:
            self._left -= size
            value, cost = StoredValue(np.empty(shape, dtype), shape, dtype), size
        else:
            value, cost = StoredValue(None, shape, dtype, _new_file(size)), 0
        self._held[key] = value, cost
        return value

    def drop(self, key: Hashable) -> None:
        """Gives back what a tensor takes; nothing where there is none of that key."""
        if key in self._held:
            value, cost = self._held.pop(key)
            value.close()
            self._left += cost


def run_in_batches(session: OrtSession, inputs: Mapping[str, StoredValue], *, batch: int) -> Iterator[AnyArray]:
    """Runs a model with one output on all images.

    Args:
        session: The model's.
        inputs: Its inputs by name.
        batch: Images at a time.

    Yields:
        (n, ...) the output of each batch; the next one is written to the same memory.
    """
    count = next(iter(inputs.values())).shape[0]
    probe = _probed(session, inputs)
    memory = np.empty((min(batch, count), *probe.shape[1:]), probe.dtype)
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        output = memory[: rows.stop - rows.start]
        _run_rows(session, inputs, rows, output)
        yield output


def store_in_batches(
    session: OrtSession, inputs: Mapping[str, StoredValue], store: ValueStore, key: Hashable, *, batch: int
) -> Iterator[AnyArray]:
    """As `run_in_batches`, and keeps the output in a store; the batches must be taken to the last.

    Raises:
        OutputError: As `ValueStore.create`.
    """
    count = next(iter(inputs.values())).shape[0]
    probe = _probed(session, inputs)
    stored = store.create(key, (count, *probe.shape[1:]), probe.dtype)
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        output = stored.target(rows)
        _run_rows(session, inputs, rows, output)
        stored.written(rows, output)
        yield output


def _run_rows(session: OrtSession, inputs: Mapping[str, StoredValue], rows: slice, output: AnyArray) -> None:
    feeds = {name: value.read(rows) for name, value in inputs.items()}
    run_into(session, feeds, {session.get_outputs()[0].name: output})


def run_into(session: OrtSession, feeds: Mapping[str, AnyArray], outputs: Mapping[str, AnyArray]) -> None:
    """Runs a model whose outputs are written to memory that is there: new memory for each batch costs much of the time.

    Args:
        session: The model's.
        feeds: Its inputs by name, contiguous.
        outputs: Contiguous arrays of the shapes and types of those of its outputs that are wanted, by name.
    """
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_cpu_input(name, values)
    for name, values in outputs.items():
        binding.bind_output(name, "cpu", 0, values.dtype, list(values.shape), values.ctypes.data)
    session.run_with_iobinding(binding)


def _probed(session: OrtSession, inputs: Mapping[str, StoredValue]) -> AnyArray:
    """The output for two images, or the only one: what its shape and type are."""
    images = min(2, next(iter(inputs.values())).shape[0])
    output: AnyArray = session.run(None, {name: value.read(slice(0, images)) for name, value in inputs.items()})[0]
    if output.ndim == 0 or output.shape[0] != images:
        raise InputError(
            "cannot quantize this network",
            got=f"{session.get_outputs()[0].name} of shape {output.shape} for {images} images",
            expected="values of which the first axis counts the images",
            hint="export it with --precision fp32 or fp16",
        )
    return output


def _new_file(size: int) -> BufferedRandom:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size:
        raise _no_room(f"{free / 1e9:.1f} GB free in {folder}", size)
    return tempfile.TemporaryFile(prefix="edgeclf-values-")


def _no_room(got: str, size: int) -> OutputError:
    return OutputError(
        "cannot keep the values of this network on the calibration images",
        got=got,
        expected=f"{size / 1e9:.1f} GB for one of its tensors",
        hint="give fewer calibration images, or set TMPDIR to a folder on a larger disk",
    )
