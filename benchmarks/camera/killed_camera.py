"""`edgeclf infer` at a camera on loopback, killed by SIGKILL and started again on the same files: for `eight_hours.py`."""

import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.camera.colour_model import write_colour_model
from benchmarks.camera.mjpeg_camera import MjpegCamera, jpeg_of
from benchmarks.camera.scripted_camera import COLOURS_BGR
from benchmarks.common import edgeclf_command, run_to_end
from benchmarks.robustness.killing import at_text, run_and_kill

# What FFmpeg writes at once: a recording that is shorter may not be on the disk yet.
_BUFFERED_BYTES = 64 << 10


def run_kills(folder: Path, kills: int, most_lines: int, seed: int) -> dict[str, Any]:
    """A camera that is killed and started again on the same files: what was lost, torn, or does not play.

    Args:
        folder: An empty folder.
        kills: How often it is killed.
        most_lines: Records before a kill, at most.
        seed: Of the points of the kills.
    """
    rng = np.random.default_rng(seed)
    # With noise, so that a frame is kilobytes.
    bodies = [
        jpeg_of(np.clip(np.asarray(colour) * 0.6 + rng.normal(40, 20, (120, 160, 3)), 0, 255).astype(np.uint8))
        for colour in COLOURS_BGR.values()
    ]

    def parts(_connection: int) -> Iterator[bytes]:
        for body in itertools.cycle(bodies):
            yield body
            time.sleep(0.004)

    model = write_colour_model(folder / "model.onnx", "colours")
    records, events = folder / "records.jsonl", folder / "events.jsonl"
    lost = torn = unplayable = frames = recorded = 0
    kept: Mapping[Path, bytes] = {records: b"", events: b""}
    with MjpegCamera(parts) as camera:
        for number in range(kills + 1):
            files = (
                "--out",
                records,
                "--events",
                events,
                "--save",
                folder / "camera.avi",
                "--format",
                "jsonl",
                "--log-every",
                0,
            )
            command = edgeclf_command("infer", model, "--threads", 1, "--camera", camera.url, *files)
            if number < kills:
                lines = kept[records].count(b"\n") + int(rng.integers(1, most_lines))
                run_and_kill(command, os.environ, at_text(folder, records.name, lines))
            else:
                done = run_to_end([*command, "--max-frames", "50"])
                if done.returncode:
                    raise SystemExit(f"edgeclf infer ended with {done.returncode}: {done.stderr}")
            now = {path: path.read_bytes() for path in kept}
            new = {path: data[len(kept[path]) :] for path, data in now.items()}
            lost += sum(not data.startswith(kept[path]) for path, data in now.items())
            found = {path: parsed(data) for path, data in new.items()}
            torn += sum(broken for _, broken in found.values())
            lost += not agree(found[records][0], found[events][0])
            kept = now
            # One that was killed before its first frame has none.
            recorded += (folder / "camera.avi").exists() and (folder / "camera.avi").stat().st_size > 0
    for video in (videos := list(folder.glob("*.avi"))):
        played = frames_in(video)
        unplayable += not played and video.stat().st_size > _BUFFERED_BYTES
        frames += played
    lost += sum(video.stat().st_size > 0 for video in videos) != recorded
    return {
        "kills": kills,
        "records": kept[records].count(b"\n"),
        "events": kept[events].count(b"\n"),
        "torn_lines": torn,
        "lost": lost,
        "recordings": len(videos),
        "recordings_that_do_not_play": unplayable,
        "recorded_frames": frames,
    }


def parsed(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON lines, and how many are none."""
    documents, broken = [], 0
    for line in data.decode().splitlines():
        if not line:
            continue
        try:
            documents.append(json.loads(line))
        except ValueError:
            broken += 1
    return documents, broken


def agree(records: list[dict[str, Any]], events: list[dict[str, Any]]) -> bool:
    """Whether each change of the label in the records of one process has its event; one more where it was killed in between."""
    labels = [record["label"] for record in records]
    changed = [label for before, label in itertools.pairwise(["", *labels]) if label != before]
    said = [event["label"] for event in events if event["event"] == "label"]
    return said[: len(changed)] == changed and len(said) <= len(changed) + 1


def frames_in(path: Path) -> int:
    """Frames of a video that can be decoded."""
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count
