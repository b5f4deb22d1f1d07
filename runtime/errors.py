"""The errors that a user can fix; each builds its own sentence and has an exit code.

One root, `EdgeclfError`; anything else that escapes is a bug and keeps its traceback (exit code 1). The sentence is
built here from four parts - what happened, what was got, what was expected, what to do - so that no raise site can
forget one by formatting its own text.
"""

import re
import shlex
from os import PathLike, fspath
from typing import ClassVar

_LINE_ENDS = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")


class EdgeclfError(Exception):
    """Root of the errors that the user's input or machine causes.

    Args:
        what: What could not be done, and to which thing, without a full stop.
        got: What was found.
        expected: What would have been accepted.
        hint: What to do next, as an imperative.

    Attributes:
        exit_code: The process exit code the command line ends with (2 usage, 3 unusable input, 4 a gate failed,
            5 a device or optional package is not there).
    """

    exit_code: ClassVar[int] = 3

    def __init__(
        self, what: str, *, got: str | None = None, expected: str | None = None, hint: str | None = None
    ) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.hint = hint
        super().__init__(self.sentence)

    def __reduce__(self) -> "tuple[object, ...]":
        """The four parts, for `pickle`: an error comes back from another process as it was, whatever its class adds."""
        return _restored, (type(self), self.args, self.__dict__.copy())

    @property
    def sentence(self) -> str:
        """The whole error as one sentence on one line."""
        facts = [f"got {self.got}" if self.got else "", f"expected {self.expected}" if self.expected else ""]
        text = self.what
        if any(facts):
            text += ": " + ", ".join(fact for fact in facts if fact)
        if self.hint:
            text += f"; {self.hint}"
        # One line; two spaces in a file's name stay two.
        return _LINE_ENDS.sub(" ", text).strip() + "."

    def __str__(self) -> str:
        return self.sentence


def _restored(error_class: type[EdgeclfError], args: tuple[object, ...], state: dict[str, object]) -> EdgeclfError:
    # Without `__init__`, whose arguments may be others in a class of its own.
    error = error_class.__new__(error_class, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def command_line(*words: "str | PathLike[str]") -> str:
    """`edgeclf` with arguments, to be pasted into a POSIX shell: every word is quoted that needs it.

    A word with a line end in it, or whatever else a terminal does not show as it is, stands in the quotes that know escapes, as bash, zsh
    and POSIX of 2024 read them.

    Args:
        words: Sub-command, options and paths, unquoted. A path (no `str`) that begins with a dash gets `./` before it.
    """
    texts = (word if isinstance(word, str) else _no_option(fspath(word)) for word in words)
    return " ".join(map(quoted_word, ["edgeclf", *texts]))


def quoted_word(text: str) -> str:
    """One word of a command line, see `command_line`."""
    if text.isprintable():
        return shlex.quote(text)
    shown = (character if _needs_no_escape(character) else _hexadecimal(character) for character in text)
    return f"$'{''.join(shown)}'"


def _needs_no_escape(character: str) -> bool:
    return character.isprintable() and character not in "'\\"


def _hexadecimal(character: str) -> str:
    # Python reads a byte of a file's name that is no text as one of these.
    is_byte = "\udc80" <= character <= "\udcff"
    encoded = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in encoded)


def _no_option(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


def install_hint(*extras: str) -> str:
    """What a `MissingPackageError` advises: the command that installs extras of edgeclf.

    `headless`, `cpu` and `gpu` exclude each other, so that only errors about OpenCV and ONNX Runtime themselves name one.
    """
    return f'run pip install "edgeclf[{",".join(extras)}]"'


class UsageError(EdgeclfError):
    """A command or call is invalid: the value of an option, or a combination of options."""

    exit_code = 2


class InputError(EdgeclfError):
    """The user's input is unusable."""


class ImageError(InputError):
    """One image cannot be read: it is missing, empty, truncated, too large, or not an image."""


class SourceError(InputError):
    """A source of frames - a folder, a glob, a video, a camera - is not there, is empty or went away."""


class DatasetError(InputError):
    """A labelled data set cannot be used: no images, one class, labels that clash or do not match."""


class ModelFileError(InputError):
    """A model file is missing, corrupt, or does not have the shapes the contract asks for."""


class RunFolderError(InputError):
    """A run folder is missing, incomplete, or already holds a run."""


class OutputError(InputError):
    """An output cannot be written: no permission, no space, a folder in the way."""


class GateError(EdgeclfError):
    """A gate failed: the parity or accuracy asked for was not reached, so nothing was written."""

    exit_code = 4


class UnavailableError(EdgeclfError):
    """The requested device, display or optional package is not there."""

    exit_code = 5


class DeviceUnavailableError(UnavailableError):
    """The requested execution device cannot be used on this machine."""


class MissingPackageError(UnavailableError, ImportError):
    """An optional package is not installed, or cannot be imported."""
