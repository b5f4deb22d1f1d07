import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgeclf.runtime.errors import InputError, ModelFileError, OutputError
from edgeclf.runtime.files import (
    content_kind,
    default_cache_folder,
    file_identity,
    kind_of,
    read_text,
    replacing,
    write_bytes,
    write_text,
)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "deep" / "out.json"
    write_text(path, "å")
    assert path.read_bytes() == "å".encode()
    assert names_in(path.parent) == ["out.json"]


def test_the_old_file_stands_until_the_block_ends(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["out.bin"]


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another_and_its_name_after(tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    synced = []

    def fsync(descriptor):
        status = os.fstat(descriptor)
        what = "folder" if os.path.samestat(status, tmp_path.stat()) else status.st_size
        synced.append((what, path.read_bytes()))

    monkeypatch.setattr("os.fsync", fsync)
    write_bytes(path, b"newer")
    assert synced == [(5, b"old"), ("folder", b"newer")]


@pytest.mark.parametrize(("number", "is_error"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False)])
def test_a_disk_that_does_not_keep_a_file_is_an_output_error_and_the_old_file_stays(
    tmp_path, monkeypatch, number, is_error
):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fsync(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OutputError, match=r"cannot write .*out\.bin") if is_error else contextlib.nullcontext():
        write_bytes(path, b"new")
    assert path.read_bytes() == (b"old" if is_error else b"new")
    assert names_in(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interrupted_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["out.bin"]


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="existing folder"):
        write_bytes(tmp_path / "out", b"")


def test_a_file_where_a_folder_should_be_is_an_output_error(tmp_path):
    # Holds for root too, whom no permission stops.
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file/out\.txt"):
        write_text(tmp_path / "file" / "out.txt", "x")
    assert names_in(tmp_path) == ["file"]


def test_a_file_system_that_takes_nothing_is_an_output_error():
    with pytest.raises(OutputError, match="cannot write /proc/edgeclf"):
        write_text(Path("/proc/edgeclf/out.txt"), "x")


def test_a_full_disk_is_an_output_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    program = f"""
        import resource, signal, sys
        from pathlib import Path
        from edgeclf.runtime.errors import OutputError
        from edgeclf.runtime.files import file_identity, kind_of, write_bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_bytes(Path({str(path)!r}), bytes(100_000))
        except OutputError as error:
            print(error)
            sys.exit(error.exit_code)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert "file too large" in done.stdout
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["out.bin"]


def test_an_impossible_name_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="file name too long"):
        write_text(tmp_path / ("x" * 300), "x")
    with pytest.raises(OutputError, match="file name too long"):
        write_text(tmp_path / ("x" * 300) / "out.txt", "x")
    assert names_in(tmp_path) == []


def test_the_longest_possible_name_can_be_written(tmp_path):
    name = "x" * 251 + ".txt"
    write_text(tmp_path / name, "x")
    assert names_in(tmp_path) == [name]


def test_reading_another_file_inside_the_block_keeps_its_own_error(tmp_path):
    def reads_what_is_not_there():
        with replacing(tmp_path / "out.txt") as temporary:
            temporary.write_text((tmp_path / "elsewhere" / "missing.txt").read_text())

    with pytest.raises(FileNotFoundError):
        reads_what_is_not_there()
    assert names_in(tmp_path) == []


def test_a_device_is_never_replaced_by_a_file(tmp_path):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    with pytest.raises(OutputError, match="a device or a pipe"), replacing(fifo) as temporary:
        temporary.write_text("x")
    assert fifo.is_fifo()


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    target = tmp_path / "target.txt"
    target.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_file_keeps_its_identity_until_it_is_written_to_or_replaced_even_with_the_same_size_and_time(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path, text in ((first, "aa"), (second, "bb")):
        path.write_text(text)
        os.utime(path, ns=(10**18, 10**18))
    before, other = file_identity(first), file_identity(second)
    assert file_identity(first) == before != other
    assert (before.size, before.mtime_ns) == (other.size, other.mtime_ns)
    first.rename(tmp_path / "third")
    second.rename(first)
    assert file_identity(first).inode == other.inode != before.inode
    before = file_identity(first)
    for _ in range(100):
        # The kernel's clock for files goes in steps of some milliseconds.
        time.sleep(1e-3)
        first.write_text("cc")
        os.utime(first, ns=(10**18, 10**18))
        if file_identity(first) != before:
            break
    assert file_identity(first)[:4] == before[:4]
    assert file_identity(first).ctime_ns > before.ctime_ns
    assert file_identity(tmp_path / "nothing") is None


def test_the_kind_of_a_path_is_known_without_an_exception(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert [kind_of(tmp_path / name) for name in ("file", "link", "pipe", "dangling", "nothing")] == [
        "file", "file", "other", None, None,
    ]  # fmt: skip
    assert kind_of(tmp_path) == kind_of(str(tmp_path)) == "folder"
    assert kind_of("/dev/null") == "other"
    assert kind_of("x" * 5000) is kind_of("nul\0") is None


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a", b"", "an empty file"),
        ("a.csv", b"path,label\n", "text"),
        ("a.csv", "größe\n".encode(), "text"),
        ("a.csv", "\ufeffgröße\n".encode(), "text"),
        ("a.csv", "größe und länge\n".encode("latin-1"), "text that is not UTF-8"),
        ("a.csv", "path,label\n".encode("utf-16"), "UTF-16 text"),
        ("a.csv", "path,label\n".encode("utf-16-be"), "UTF-16 text"),
        ("a.csv", "path,label\n".encode("utf-16-le"), "UTF-16 text"),
        ("a.csv", "path,label\n".encode("utf-32"), "UTF-32 text"),
        ("a.bin", bytes(40), "binary data"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "a JPEG 2000 image"),
        ("a.cr3", b"\0\0\0\x18ftypcrx " + bytes(20), "a raw photograph"),
        ("a.wav", b"RIFF\1\0\0\0WAVEfmt ", "a sound file"),
        ("a.csv", ("ä" * 5000).encode(), "text"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(20), "an image"),
        ("a.webp", b"RIFF\1\0\0\0WEBPVP8 ", "an image"),
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(20), "a HEIF or AVIF image"),
        ("a.avi", b"RIFF\1\0\0\0AVI LIST", "a video"),
        ("a.mp4", b"\0\0\0\x18ftypisom" + bytes(20), "a video"),
        ("a.zip", b"PK\3\4" + bytes(20), "a zip archive"),
        ("a.keras", b"PK\3\4" + bytes(20), "a Keras model"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
        ("a.tflite", b"\x1c\0\0\0TFL3" + bytes(20), "a TensorFlow Lite model"),
        ("a.onnx", b"\x08\x08\x12\x07edgeclf\0", "an ONNX model"),
        ("a.onnx", b"hello", "text"),
        ("a.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("a.ort", b"\x1c\0\0\0ORTM" + bytes(20), "an ORT format model"),
        ("a.pt", b"PK\3\4" + bytes(26) + b"a/data.pkl" + bytes(20), "a PyTorch checkpoint"),
        ("a.pth", b"\x80\x02}q\0." + bytes(9), "a PyTorch checkpoint"),
        ("a.pkl", b"\x80\x05}." + bytes(9), "a Python pickle"),
        ("a.safetensors", b"\x40" + bytes(7) + b'{"w":{"dtype":"F32"}}', "a safetensors file"),
        ("a.bin", b"\x40" + bytes(7) + b"w", "binary data"),
        ("a.engine", bytes(40), "a TensorRT engine"),
        ("a.plan", b"ftrt" + bytes(20), "a TensorRT engine"),
        ("a.mlmodel", b"\x08\x06\x12\x20" + bytes(20), "a Core ML model"),
        ("a.pb", b"\x0a\x2a\x0a\x05input\0", "a TensorFlow graph"),
        # ONNX files had this suffix once.
        ("a.pb", b"\x08\x08\x12\x07edgeclf\0", "binary data"),
        ("a.bin", b"\x08\x08\x12\x07edgeclf\0", "binary data"),
        ("a.bin", bytes(range(128, 256)), "binary data"),
        ("a.html", b"\n <!DOCTYPE HTML><html>", "an HTML page"),
    ],
)
def test_a_file_is_called_by_what_is_in_it(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert content_kind(tmp_path / name) == kind


def test_what_is_no_file_is_called_by_its_name_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert content_kind(tmp_path) == "a folder"
    (tmp_path / "saved_model.pb").touch()
    assert content_kind(tmp_path) == "a TensorFlow SavedModel"
    assert content_kind(tmp_path / "pipe") == "a device or a pipe"
    assert content_kind(tmp_path / "link") == "a dangling link"
    assert content_kind(tmp_path / "nowhere") == "no such file or folder"
    assert content_kind("a\0b") == "an impossible name"
    assert content_kind("x" * 300) == "file name too long"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("length", [0, 10, 4095, 4096, 20_000])
def test_text_is_read_whole(tmp_path, encoding, length):
    text = ("aé" * length)[:length]
    (tmp_path / "a.txt").write_text(text, encoding=encoding)
    assert read_text(tmp_path / "a.txt", what="w", expected="e") == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\n" * 3000 + b"caf\xe9\n", "w: got text that is not UTF-8, in line 3001, expected e; save it as UTF-8."),
        ("café".encode("utf-16"), "w: got UTF-16 text, expected e; save it as UTF-8."),
        (b"\x89PNG\r\n\x1a\n", "w: got an image, expected e; h."),
    ],
)
def test_what_is_no_text_is_an_error_of_the_class_asked_for(tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        read_text(tmp_path / "a.txt", what="w", expected="e", hint="h", error_class=ModelFileError)
    assert str(caught.value) == words
    with pytest.raises(InputError, match="got no such file or folder"):
        read_text(tmp_path / "b.txt", what="w", expected="e")
    with pytest.raises(InputError, match="got a folder"):
        read_text(tmp_path, what="w", expected="e")


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("EDGECLF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(OutputError, match=r"got no home folder of this user.*set EDGECLF_CACHE or HOME"):
        default_cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "edgeclf"
