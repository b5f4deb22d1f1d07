"""A file of lines that a process appends to for months."""

import csv
import errno
import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import OutputError
from edgeclf.toolkit.events import appended_file
from edgeclf.toolkit.events.appended_file import AppendedFile, CountedOutput


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "lines.csv"


def opened(path, warnings=None):
    return AppendedFile(path, pytest.fail if warnings is None else warnings.append, "records")


def test_lines_are_kept_from_run_to_run_under_one_heading(path):
    for name in ("one\n", "two\n"):
        file = opened(path)
        file.begin("name\n")
        file.write(name)
        file.close()
    assert path.read_text() == "name\none\ntwo\n"
    assert (file.written, file.failed, file.summary) == (1, 0, "")
    file.raise_for_lost()


def test_a_line_that_a_killed_process_left_is_not_lengthened(path):
    path.parent.mkdir()
    path.write_text('{"frame": 1}\n{"fra')
    file = opened(path)
    file.write('{"frame": 2}\n')
    file.write('{"frame": 3}\n')
    file.close()
    assert path.read_text() == '{"frame": 1}\n{"fra\n{"frame": 2}\n{"frame": 3}\n'


def test_a_line_that_a_killed_process_left_within_quotes_swallows_no_other(path):
    rows = [["door", "cat, or dog"], ["gate", 'a "cat"']]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["source", "label"], *rows])
    whole = text.getvalue()
    path.parent.mkdir()
    for end in range(len(whole) + 1):
        path.write_text(whole[:end])
        file = opened(path)
        file.begin("source,label\n")
        file.write('roof,"bird, or none"\n')
        file.close()
        *before, last = csv.reader(path.read_text().splitlines(keepends=True))
        assert last == ["roof", "bird, or none"]
        # Lines that were whole stay so.
        assert before[: whole[:end].count("\n")] == [["source", "label"], *rows][: whole[:end].count("\n")]


@pytest.mark.parametrize(
    ("there", "heading"),
    [
        ("source,label\ndoor,cat\n", "source,label,smoothed\n"),
        ("source,label\ndoor,cat\n", ""),
        ('{"source": "door"}\n', "source,label\n"),
        ("\x89PNG", ""),
    ],
)
def test_lines_are_not_put_under_another_heading(path, there, heading):
    path.parent.mkdir()
    path.write_text(there)
    warnings = []
    for _ in range(2):
        file = opened(path, warnings)
        file.begin(heading)
        file.write("{}\n")
        file.close()
    assert path.read_text() == heading + "{}\n{}\n"
    (kept,) = [other for other in path.parent.iterdir() if other != path]
    assert kept.read_text() == there
    (warning,) = warnings
    assert f"it is {kept} now" in warning


@pytest.mark.parametrize(
    ("there", "heading"),
    [
        ("source    label\n", "source  label\n"),
        ("source,la", "source,label\n"),
        ('{"a": 1}\n', ""),
        ('{"a', ""),
        ("\n", ""),
        ("", "source\n"),
    ],
)
def test_lines_go_on_below_their_own_heading(path, there, heading):
    path.parent.mkdir()
    path.write_text(there)
    file = opened(path)
    file.begin(heading)
    file.write("{}\n")
    file.close()
    assert path.read_text().startswith(there)
    assert path.read_text().endswith("\n{}\n" if there or heading else "{}\n")
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("rotate", [lambda path: path.rename(f"{path}.1"), lambda path: path.unlink()])
def test_a_rotated_log_goes_on_in_a_new_file(path, rotate):
    file = opened(path)
    file.begin("name\n")
    file.write("one\n")
    rotate(path)
    before = len([*Path("/proc/self/fd").iterdir()])
    file.write("two\n")
    file.write("three\n")
    assert path.read_text() == "name\ntwo\nthree\n"
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    # Cut to nothing, as `copytruncate` does.
    os.truncate(path, 0)
    file.write("four\n")
    assert path.read_text() == "name\nfour\n"
    file.close()


@given(room=st.lists(st.integers(0, 40), max_size=12))
def test_a_full_disk_costs_whole_lines_and_it_goes_on(tmp_path_factory, room):
    """Each write finds room for so many bytes."""
    path = tmp_path_factory.mktemp("full") / "lines"
    warnings = []
    file = opened(path, warnings)
    write = os.write
    expected, lost = "", 0
    with pytest.MonkeyPatch.context() as patch:
        for number, free_bytes in enumerate(room):
            line = f"{number}" * (number + 3) + "\n"
            patch.setattr(appended_file.os, "write", lambda fd, data, free=free_bytes: write(fd, data[:free]))
            file.write(line)
            if len(line) <= free_bytes:
                expected += line
            else:
                lost += 1
    file.write("end\n")
    file.close()
    assert path.read_text() == expected + "end\n"
    assert (file.failed, file.written) == (lost, len(room) - lost + 1)
    assert len(warnings) == bool(lost)
    assert file.summary == (f"{lost} records not written" if lost else "")
    if lost:
        assert "Records are lost until it can be." in warnings[0]
        with pytest.raises(OutputError, match=f"got {lost} records lost, {file.written} written"):
            file.raise_for_lost()


def test_a_full_disk_behind_a_stream_costs_lines_and_another_fault_the_run():
    faults = [errno.ENOSPC, None, errno.EFBIG, errno.EPIPE]
    taken, warnings = [], []

    def emit(text):
        if (fault := faults.pop(0)) is not None:
            raise OSError(fault, os.strerror(fault))
        taken.append(text)

    lines = CountedOutput(emit, "stdout", warnings.append, "records")
    for number in range(3):
        lines.write(f"{number}\n")
    assert (taken, lines.written, lines.failed) == (["1\n"], 1, 2)
    assert len(warnings) == 1
    assert "cannot write stdout" in warnings[0]
    with pytest.raises(OutputError, match="got 2 records lost, 1 written"):
        lines.raise_for_lost()
    with pytest.raises(BrokenPipeError):
        lines.write("3\n")


def test_lines_of_several_threads_are_whole(path):
    file = opened(path)
    lines = [f"{name}" * 50 + "\n" for name in range(8)]
    threads = [threading.Thread(target=lambda line=line: [file.write(line) for _ in range(50)]) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines * 50)


def test_a_folder_that_goes_away_costs_lines_until_it_is_back(path):
    warnings = []
    file = opened(path, warnings)
    file.write("one\n")
    path.unlink()
    path.parent.rmdir()
    file.write("two\n")
    file.write("three\n")
    path.parent.mkdir()
    file.write("four\n")
    file.close()
    assert path.read_text() == "four\n"
    assert (file.written, file.failed, len(warnings)) == (2, 2, 1)


def test_a_pipe_is_written_and_never_read(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    file = opened(fifo)
    file.write("one\n")
    file.close()
    reader.join(20)
    assert got == ["one\n"]


def test_what_cannot_be_opened_is_an_error_at_once(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "lines", tmp_path):
        with pytest.raises(OutputError, match="cannot write"):
            opened(path)
