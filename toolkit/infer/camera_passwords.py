"""Passwords of cameras from a file or a variable: an address on the command line is seen in every list of processes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.files import parse_failure
from edgeclf.runtime.live.source import takes_password

PASSWORD_VARIABLE = "EDGECLF_CAMERA_PASSWORD"  # noqa: S105 - the name of a variable, not a secret


def camera_passwords(path: Path | None, cameras: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The passwords that a user gives apart from the addresses, one a line; empty lines are passed over.

    Args:
        path: Value of `--camera-password-file`; None takes the variable, which has no say where no camera takes a password.
        cameras: Their addresses.
        environment: The process's.

    Returns:
        One for all cameras, or one for each; empty for none.

    Raises:
        UsageError: The file cannot be read, is no text, or is empty.
    """
    if path is None:
        return _lines(environment.get(PASSWORD_VARIABLE, "")) if any(map(takes_password, cameras)) else []
    try:
        passwords = _lines(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        # Not from the error, which holds the bytes.
        raise UsageError(
            f"cannot read --camera-password-file {path}",
            got=parse_failure(error),
            expected="a file with a password a line",
            hint="check the path and its permissions",
        ) from None
    if not passwords:
        raise UsageError(
            f"no password in --camera-password-file {path}",
            got="an empty file",
            expected="a password a line",
            hint="write it there",
        )
    return passwords


def _lines(text: str) -> list[str]:
    return [line for line in (line.rstrip("\r") for line in text.split("\n")) if line]
