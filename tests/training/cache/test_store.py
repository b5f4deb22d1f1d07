"""The store: rows by digest, whatever is added, removed, cut off or killed in between."""

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import edgeclf.training.cache.store as store_module
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import InputError, OutputError
from edgeclf.runtime.progress import no_progress
from edgeclf.training.cache.store import Configuration, cached_rows

PIXELS = Configuration("pixels", "test", (4, 3), "|u1")
RECORD = 24


def digest(name):
    return hashlib.blake2b(str(name).encode(), digest_size=16).hexdigest()


def row_of(name, configuration=PIXELS):
    """What a computation gives for an image: random, and always the same."""
    seed = zlib.crc32(f"{name} {configuration.key}".encode())
    return np.random.default_rng(seed).integers(0, 256, configuration.row_shape).astype(configuration.dtype)


class Asked:
    """Rows of images by their names, and the names of those that were computed."""

    def __init__(self, folder, names, configuration=PIXELS, limit_bytes=10**9, unreadable=()):
        computed = self.computed = []

        def compute(positions):
            for position in positions:
                computed.append(names[position])
                yield None if names[position] in unreadable else row_of(names[position], configuration)

        digests = [None if name is None else digest(name) for name in names]
        self.rows, self.positions = cached_rows(
            CacheFolder(folder, limit_bytes), configuration, digests, compute, stage="rows", progress=no_progress
        )
        expected = [row_of(names[position], configuration) for position in self.positions]
        np.testing.assert_array_equal(
            self.rows[:], np.array(expected, configuration.dtype).reshape(-1, *configuration.row_shape)
        )


def array_of(folder):
    (path,) = folder.glob("*.array")
    return path


def test_one_more_image_writes_one_row_and_its_record(tmp_path, monkeypatch):
    names = [str(number) for number in range(500)]
    Asked(tmp_path, names)
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    written = []

    def write(descriptor, data, offset):
        written.append(len(data))
        original(descriptor, data, offset)

    original = store_module._write
    monkeypatch.setattr(store_module, "_write", write)
    more = Asked(tmp_path, ["new", *names])
    assert more.computed == ["new"]
    assert {path: path.stat().st_size - sizes[path] for path in tmp_path.iterdir()} == {
        path: 12 if path.suffix == ".array" else RECORD for path in sizes
    }
    assert written == [12, RECORD]
    for path, content in contents.items():
        assert path.read_bytes().startswith(content)


def test_images_without_a_row_are_left_out_and_asked_for_again(tmp_path):
    for _ in range(2):
        asked = Asked(tmp_path, ["a", "b", None, "c"], unreadable={"b", None})
        assert asked.positions == (0, 3)
    assert asked.computed == ["b", None]
    assert Asked(tmp_path, ["a", "b", None, "c"]).positions == (0, 1, 3)


class Store(RuleBasedStateMachine):
    """Any sequence of data sets, evictions, and damage gives the right rows."""

    def __init__(self):
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory(prefix="edgeclf-test-")
        self.folder = Path(self._temporary.name)
        self.open = []

    def teardown(self):
        self.open.clear()
        self._temporary.cleanup()

    @rule(
        names=st.lists(st.sampled_from("abcdefghijklm"), min_size=1, max_size=8),
        key=st.sampled_from(["one", "other"]),
        limit=st.sampled_from([10**9, 400, 100, 0]),
        hold=st.booleans(),
    )
    def ask(self, names, key, limit, hold):
        configuration = Configuration("pixels", key, (4, 3), "|u1")
        asked = Asked(self.folder, names, configuration, limit)
        assert asked.positions == tuple(range(len(names)))
        if hold:
            self.open.append((asked, names, configuration))

    @rule()
    def close(self):
        self.open.clear()

    @rule(data=st.data())
    def damage(self, data):
        # What was read once is not checked again.
        self.open.clear()
        paths = sorted(self.folder.glob("pixels-*"))
        if paths:
            path = data.draw(st.sampled_from(paths))
            content = bytearray(path.read_bytes())
            if content:
                content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
                # In place: a file with another inode is another file.
                with path.open("r+b") as file:
                    file.write(content)

    @rule(data=st.data())
    def cut_off_or_grow(self, data):
        self.open.clear()
        paths = sorted(self.folder.glob("pixels-*"))
        if paths:
            path = data.draw(st.sampled_from(paths))
            os.truncate(path, data.draw(st.integers(0, path.stat().st_size + 30)))

    @invariant()
    def what_is_open_reads_right(self):
        for asked, names, configuration in self.open:
            np.testing.assert_array_equal(asked.rows[:], [row_of(name, configuration) for name in names])


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_another_configuration_that_is_in_use_stays_and_goes_when_it_is_not(tmp_path):
    other = Configuration("features", "other", (3,), "<f4")
    held = Asked(tmp_path, ["a", "b"], other)
    Asked(tmp_path, ["a", "b"], PIXELS, limit_bytes=10)
    assert Asked(tmp_path, ["a", "b"], other).computed == []
    del held
    Asked(tmp_path, ["a", "b"], PIXELS, limit_bytes=10)
    assert len(list(tmp_path.glob("*.array"))) == 1
    assert Asked(tmp_path, ["a", "b"], other).computed == ["a", "b"]


def test_the_configuration_used_longest_ago_goes(tmp_path):
    configurations = [Configuration("pixels", key, (100,), "|u1") for key in ("first", "second", "third")]
    for used, configuration in enumerate(configurations[:2], start=1):
        Asked(tmp_path, ["a"], configuration)
        os.utime(tmp_path / f"{configuration.name}.array", (used, used))
        os.utime(tmp_path / f"{configuration.name}.index", (used, used))
    # Reading counts as use.
    Asked(tmp_path, ["a"], configurations[0])
    Asked(tmp_path, ["a"], configurations[2], limit_bytes=250)
    assert {path.stem for path in tmp_path.glob("*.array")} == {configurations[0].name, configurations[2].name}


