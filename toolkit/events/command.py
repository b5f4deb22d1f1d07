"""Command: a sink that runs a program for every event."""

import contextlib
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
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.spec.json_documents import json_line
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
            got={"file": "a file that may not be executed", "folder": "a folder"}.get(
                kind_of(words[0]) or "", "no such program"
            ),
            expected="one that can be executed",
            hint="check --on-event",
        )

    commands = _Commands(words)
    return BackgroundSink("command", commands.run, _COMMANDS_AT_ONCE, warn)


class _Commands:
    """Runs the command for an event, from several threads.

    Args:
        words: Program and arguments.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = words
        # A program of another user (sudo) cannot be killed, and is not waited for.
        self._left: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def run(self, event: Mapping[str, Any], closing: threading.Event) -> None:
        """Runs it for one event, see `BackgroundSink`."""
        with self._lock:
            self._left = [process for process in self._left if process.poll() is None]
            if len(self._left) >= _COMMANDS_AT_ONCE:
                raise SinkError(f"{len(self._left)} of {self._words[0]} still run, and cannot be killed")
        process = self._started(event)
        line = json_line(event).encode() + b"\n"
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                process.communicate(line, timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                line = b""  # communicate goes on with the text of its first call
                if time.monotonic() >= deadline_s or closing.is_set():
                    why = "the run ended" if closing.is_set() else f"more than {_TIMEOUT_S:g} s"
                    raise SinkError(f"{self._words[0]} {self._end(process)}: {why}") from None
        if process.returncode:
            raise SinkError(f"{self._words[0]} ended with {process.returncode}")

    def _started(self, event: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
        try:
            # A process group of its own: its children are killed with it, and Ctrl-C in the terminal does not reach it.
            return subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_variables(event)},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SinkError(str(error)) from error

    def _end(self, process: "subprocess.Popen[bytes]") -> str:
        """Kills a command and its children; says whether that was possible."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except PermissionError:
            with self._lock:
                self._left.append(process)
            words = "left to itself, as it cannot be killed"
        except ProcessLookupError:
            words = "killed"
        else:
            process.wait()
            words = "killed"
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        return words


def _variables(event: Mapping[str, Any]) -> dict[str, str]:
    """An event's plain fields as environment variables."""
    return {
        f"EDGECLF_{name.upper()}": str(value).replace("\0", "")
        for name, value in event.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
