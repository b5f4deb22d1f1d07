"""Commands of edgeclf one after the other in a process of their own, which may die or hang; what each did outside of its folders."""

import contextlib
import ctypes
import io
import json
import os
import queue
import resource
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]
# Of one command; beyond it, it hangs.
LONGEST_S = 900.0
# Beyond it, memory is not given: hostile sizes must not take the machine down.
_MOST_BYTES = 16 << 30
# inotify.h: opened, made, removed, changed, moved here.
_EVENTS = 0x20 | 0x100 | 0x200 | 0x2 | 0x80
_HEAD = struct.Struct("iIII")


@dataclass(frozen=True)
class Done:
    """What became of one command.

    Attributes:
        code: Its exit code; None where the process died or was killed.
        stderr: What it wrote to stderr; of a process that died, how it ended.
        touched: Names of what it opened, made or changed outside.
        made: What is new beside the folders of the run.
        seconds: Wall-clock time.
        peak_mb: The most memory that the process has had until then.
    """

    code: int | None
    stderr: str
    touched: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_mb: float = 0.0


@dataclass
class Worker:
    """Runs commands, in another process whenever one has died.

    Attributes:
        root: The folder in which everything of a run lies.
        outside: The folder that is watched.
        peak_mb: The most memory that any process has had.
    """

    root: Path
    outside: Path
    peak_mb: float = 0.0
    _process: "subprocess.Popen[str] | None" = None
    _lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)

    def run(self, arguments: Sequence[str]) -> Done:
        """Runs `edgeclf` with these arguments."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        started = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(list(arguments)) + "\n")
            process.stdin.flush()
        try:
            line = self._lines.get(timeout=LONGEST_S)
        except queue.Empty:
            self.close()
            return Done(None, f"no end after {LONGEST_S:g} s")
        if line is None:
            code = process.wait()
            self.close()
            return Done(None, f"the process ended with {code}")
        answer = json.loads(line)
        self.peak_mb = max(self.peak_mb, answer["peak_mb"])
        return Done(
            answer["code"],
            answer["stderr"],
            tuple(answer["touched"]),
            tuple(answer["made"]),
            time.perf_counter() - started,
            answer["peak_mb"],
        )

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        for name in ("tmp", "cache", "cwd"):
            (self.root / name).mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "TMPDIR": str(self.root / "tmp"),
            "EDGECLF_CACHE": str(self.root / "cache"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OPENCV_LOG_LEVEL": "OFF",
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.robustness.hostile_files.process", str(self.root), str(self.outside)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.root / "cwd",
            env=environment,
        )
        self._lines = queue.Queue()
        threading.Thread(target=_read_lines, args=(self._process, self._lines), daemon=True).start()


def _read_lines(process: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


class _Watch:
    """Names of what is opened, made or changed in a folder (inotify), by whichever library."""

    def __init__(self, folders: Sequence[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _EVENTS) < 0:
                raise OSError(ctypes.get_errno(), "cannot watch", str(folder))

    def names(self) -> list[str]:
        found: set[str] = set()
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return sorted(found)
            while data:
                _, _, _, length = _HEAD.unpack_from(data)
                found.add(data[_HEAD.size : _HEAD.size + length].rstrip(b"\0").decode(errors="backslashreplace"))
                data = data[_HEAD.size + length :]


def _everything_beside(root: Path) -> set[str]:
    """What lies in the folder of a run, beside it, and in the commands' current folder."""
    return {str(path) for folder in (root.parent, root, root / "cwd") for path in folder.iterdir()}


def _call(arguments: Sequence[str]) -> tuple[int, str]:
    from edgeclf.toolkit.cli import main

    # As the interpreter and the command open them: bytes, so that what cannot be encoded is an error here too.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))

    def written() -> str:
        err.flush()
        return err.buffer.getvalue().decode(errors="backslashreplace")

    sys.argv = ["edgeclf", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code
        return (code if isinstance(code, int) else int(code is not None)), written()
    except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
        return 1, f"{written()}Traceback: {error!r}"
    return 0, written()


def _serve() -> Iterator[dict[str, Any]]:
    root, outside = map(Path, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    watch = _Watch([outside, outside / "saved"])
    for line in sys.stdin:
        before = _everything_beside(root)
        code, stderr = _call(json.loads(line))
        yield {
            "code": code,
            "stderr": stderr[-4000:],
            "touched": watch.names(),
            "made": sorted(_everything_beside(root) - before),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }


def _main() -> None:
    # What libraries print themselves does not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    log = os.open(Path(sys.argv[1]) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for answer in _serve():
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main()
