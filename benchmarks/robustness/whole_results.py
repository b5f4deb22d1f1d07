"""Results of commands compared with those of uninterrupted ones: for `kill_points.py`."""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import cache_environment, run_to_end

if TYPE_CHECKING:
    import subprocess


class LostError(Exception):
    """A point that was not recovered; says why."""


def run_quietly(command: list[str], cache: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, whatever that is."""
    return run_to_end(command, env=cache_environment(cache))


def must_end_well(command: list[str], cache: Path) -> None:
    """Runs a command; raises LostError where it fails."""
    done = run_quietly(command, cache)
    if done.returncode:
        raise LostError(f"{' '.join(command[3:])} ended with {done.returncode}: {done.stderr[-600:]}")


def weights_of(run: Path) -> int:
    """The checksum of the weights in the model's file."""
    with zipfile.ZipFile(run / "model.keras") as archive:
        # The others hold the time, and numbers of objects in memory.
        return archive.getinfo("model.weights.h5").CRC


def compare_runs(run: Path, whole: Path) -> None:
    """Raises LostError where a run differs from the uninterrupted one."""
    for name in ("history.csv", "metrics.json", "split.csv"):
        if not (run / name).is_file() or (run / name).read_bytes() != (whole / name).read_bytes():
            raise LostError(f"another {name} than that of an uninterrupted training")
    if weights_of(run) != weights_of(whole):
        raise LostError("another model than that of an uninterrupted training")
    if (run / "checkpoint.npz").exists():
        raise LostError("a finished run with a checkpoint")


def graph_of(path: Path) -> bytes:
    """The network of a model file, without its record, which has times in it."""
    import onnx

    return bytes(onnx.load(str(path)).graph.SerializeToString(deterministic=True))


def records_of(path: Path) -> list[dict[str, Any]]:
    """The records of a file without their latencies."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in record.items() if name != "latency_ms"} for record in records]
