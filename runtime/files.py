"""Files: what they are, reading text, atomic writing, identity, and where caches are kept."""

import codecs
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from edgeclf.runtime.errors import InputError, OutputError, quoted_word

_HEAD_BYTES = 4096
_NO_SYNC = frozenset((errno.EINVAL, errno.ENOTSUP, errno.ENOSYS))
# Pictures that nothing here reads.
_OTHER_IMAGES: dict[str, tuple[bytes, ...]] = {
    "a JPEG 2000 image": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "a JPEG XL image": (b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    "a BigTIFF image": (b"II+\0", b"MM\0+"),
    "a raw photograph": (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"IIU\0"),
    "an icon": (b"\0\0\1\0",),
    "a Photoshop document": (b"8BPS",),
    "a QOI image": (b"qoif",),
    "an OpenEXR image": (b"v/1\1",),
    "a Radiance HDR image": (b"#?RADIANCE",),
    "a DDS image": (b"DDS ",),
    "a PAM image": (b"P7\n",),
    "a PFM image": (b"PF\n", b"Pf\n"),
}
OTHER_IMAGES = frozenset(_OTHER_IMAGES)
_BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    "an image": (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*"),
    **_OTHER_IMAGES,
    "a video": (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"FLV\1", b"OggS"),
    "a sound file": (b"ID3", b"fLaC"),
    "a zip archive": (b"PK\x03\x04",),
    "a 7z archive": (b"7z\xbc\xaf",),
    "a gzip archive": (b"\x1f\x8b",),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n",),
    "a NumPy array": (b"\x93NUMPY",),
    "a Python pickle": (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    "a GGUF model": (b"GGUF",),
    "an RKNN model": (b"RKNN",),
    "a TensorRT engine": (b"ftrt",),
    "a PDF document": (b"%PDF",),
    "a Parquet table": (b"PAR1",),
    "an Arrow table": (b"ARROW1", b"\xff\xff\xff\xff"),
    "a Git LFS pointer": (b"version https://git-lfs",),
    "UTF-32 text": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"),
    "UTF-16 text": (b"\xff\xfe", b"\xfe\xff"),
}
_ZIP_SUFFIXES = {".keras": "a Keras model", ".npz": "NumPy arrays", ".xlsx": "a spreadsheet", ".ods": "a spreadsheet"}
# Of files whose content has no beginning of its own.
_BINARY_SUFFIXES = {
    ".mlmodel": "a Core ML model",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".pb": "a TensorFlow graph",
    ".pdmodel": "a Paddle model",
    ".caffemodel": "a Caffe model",
}
_CHECKPOINT_SUFFIXES = frozenset((".pt", ".pth"))
_COMPILED = "export the network that it was made of to an .onnx file"
_EXPORT = "make an .onnx file of it first, with edgeclf export"
_HINTS = {
    "a Keras model": _EXPORT,
    "an HDF5 file": _EXPORT,
    "a TensorFlow SavedModel": _EXPORT,
    "a PyTorch checkpoint": "load it in PyTorch and export the network with torch.onnx.export",
    "a safetensors file": "it has weights alone: load them into their network, and export that to an .onnx file",
    "a TensorFlow Lite model": "convert it with python -m tf2onnx.convert --tflite FILE --output model.onnx",
    "a TensorFlow graph": "convert it with python -m tf2onnx.convert, or export a SavedModel",
    "a Core ML model": _COMPILED,
    "a TensorRT engine": _COMPILED,
    "an RKNN model": _COMPILED,
    "an ORT format model": _COMPILED,
    "a Paddle model": "convert it with paddle2onnx",
    "a zip archive": "unpack it, and name the .onnx file",
    "a gzip archive": "unpack it, and name the .onnx file",
    "a tar archive": "unpack it, and name the .onnx file",
    "a Git LFS pointer": "fetch the file itself with git lfs pull",
    "an HTML page": "download the file itself, not the page about it",
}
# Text that the programs of some systems write, and nothing here reads.
WIDE_TEXT = frozenset(("UTF-16 text", "UTF-32 text"))
# Of ISO base media files that hold one image, no video.
STILL_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"))
# Bytes of text, in UTF-8 as in the older encodings: no control character but white space and escape.
_NOT_IN_TEXT = frozenset(range(0x20)) - {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1B} | {0x7F}


def file_to_write(name: Path | str, example: str | None = None) -> Path:
    """The path of a file that is going to be written, checked before there is any work to lose.

    Args:
        name: The name as given; a `Path` has lost a slash at its end.
        example: Name of a file that the error suggests; None for none.

    Raises:
        OutputError: The name is that of a folder: one is there, or it ends in a slash.
    """
    text = os.fspath(name)
    if not text:
        raise OutputError("cannot write a file", got="an empty name", expected="a file path", hint="name it")
    is_folder = kind_of(text) == "folder"
    if is_folder or text.endswith(("/", os.sep)):
        inside = "" if example is None else f", such as {quoted_word(os.path.join(text, example))}"  # noqa: PTH118 - text
        raise OutputError(
            f"cannot write {text}",
            got="an existing folder" if is_folder else "the name of a folder",
            expected="a file path",
            hint=f"name a file inside it{inside}",
        )
    return Path(text)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block ends without an exception.

    The parent folder is made when it is missing. The file is on the disk before it takes the other's place, so that a power
    cut leaves the old one or the new one, whole. When the block raises - KeyboardInterrupt included - the temporary
    file is removed and whatever stood at `path` before stays as it was.

    Args:
        path: The file to write.

    Yields:
        A path in the same folder (so that the final rename is atomic) with the same suffix (some writers choose the
        format by it).

    Raises:
        OutputError: The folder cannot be made or written, the disk is full, or `path` is a folder, a device or a pipe.
    """
    file_to_write(path)
    if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises for some impossible names
        # What the link points to is replaced, the link stays.
        path = path.resolve()
    if kind_of(path) == "other":
        raise OutputError(
            f"cannot write {path}", got="a device or a pipe", expected="an ordinary file", hint="choose another path"
        )
    temporary = path.with_name(f".{os.urandom(6).hex()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Only a failure of writing here is an output error; one that names another file is the block's own business.
        # An error of a descriptor has its number there.
        named = error.filename if isinstance(error.filename, str | bytes) else None
        if named is not None and Path(os.fsdecode(named)).parent != path.parent:
            raise
        raise output_error(path, error) from error
    finally:
        # A name that could not be created (too long, forbidden characters) cannot be removed either.
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk.

    Raises:
        OSError: The disk is full or fails.
    """
    try:
        # Windows writes back what may be written to alone, and opens no folder.
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:
        # A folder that may be written into, but not listed; a file that its writer closed to everybody.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and memory file systems have none.
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all.

    Raises:
        OutputError: See `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all.

    Raises:
        OutputError: See `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def kind_of(path: Path | str) -> Literal["file", "folder", "other"] | None:
    """What is at a path, links followed; `other` is a pipe, a socket or a device.

    None where nothing is, where a link leads nowhere, and, unlike with the methods of `Path`, where nothing can be looked
    at: a name that is too long or impossible, a folder above that may not be searched.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - text that is no path is one of the cases
    except (OSError, ValueError):
        return None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def content_kind(path: Path | str) -> str:
    """What is at a path, as the noun of an error's `got`: by a file's first bytes, and its suffix where these say little.

    Pipes and devices are not opened.
    """
    kind = kind_of(path)
    if kind == "folder":
        is_saved_model = kind_of(os.path.join(path, "saved_model.pb")) == "file"  # noqa: PTH118 - text that is no path
        return "a TensorFlow SavedModel" if is_saved_model else "a folder"
    if kind == "other":
        return "a device or a pipe"
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - text that is no path is one of the cases
            head = file.read(_HEAD_BYTES)
    except ValueError:
        return "an impossible name"
    except FileNotFoundError:
        return "a dangling link" if os.path.islink(path) else "no such file or folder"  # noqa: PTH114 - as above
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    return kind_of_bytes(head, Path(path).suffix.lower())


def hint_for(kind: str, default: str) -> str:
    """What to do with a file that is no ONNX model.

    Args:
        kind: What it is, see `content_kind`.
        default: What to do with one of which its kind says nothing.
    """
    return _HINTS.get(kind, default)


def kind_of_bytes(head: bytes, suffix: str = "") -> str:
    """What a file with these first bytes (1,024 or more, where it has as many) is, as the noun of an error's `got`."""
    if not head:
        return "an empty file"
    kind = _known_format(head)
    if kind == "a zip archive":
        # PyTorch's begins with the pickle of what it holds, in a folder of any name.
        return "a PyTorch checkpoint" if b"/data.pkl" in head[:512] else _ZIP_SUFFIXES.get(suffix, kind)
    if kind is not None:
        is_checkpoint = kind == "a Python pickle" and suffix in _CHECKPOINT_SUFFIXES
        return "a PyTorch checkpoint" if is_checkpoint else kind
    if _NOT_IN_TEXT.isdisjoint(head):
        return _kind_of_text(head)
    # Without a byte-order mark: every other byte of letters is none.
    for letters, zeros in ((head[::2], head[1::2]), (head[1::2], head[::2])):
        if len(head) > 7 and not any(zeros) and _NOT_IN_TEXT.isdisjoint(letters):
            return "UTF-16 text"
    return _kind_of_binary(head, suffix)


def _kind_of_binary(head: bytes, suffix: str) -> str:
    # Protocol buffers have no beginning of their own; ONNX's first field is the version, tag 8.
    if suffix == ".onnx" and head[0] == 8:
        return "an ONNX model"
    # Some old ONNX files are called .pb.
    return "binary data" if suffix == ".pb" and head[0] == 8 else _BINARY_SUFFIXES.get(suffix, "binary data")


def _known_format(head: bytes) -> str | None:
    for kind, beginnings in _BEGINNINGS.items():
        if head.startswith(beginnings):
            return kind
    if head[4:8] == b"ftyp":
        if head[8:12] == b"crx ":
            return "a raw photograph"
        return "a HEIF or AVIF image" if head[8:12] in STILL_BRANDS else "a video"
    inside = {
        "a sound file": head[:4] == b"RIFF" and head[8:12] == b"WAVE",
        "an image": head[:4] == b"RIFF" and head[8:12] == b"WEBP",
        "a video": head[:4] == b"RIFF" and head[8:12] == b"AVI ",
        "a TensorFlow Lite model": head[4:8] == b"TFL3",
        "an ORT format model": head[4:8] == b"ORTM",
        # The length of the JSON that follows, in eight bytes.
        "a safetensors file": head[4:9] == b"\0\0\0\0{",
        "a tar archive": head[257:262] == b"ustar",
    }
    return next((kind for kind, is_so in inside.items() if is_so), None)


def _kind_of_text(head: bytes) -> str:
    try:
        # The last character may be cut.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        # The older encodings give every byte a meaning; a file of names or a table is mostly ASCII in all of them.
        return "text that is not UTF-8" if sum(byte < 0x80 for byte in head) > len(head) // 3 else "binary data"
    beginning = head.removeprefix(codecs.BOM_UTF8).lstrip()[:14].lower()
    if beginning.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return "an XML or SVG document" if beginning.startswith((b"<?xml", b"<svg")) else "text"


def read_text(
    path: Path, *, what: str, expected: str, hint: str | None = None, error_class: type[InputError] = InputError
) -> str:
    """Reads a file of UTF-8 text, with or without a byte-order mark.

    Args:
        path: The file; a pipe is read too.
        what: What the error says could not be done.
        expected: What the error says would have been accepted.
        hint: What the error advises where the file is no text at all.
        error_class: Class of the error.

    Raises:
        InputError: There is no such file, it cannot be read, or it is not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            # A video given by mistake is not read to its end.
            head = file.read(_HEAD_BYTES)
            kind = kind_of_bytes(head, path.suffix.lower())
            if kind.startswith(("text", "an empty", "an HTML", "an XML")):
                data = head + file.read()
                return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise error_class(
            what, got=f"text that is not UTF-8, in line {line}", expected=expected, hint="save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:
        raise error_class(what, got=content_kind(path), expected=expected, hint=hint or "check the path") from error
    raise error_class(what, got=kind, expected=expected, hint="save it as UTF-8" if kind in WIDE_TEXT else hint)


def parse_failure(error: Exception) -> str:
    """What is wrong with a file of edgeclf's own that could not be read or parsed, as the noun of an error's `got`."""
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are no text"
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    line = getattr(error, "lineno", None)
    if isinstance(error, ValueError) and line is not None:
        return f"text that is not JSON, in line {line}"
    return "JSON of another form" if isinstance(error, TypeError) else str(error)


class FileIdentity(NamedTuple):
    """A file's identity: equal for as long as the file is neither replaced nor written to.

    Attributes:
        device: Number of the file system.
        inode: The file's number there.
        size: Bytes.
        mtime_ns: Time of the last modification, which a program can set back.
        ctime_ns: Time of the last change of content or status, which none can.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """The identity of the file that `os.stat` or `os.fstat` described."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def file_identity(path: Path) -> FileIdentity | None:
    """The identity of the file at a path, links followed; None where there is none, or none that may be looked at."""
    try:
        return FileIdentity.of(path.stat())
    except (OSError, ValueError):
        # A name with a NUL is a ValueError.
        return None


def default_cache_folder() -> Path:
    """`$EDGECLF_CACHE`, else `$XDG_CACHE_HOME/edgeclf`, else `~/.cache/edgeclf`.

    Raises:
        OutputError: None of these is set, and the user has no home folder.
    """
    if os.environ.get("EDGECLF_CACHE"):
        return Path(os.environ["EDGECLF_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "edgeclf"
    except RuntimeError as error:
        # A container's user that no passwd file lists.
        raise OutputError(
            "cannot keep anything in a cache",
            got="no home folder of this user",
            expected="a folder for it",
            hint="set EDGECLF_CACHE or HOME to one",
        ) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """The error that says `path` cannot be written, from the operating system's own words."""
    if isinstance(error, (FileExistsError, IsADirectoryError, NotADirectoryError)):
        got = "an existing folder" if kind_of(path) == "folder" else "a file where a folder has to be"
        return OutputError(f"cannot write {path}", got=got, expected="a free name", hint="choose another path")
    return OutputError(
        f"cannot write {path}",
        got=(error.strerror or type(error).__name__).lower(),
        expected="a writable place with enough free space",
        hint="choose another path or free some space",
    )
