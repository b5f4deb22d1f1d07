"""Measures the age of a camera's frames when their result is there.

    python benchmarks/camera/frame_age.py [--seconds 60] [--fps 30] [--infer-ms 80] [--waiting]
                                          [--quick] [--json]

A local MJPEG camera sends frames; `edgeclf infer` classifies them with a model made to take `--infer-ms`: a convolution
repeated as often as that takes on this machine. The age runs from the arrival of a frame's last byte to its result.
Whoever keeps the newest frame only is at most one frame interval and one inference behind, however long it runs: exit
code 1 when the p95 of the first five seconds, or of the last five, is above interval + inference + 10 ms. The inference
is that of the same run (p95 of `latency_ms`, which holds resizing too). With `--waiting` the model waits for that long, as
for an accelerator, instead of computing: on a busy machine that leaves the camera's side to be measured.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.camera.mjpeg_camera import MjpegCamera, jpeg_of
from benchmarks.camera.slow_model import write_slow_model
from benchmarks.common import Arguments, Report, run_script, working_folder
from edgeclf.runtime.arrays import FloatArray, UInt8Array

# Length of the first and the last part of a run, which are judged.
_PART_S = 5.0
_QUICK_PART_S = 1.0
_ALLOWED_MS = 10.0


def run(model: Path, seconds: float, fps: float, wait_ms: float, folder: Path) -> list[dict[str, Any]]:
    """Time (s), age and latency (ms) of every result of a run."""
    picture = jpeg_of(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    with MjpegCamera(lambda _: MjpegCamera.paced(picture, 1 / fps)) as camera:
        out = folder / "ages.json"
        environment = {**os.environ, "OPENCV_LOG_LEVEL": "SILENT"}
        run_script(__file__, "--observe", model, camera.url, seconds, wait_ms, out, environment=environment)
    results: list[dict[str, Any]] = json.loads(out.read_text())
    return results


def observe(model: str, url: str, seconds: float, wait_ms: float, out: str) -> None:
    """Runs `edgeclf infer` with a sink that keeps ages; in a process of its own, as a camera's user has it."""
    from edgeclf.runtime import Classifier
    from edgeclf.runtime.live.results import LiveResult
    from edgeclf.runtime.live.source import parse_cameras
    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.toolkit.infer.cameras import infer_cameras
    from edgeclf.toolkit.infer.options import LiveOptions
    from edgeclf.toolkit.infer.records import SinkOptions

    class Watcher:
        """A sink that keeps ages and latencies."""

        def __init__(self) -> None:
            self.results: list[dict[str, float]] = []

        def on_result(self, result: LiveResult) -> None:
            """Keeps a result's figures."""
            self.results.append(
                {"at_s": time.monotonic(), "age_ms": result.age_ms, "latency_ms": result.outcome.latency_ms}
            )

        def on_event(self, event: object) -> None:
            """Ignores events."""

    class Waiting(ModelSession):
        """A session whose inference takes at least so long, without the processor."""

        def run(self, images_rgb: UInt8Array, *, pad_to: int | None = None) -> FloatArray:
            """See `ModelSession`."""
            end_s = time.monotonic() + wait_ms / 1e3
            probabilities = super().run(images_rgb, pad_to=pad_to)
            time.sleep(max(0.0, end_s - time.monotonic()))
            return probabilities

    classifier = Classifier(model, threads=1)
    classifier.session = Waiting(model, threads=1)
    watcher = Watcher()
    targets = SinkOptions("jsonl", 1, Path(os.devnull), show=False, save=None, max_frames=None, duration_s=seconds)
    infer_cameras(classifier, parse_cameras([url]), targets, LiveOptions(), [watcher])
    Path(out).write_text(json.dumps(watcher.results), encoding="utf-8")


def figures_of(results: list[dict[str, Any]], interval_ms: float) -> dict[str, Any]:
    """Percentiles of ages and latencies of one part of a run."""
    ages_ms = [result["age_ms"] for result in results]
    latencies_ms = [result["latency_ms"] for result in results]
    age_p50, age_p95 = np.percentile(ages_ms, (50, 95))
    latency_p50, latency_p95 = np.percentile(latencies_ms, (50, 95))
    # From a frame's arrival to the moment when the model takes it, decoding included.
    wait_p95 = np.percentile(np.array(ages_ms) - np.array(latencies_ms), 95)
    limit_ms = interval_ms + float(latency_p95) + _ALLOWED_MS
    return {
        "frames": len(results),
        "age_p50_ms": float(age_p50),
        "age_p95_ms": float(age_p95),
        "latency_p50_ms": float(latency_p50),
        "latency_p95_ms": float(latency_p95),
        "wait_p95_ms": float(wait_p95),
        "limit_ms": limit_ms,
        "is_met": bool(age_p95 <= limit_ms),
    }


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"seconds": 2.5, "infer_ms": 20.0})
    arguments.add_argument("--seconds", type=float, default=60.0, help="length of the run (default: %(default)s)")
    arguments.add_argument("--fps", type=float, default=30.0, help="frames the camera sends (default: %(default)s)")
    arguments.add_argument("--infer-ms", type=float, default=80.0, help="what the model takes (default: %(default)s)")
    arguments.add_argument("--waiting", action="store_true", help="a model that waits instead of computing")
    arguments.add_argument("--observe", nargs=5, help=argparse.SUPPRESS)
    given = arguments.parse()
    if given.observe:
        model, url, seconds, wait_ms, out = given.observe
        observe(model, url, float(seconds), float(wait_ms), out)
        return 0
    part_s = _QUICK_PART_S if given.quick else _PART_S
    if given.seconds < 2 * part_s:
        arguments.error(f"--seconds must be at least {2 * part_s:g}")
    with working_folder() as folder:
        wait_ms = given.infer_ms if given.waiting else 0.0
        model_path, alone_ms = write_slow_model(folder, 1.0 if given.waiting else given.infer_ms)
        results = run(model_path, given.seconds, given.fps, wait_ms, folder)
    start_s, end_s = results[0]["at_s"], results[-1]["at_s"]
    first, last = f"first {part_s:g} s", f"last {part_s:g} s"
    parts = {
        first: [result for result in results if result["at_s"] - start_s <= part_s],
        last: [result for result in results if end_s - result["at_s"] <= part_s],
        "all": results,
    }
    figures = {part: figures_of(those, 1000 / given.fps) for part, those in parts.items()}
    alone_ms = max(alone_ms, wait_ms)
    report = Report(given)
    report.line(f"the model alone takes {alone_ms:.1f} ms; frame interval {1000 / given.fps:.1f} ms")
    columns = {"age p50": "age_p50_ms", "age p95": "age_p95_ms", "limit": "limit_ms"}
    columns |= {"inference p95": "latency_p95_ms", "wait p95": "wait_p95_ms"}
    report.columns({"ms": "<12", "frames": ">8", **dict.fromkeys(columns, ">15.1f")})
    for part, item in figures.items():
        report.row(part, item["frames"], *(item[key] for key in columns.values()))
    report.close({"model_alone_ms": alone_ms, "parts": figures})
    return int(not given.quick and not (figures[first]["is_met"] and figures[last]["is_met"]))


if __name__ == "__main__":
    raise SystemExit(main())
