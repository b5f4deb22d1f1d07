"""Cuts, garbles and kills a camera's stream, and counts frames and what the process is left holding.

    python benchmarks/camera/chaos.py [--cuts 50] [--garbage 10000] [--quick] [--json]

A stream that is cut and restored `--cuts` times, with `--garbage` parts of random bytes among good frames, then a camera
whose process is killed and started again. `edgeclf infer` must not end, count every frame, every damaged part and every
reconnect exactly, and hold no more threads, open files or memory after than after the first five cuts. Exit code 1 when
any of this fails. Takes about six seconds a cut: the pauses before opening anew are those of a real run.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.camera.mjpeg_camera import MjpegCamera, jpeg_of
from benchmarks.camera.slow_model import write_slow_model
from benchmarks.common import Arguments, Report, background_process, edgeclf_command, working_folder

_GOOD_PER_CUT = 40
_PAUSE_S = 0.003
_PATIENCE_S = 60.0
# Pages that the allocator keeps, and what ONNX Runtime and OpenCV set up late.
_ALLOWED_MB = 16.0


def serve(port: int, given: argparse.Namespace, *, is_second: bool) -> None:
    """The camera, in a process of its own that can be killed.

    Args:
        port: Where to listen; 0 for any.
        given: The benchmark's options; `serve` is the folder for files that say how far the camera is.
        is_second: Whether it is the one that takes the place of the killed one.
    """
    cuts, garbage, marks = given.cuts, given.garbage, given.serve
    last_frames = given.after_kill if is_second else given.before_kill
    rng = np.random.default_rng(0)
    good = jpeg_of(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    shares = [garbage // cuts + (number < garbage % cuts) for number in range(cuts)]

    def parts(connection: int) -> Iterator[bytes]:
        if not is_second and connection < cuts:
            for is_good in rng.permutation([True] * _GOOD_PER_CUT + [False] * shares[connection]):
                yield good if is_good else rng.bytes(int(rng.integers(0, 20_000)))
                time.sleep(_PAUSE_S)
            return
        for _ in range(last_frames):
            yield good
            time.sleep(1 / 30)
        time.sleep(0.5)
        (marks / ("second" if is_second else "first")).touch()
        time.sleep(60)

    with MjpegCamera(parts, port) as camera:
        (marks / "port").write_text(str(camera.port), encoding="utf-8")
        signal.pause()


def wait_for(path: Path, seconds: float) -> None:
    """Waits until a file exists.

    Raises:
        SystemExit: It does not within so many seconds.
    """
    deadline_s = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"nothing happened for {seconds:g} s: no {path.name}")
        time.sleep(0.05)


def held(pid: int) -> dict[str, float]:
    """Threads, open files and resident memory (MB) of a process."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    return {
        "threads": len(list((process / "task").iterdir())),
        "files": len(list((process / "fd").iterdir())),
        "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


def events_in(path: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in a JSON-lines file; none where it does not exist yet."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def run(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Cuts, garbage and the kill in one run of `edgeclf infer`; its counts next to what was sent."""
    cuts = given.cuts
    model, _ = write_slow_model(folder, 5.0)
    events = folder / "events.jsonl"
    frames = ("--before-kill", given.before_kill, "--after-kill", given.after_kill)
    server_command = [sys.executable, __file__, "--serve", folder, "--cuts", cuts, "--garbage", given.garbage, *frames]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(background_process(server_command))
        wait_for(folder / "port", _PATIENCE_S)
        port = (folder / "port").read_text(encoding="utf-8")
        camera = ("--camera", f"http://127.0.0.1:{port}/v.mjpg", "--reconnects", cuts + 50, "--events", events)
        command = edgeclf_command("infer", model, "--threads", 1, *camera, "--json", "--out", os.devnull)
        infer = stack.enter_context(background_process(command, stderr=subprocess.PIPE))
        while len(events_in(events, "reconnected")) < min(5, cuts):
            if infer.poll() is not None:
                raise SystemExit(f"edgeclf infer ended with {infer.returncode}: {infer.communicate()[1]}")
            time.sleep(0.2)
        before = held(infer.pid)
        wait_for(folder / "first", cuts * 15 + _PATIENCE_S)
        server.kill()
        server.wait()
        time.sleep(2)
        stack.enter_context(background_process([*server_command, "--port", port]))
        wait_for(folder / "second", _PATIENCE_S)
        after = held(infer.pid)
        infer.send_signal(signal.SIGTERM)
        _, words = infer.communicate(timeout=_PATIENCE_S)
    (ended,) = events_in(events, "ended")
    expected = {
        "captured": cuts * _GOOD_PER_CUT + given.before_kill + given.after_kill,
        "unreadable": given.garbage,
        "reconnects": cuts + 1,
    }
    return {
        "expected": expected,
        "counted": {name: ended[name] for name in expected},
        "classified_and_dropped": ended["frames"] + ended["dropped"],
        "before": before,
        "after": after,
        "exit_code": infer.returncode,
        "last_words": words.splitlines()[-1],
        "is_exact": all(ended[name] == value for name, value in expected.items())
        and ended["frames"] + ended["dropped"] == ended["captured"],
        "is_clean": infer.returncode == 0
        and after["threads"] <= before["threads"]
        and after["files"] <= before["files"]
        and after["resident_mb"] - before["resident_mb"] <= _ALLOWED_MB,
    }


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"cuts": 1, "garbage": 20, "before_kill": 20, "after_kill": 30})
    arguments.add_argument("--cuts", type=int, default=50, help="cuts of the stream (default: %(default)s)")
    arguments.add_argument("--garbage", type=int, default=10_000, help="parts of random bytes (default: %(default)s)")
    arguments.add_argument("--before-kill", type=int, default=100, help="frames before it (default: %(default)s)")
    arguments.add_argument("--after-kill", type=int, default=300, help="frames after it (default: %(default)s)")
    arguments.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = arguments.parse()
    if given.cuts < 1 or given.garbage < 0:
        arguments.error("--cuts must be at least 1, --garbage at least 0")
    if given.serve:
        is_second = given.port is not None
        serve(given.port or 0, given, is_second=is_second)
    with working_folder() as folder:
        figures = run(folder, given)
    report = Report(given)
    for name, value in figures["expected"].items():
        report.line(f"{name}: sent {value}, counted {figures['counted'][name]}")
    report.line(f"classified + dropped: {figures['classified_and_dropped']}")
    for name, value in figures["before"].items():
        report.line(f"{name}: {value:g} after five cuts, {figures['after'][name]:g} at the end")
    report.line(f"exit code {figures['exit_code']}; {figures['last_words']}")
    report.close(figures)
    return int(not (figures["is_exact"] and (given.quick or figures["is_clean"])))


if __name__ == "__main__":
    raise SystemExit(main())
