"""Processes killed by SIGKILL at a chosen point, and what they leave behind: for `kill_points.py`."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What writes a file whole or not at all gives it such a name first; a run folder has one until its first epoch.
_TEMPORARY = re.compile(
    r"\.[0-9a-f]{12}\.part(\..*)?|\..*\.[0-9a-f]{8}\.(part|old)|\..*\.lock|.*-journal|.*-wal|.*-shm"
)
_POLL_S = 0.002


@dataclass(frozen=True)
class Point:
    """Where to kill a process.

    Attributes:
        name: For the table.
        is_reached: Whether the process, started so many seconds ago, is there.
    """

    name: str
    is_reached: Callable[[float], bool]


def at_time(seconds: float) -> Point:
    """A point at a time after the start."""
    return Point(f"after {seconds:.2f} s", lambda elapsed_s: elapsed_s >= seconds)


def at_file(folder: Path, pattern: str, least_bytes: int = 0) -> Point:
    """The moment in which a file of this pattern, hidden ones as well, is there and has so many bytes."""

    def is_reached(_elapsed_s: float) -> bool:
        for path in folder.glob(pattern):
            try:
                if path.stat().st_size >= least_bytes:
                    return True
            except OSError:
                continue
        return False

    size = f" of {least_bytes:,} bytes" if least_bytes else ""
    return Point(f"at {pattern}{size}", is_reached)


def at_text(folder: Path, pattern: str, lines: int) -> Point:
    """The moment in which a text file of this pattern has so many lines."""

    def is_reached(_elapsed_s: float) -> bool:
        for path in folder.glob(pattern):
            try:
                if path.read_bytes().count(b"\n") >= lines:
                    return True
            except OSError:
                continue
        return False

    return Point(f"at {lines} lines of {pattern}", is_reached)


def run_and_kill(command: Sequence[str], environment: Mapping[str, str], point: Point) -> bool:
    """Starts a command and kills it, with all its children, when it reaches a point; whether it was killed in time.

    Raises:
        SystemExit: It failed before.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = time.perf_counter()
    while process.poll() is None:
        if point.is_reached(time.perf_counter() - started):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(_POLL_S)
    _, words = process.communicate()
    if process.returncode not in {0, -signal.SIGKILL}:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode} before it was killed: {words}")
    return process.returncode != 0


def leftovers(*folders: Path) -> list[str]:
    """Names of temporary files below folders, without what is random in them, sorted."""
    names = [
        re.sub(r"[0-9a-f]{12}|(?<=\.)[0-9a-f]{8}(?=\.)", "*", path.name)
        for folder in folders
        for path in folder.rglob("*")
        if _TEMPORARY.fullmatch(path.name)
    ]
    return sorted(names)
