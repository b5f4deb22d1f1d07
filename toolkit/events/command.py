"""Command: a sink that runs a program for every event."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.toolkit.events.background_sink import BackgroundSink, SinkError

_TIMEOUT_S = 10.0
_COMMANDS_AT_ONCE = 2


def command_sink(text: str, warn: Callable[[str], None]) -> BackgroundSink:
    """A sink that runs a command for each event, without a shell: JSON on stdin, `EDGECLF_EVENT`, `EDGECLF_LABEL` ... set.

    Two run at once; a command that takes longer than ten seconds is killed. Its output is discarded.

    Args:
        text: Program and arguments, quoted as for a shell.
        warn: See `BackgroundSink`.

    Raises:
        UsageError: The text cannot be split into words.
        SourceError: There is no such program.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError("bad --on-event", got=f"{text!r} ({error})", expected="a command and its arguments") from error
    if not words:
        raise UsageError("bad --on-event", got="nothing", expected="a command and its arguments")
    if shutil.which(words[0]) is None:
        raise SourceError(
            f"cannot run {words[0]}",
            got="no such program",
            expected="one that can be executed",
            hint="check --on-event",
        )

    def run(event: Mapping[str, Any], closing: threading.Event) -> None:
        line = json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            # A process group of its own: its children are killed with it, and Ctrl-C in the terminal does not reach it.
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_variables(event)},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SinkError(str(error)) from error
        deadline_s = time.monotonic() + _TIMEOUT_S
        with process:
            while True:
                try:
                    process.communicate(line, timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    line = b""  # communicate goes on with the text of its first call
                    if time.monotonic() < deadline_s and not closing.is_set():
                        continue
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    why = "the run ended" if closing.is_set() else f"more than {_TIMEOUT_S:g} s"
                    raise SinkError(f"{words[0]} killed: {why}") from None
        if process.returncode:
            raise SinkError(f"{words[0]} ended with {process.returncode}")

    return BackgroundSink("command", run, _COMMANDS_AT_ONCE, warn)


def _variables(event: Mapping[str, Any]) -> dict[str, str]:
    """An event's plain fields as environment variables."""
    return {
        f"EDGECLF_{name.upper()}": str(value).replace("\0", "")
        for name, value in event.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
