"""Kills a training with SIGKILL in the middle of an epoch, resumes it, and compares it with one that was left alone.

    python benchmarks/training/resume.py DATA [--kill-in-epoch 3] [--json] [-- options of edgeclf train]

Without options it trains a small seed-cnn, with strong augmentation. Exit code 1 when the two `history.csv` files or the metrics differ by a byte.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import edgeclf, parse_with_train_options

_DEFAULT = ["--arch", "seed-cnn", "--image-size", "89", "--epochs", "5", "--augment", "strong"]


def finished_epochs(run: Path) -> int:
    """Epochs that `history.csv` holds."""
    try:
        with (run / "history.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    except FileNotFoundError:
        return 0


def train_and_kill(data: Path, run: Path, options: list[str], cache: Path, epoch: int) -> float:
    """Starts a training and kills it half-way through an epoch; gives the seconds into it."""
    command = [sys.executable, "-m", "edgeclf.toolkit", "train", str(data), "--run", str(run), *options]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "EDGECLF_CACHE": str(cache)}
    ) as process:
        times: list[float] = []
        while len(times) < epoch - 1:
            if process.poll() is not None:
                raise SystemExit(f"training ended with {process.returncode} before epoch {epoch}")
            if finished_epochs(run) > len(times):
                times.append(time.perf_counter())
            time.sleep(0.02)
        pause = (times[-1] - times[-2]) / 2 if len(times) > 1 else 1.0
        time.sleep(pause)
        process.kill()
        process.wait()
    if finished_epochs(run) != epoch - 1:
        raise SystemExit(f"epoch {epoch} was over before it could be killed: give it more images or a larger network")
    return pause


def main() -> int:
    """Prints what was compared."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--kill-in-epoch", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given, options = parse_with_train_options(parser)
    if given.kill_in_epoch < 2:
        parser.error("--kill-in-epoch must be at least 2: before the first is finished there is nothing to resume")
    options = options or _DEFAULT
    with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
        folder = Path(name)
        cache = folder / "cache"
        edgeclf("train", given.data, "--run", folder / "whole", *options, cache=cache)
        pause = train_and_kill(given.data, folder / "killed", options, cache, given.kill_in_epoch)
        edgeclf("train", "--resume", folder / "killed", cache=cache)
        histories = [(folder / run / "history.csv").read_bytes() for run in ("whole", "killed")]
        metrics = [(folder / run / "metrics.json").read_bytes() for run in ("whole", "killed")]
        epochs = finished_epochs(folder / "whole")
    figures = {
        "options": options,
        "epochs": epochs,
        "killed_in_epoch": given.kill_in_epoch,
        "killed_after_seconds_of_it": pause,
        "same_history": histories[0] == histories[1],
        "same_metrics": metrics[0] == metrics[1],
    }
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        for key, value in figures.items():
            print(f"{key}: {value}")
    return 0 if figures["same_history"] and figures["same_metrics"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