def test_rows_of_other_data_sets_go_when_the_array_itself_exceeds_the_size(tmp_path):
    names = [str(number) for number in range(100)]
    Asked(tmp_path, names)
    held = Asked(tmp_path, names[:3])
    # Not while a process uses the array.
    Asked(tmp_path, names[40:60], limit_bytes=1000)
    assert array_of(tmp_path).stat().st_size == 100 * 12
    held.rows[:]
    del held
    kept = Asked(tmp_path, [*names[40:60], "new"], limit_bytes=1000)
    assert kept.computed == ["new"]
    assert array_of(tmp_path).stat().st_size == 21 * 12
    assert array_of(tmp_path).with_suffix(".index").stat().st_size == 21 * RECORD
    # Afterwards the array is shared again.
    assert Asked(tmp_path, names[40:60]).computed == []
    with array_of(tmp_path).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_what_does_not_fit_by_itself_is_kept_while_it_is_used(tmp_path):
    asked = Asked(tmp_path, ["a", "b", "c"], limit_bytes=0)
    assert Asked(tmp_path, ["a", "b", "c"], limit_bytes=0).computed == []
    asked.rows[:]


WORKER = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
import test_store
from edgeclf.training.cache import store
folder, first, last, pause = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
# Rows are appended one by one, which gives the other process, and the signal, every chance.
store._APPENDED_BYTES = 1
original = test_store.row_of
def row_of(name, configuration=test_store.PIXELS):
    if pause and int(name) == last - 1:
        print("nearly", flush=True)
        time.sleep(pause)
    return original(name, configuration)
test_store.row_of = row_of
asked = test_store.Asked(folder, [str(number) for number in range(first, last)])
print(len(asked.rows))
"""


def start(folder, first, last, pause=0.0):
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(folder), str(first), str(last), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_append_at_once_lose_and_mix_nothing(tmp_path):
    running = [start(tmp_path, 0, 400), start(tmp_path, 200, 600), start(tmp_path, 0, 600)]
    outputs = [process.communicate(timeout=600)[0].split()[-1] for process in running]
    assert outputs == ["400", "400", "600"]
    asked = Asked(tmp_path, [str(number) for number in range(600)])
    assert asked.computed == []
    assert array_of(tmp_path).stat().st_size == 600 * 12


def test_a_process_killed_while_it_appends_leaves_whole_rows(tmp_path):
    process = start(tmp_path, 0, 100, pause=60)
    assert process.stdout is not None
    assert process.stdout.readline() == "nearly\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()
    # As if it had been killed between the two writes, and within the second.
    array = array_of(tmp_path)
    with array.open("ab") as rows, array.with_suffix(".index").open("ab") as index:
        rows.write(b"half a row, and more")
        index.write(b"half a record")
    asked = Asked(tmp_path, [str(number) for number in range(100)])
    assert asked.computed == ["99"]
    assert array.stat().st_size == 100 * 12
    assert array.with_suffix(".index").stat().st_size == 100 * RECORD


def test_rows_that_were_computed_before_ctrl_c_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_APPENDED_BYTES", 24)
    closed = []

    def compute(positions):
        try:
            for position in positions:
                yield row_of(position)
        finally:
            closed.append(True)

    def stop(_, done, __):
        if done == 5:
            raise KeyboardInterrupt

    digests = [digest(number) for number in range(9)]
    with pytest.raises(KeyboardInterrupt):
        cached_rows(CacheFolder(tmp_path), PIXELS, digests, compute, stage="rows", progress=stop)
    assert closed == [True]
    assert Asked(tmp_path, list(range(9))).computed == [4, 5, 6, 7, 8]


def test_threads_that_meet_damaged_rows_at_once_get_right_ones_and_mend_the_array(tmp_path):
    names = [str(number) for number in range(200)]
    Asked(tmp_path, names)
    with array_of(tmp_path).open("r+b") as file:
        file.write(b"\0" * 200 * 12)

    def compute(positions):
        for position in positions:
            yield row_of(names[position])

    digests = [digest(name) for name in names]
    rows, _ = cached_rows(CacheFolder(tmp_path), PIXELS, digests, compute, stage="rows", progress=no_progress)
    orders = np.array_split(np.random.default_rng(0).permutation(400) % 200, 40)
    with ThreadPoolExecutor(8) as pool:
        for order, taken in zip(orders, pool.map(rows.take, orders), strict=True):
            np.testing.assert_array_equal(taken, [row_of(names[position]) for position in order])
    assert Asked(tmp_path, names).computed == []
    assert array_of(tmp_path).stat().st_size == 200 * 12


def test_an_array_that_cannot_be_opened_is_an_output_error(tmp_path):
    (tmp_path / f"{PIXELS.name}.array").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*pixels-.*array"):
        Asked(tmp_path, ["a"])


def test_an_array_that_cannot_be_read_is_an_error_that_names_it(tmp_path, monkeypatch):
    rows = Asked(tmp_path, ["a", "b"]).rows
    path = array_of(tmp_path)

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fails)
        with pytest.raises(InputError, match=rf"cannot read {path}: got input/output error.*remove that file"):
            rows.take(np.array([0]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fails)
        with pytest.raises(InputError, match=rf"cannot read {path.with_suffix('.index')}: got input/output error"):
            Asked(tmp_path, ["a", "b"])
