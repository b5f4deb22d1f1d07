"""Kills a training with SIGKILL in the middle of an epoch, resumes it, and compares it with an uninterrupted one.

    python benchmarks/training/resume.py DATA [--kill-in-epoch 3] [--quick] [--json] [-- options of edgeclf train]

Without options it trains a small seed-cnn, with strong augmentation. Exit code 1 when the two `history.csv` files or the
metrics differ by a byte.
"""

import csv
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import (
    Arguments,
    Report,
    background_process,
    cache_environment,
    edgeclf_command,
    run_edgeclf,
    working_folder,
)
from benchmarks.synthetic import write_labelled_folder

_DEFAULT = ["--arch", "seed-cnn", "--image-size", "89", "--epochs", "5", "--augment", "strong"]


def finished_epochs(run: Path) -> int:
    """Number of epochs in `history.csv`."""
    try:
        with (run / "history.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    except FileNotFoundError:
        return 0


def train_and_kill(data: Path, run: Path, options: list[str], cache: Path, epoch: int) -> tuple[int, float]:
    """Starts a training and kills it half-way through an epoch, judged by the duration of the one before.

    Returns:
        The epoch that was killed, a later one where that went by more quickly, and the seconds waited in it.
    """
    command = edgeclf_command("train", data, "--run", run, *options)
    environment = cache_environment(cache)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with background_process(command, env=environment, **quiet) as process:
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
        if process.wait() == 0:
            raise SystemExit("training was over before it could be killed: give it more images or a larger network")
    return finished_epochs(run) + 1, pause


def main() -> int:
    """Prints the comparison, or JSON."""
    arguments = Arguments(__doc__, quick={}, train_options=_DEFAULT)
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_argument("--kill-in-epoch", type=int, default=3)
    given = arguments.parse()
    if given.kill_in_epoch < 2:
        arguments.error("--kill-in-epoch must be at least 2: before the first is finished there is nothing to resume")
    with working_folder() as folder:
        data, cache = given.data or write_labelled_folder(folder / "data", train=60), folder / "cache"
        whole, killed = folder / "whole", folder / "killed"
        run_edgeclf("train", data, "--run", whole, *given.train_options, cache=cache)
        epoch, pause = train_and_kill(data, killed, given.train_options, cache, given.kill_in_epoch)
        run_edgeclf("train", "--resume", killed, cache=cache)
        same = {
            name: (whole / name).read_bytes() == (killed / name).read_bytes()
            for name in ("history.csv", "metrics.json")
        }
        epochs = finished_epochs(whole)
    figures = {
        "options": given.train_options,
        "epochs": epochs,
        "killed_in_epoch": epoch,
        "killed_after_seconds_of_it": pause,
        "same_history": same["history.csv"],
        "same_metrics": same["metrics.json"],
    }
    report = Report(given)
    for key, value in figures.items():
        report.line(f"{key}: {value}")
    report.close(figures)
    return int(not all(same.values()))


if __name__ == "__main__":
    raise SystemExit(main())
