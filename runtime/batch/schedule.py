"""How the CPUs are shared between decoding and inference: which ways there are, and which one is chosen.

Side by side, every worker decodes, preprocesses and classifies images of its own, each inference on one thread: no CPU
ever waits for another. Fed, workers only decode and one inference after the other uses all CPUs: it needs the weights
in one cache only, and it is how a GPU, and a model that is no ONNX file, are kept busy. Which is faster depends on the
model and the CPU, so it is measured on the first images of a source that is long enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Scheme = Literal["side-by-side", "fed"]

# Fed must win by this much: the figures of a second on a busy machine differ by chance.
_CLEARLY = 1.05
# After one trial of each, a difference that no second one is needed for.
_BEYOND_DOUBT = 1.2
TOO_FEW = "too few images to measure"


@dataclass(frozen=True)
class Schedule:
    """How images are shared among the CPUs, and why.

    Attributes:
        scheme: `side-by-side`, or `fed`: workers decode for one inference after the other.
        workers: Threads that decode; side by side they also infer.
        threads: Threads inside one inference; None where the model is not an ONNX file.
        batch_size: Images in one inference.
        why: What it was chosen by.
        measured: Images per second of each scheme on the first images; empty where that was not measured.
    """

    scheme: Scheme
    workers: int
    threads: int | None
    batch_size: int
    why: str
    measured: Mapping[Scheme, float]

    def __str__(self) -> str:
        """Such as `2 workers side by side, one thread each`."""
        workers = f"{self.workers} worker{'s' if self.workers != 1 else ''}"
        if self.scheme == "side-by-side":
            how = f"{workers} side by side" if self.workers > 1 else workers
            return f"{how}, one thread each"
        threads = "" if self.threads is None else f" of {self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{workers} decoding for one inference{threads}"


@dataclass(frozen=True)
class Circumstances:
    """What the ways to share the CPUs depend on.

    Attributes:
        workers: Threads that decode.
        batch_size: Images in one inference.
        runs_on_cpu: Whether the model is an ONNX file on the CPU, of which several inferences may run at once.
        threads: Threads inside one inference of the model as it was opened; None where it is not an ONNX file.
        threads_were_chosen: Whether the caller set that number.
    """

    workers: int
    batch_size: int
    runs_on_cpu: bool
    threads: int | None
    threads_were_chosen: bool


def possible_schedules(given: Circumstances) -> list[Schedule]:
    """The schedules that do what the caller asked for, the one to begin with first; more than one is to be measured."""
    fed = Schedule("fed", given.workers, given.threads, given.batch_size, "", {})
    side_by_side = replace(fed, scheme="side-by-side", threads=1)
    if not given.runs_on_cpu:
        return [replace(fed, why="the model does not run on the CPU, or not in ONNX Runtime")]
    if given.threads == 1:
        # Nothing to feed several CPUs with, and with one worker nothing to put side by side.
        why = "one thread in an inference was asked for" if given.threads_were_chosen else "one CPU"
        return [replace(side_by_side if given.workers > 1 else fed, why=why)]
    if given.threads_were_chosen:
        return [replace(fed, why=f"{given.threads} threads in an inference were asked for")]
    # What is open already begins, so that a few images do not wait for a second session.
    return [replace(fed, why=TOO_FEW), replace(side_by_side, why=TOO_FEW)]


def faster_schedule(schedules: Sequence[Schedule], images_per_s: Mapping[Scheme, Sequence[float]]) -> Schedule:
    """Chooses by what was measured.

    Args:
        schedules: One of each scheme.
        images_per_s: What each reached, one figure a trial; its best counts, as disturbances only ever slow it down.

    Returns:
        Side by side, unless fed is faster by more than 5 %.
    """
    best = {scheme: max(rates) for scheme, rates in images_per_s.items()}
    chosen: Scheme = "fed" if best["fed"] > _CLEARLY * best["side-by-side"] else "side-by-side"
    (schedule,) = [schedule for schedule in schedules if schedule.scheme == chosen]
    return replace(schedule, why="measured on the first images", measured=best)


def is_beyond_doubt(images_per_s: Mapping[Scheme, Sequence[float]]) -> bool:
    """Whether a trial less is enough: one scheme reached at least 1.2 times what the other did, before it and after it.

    Every trial has other images. Where those that came second are quicker to read, the third trial shows it.
    """
    between, around = sorted(images_per_s.values(), key=len)
    if not between or len(around) < 2:
        return False
    return min(between) >= _BEYOND_DOUBT * max(around) or min(around) >= _BEYOND_DOUBT * max(between)
