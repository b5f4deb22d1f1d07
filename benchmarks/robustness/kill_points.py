"""Kills train, export and infer with SIGKILL at many points, repeats them, and compares the results with those of whole runs.

    python benchmarks/robustness/kill_points.py [--points 40] [--seed 0] [--only NAME...] [--quick] [--json]

`train` (a frozen network, its features, fine-tuning; and a whole network) is killed at times spread over its duration and at
moments of its own: reading, pixels and features on their way into the cache, epochs of each stage, the checkpoint, the model and
the figures being written. Then, as the documentation says, `--resume` where an epoch was finished, else the same command
again, must end with 0 and leave the `history.csv` and `metrics.json` of an uninterrupted training, byte for byte. `export --precision int8`
is killed over its whole time: its file must be absent, or whole by `edgeclf verify`; after the same command it must verify and be
the same graph. `infer --out FILE` is killed over a file that is there: it must be the old one or whole, and after the same command whole.
All use the cache that the killed process has left.

Then two at once on one empty cache: two trainings, two exports of one run, a training and an export of another run, two trainings into one
run folder (one is refused). Leftovers are temporary files that are still there afterwards, by name.

Exit code 1 where a point is lost: a repeated command failed, a result differs, or a damaged file stood under its name.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import (
    LONGEST_RUN_S,
    Arguments,
    Report,
    cache_environment,
    edgeclf_command,
    run_edgeclf,
    working_folder,
)
from benchmarks.robustness.killing import Point, at_file, at_text, at_time, leftovers, run_and_kill
from benchmarks.robustness.whole_results import LostError, compare_runs, graph_of, must_end_well, records_of
from benchmarks.synthetic import write_labelled_folder, write_model, write_photographs

_SEEDS = {"frozen": 101, "whole": 102, "export": 103, "infer": 104}
# Share of the points, and the options of the trainings.
_SHARES = {"frozen": 0.4, "whole": 0.15, "export": 0.25, "infer": 0.2}
_FROZEN = ["--image-size", 64, "--epochs", 4, "--fine-tune", "--fine-tune-blocks", 1, "--fine-tune-epochs", 2]
_WHOLE = ["--arch", "small-cnn", "--image-size", 48, "--epochs", 4]
_TRIES = 8
_QUICK = {"points": 3, "images": 16, "photographs": 40, "only": ["whole", "export", "infer", "pairs"]}
# Whose whole runs a case or the pairs are compared with.
_NEEDED = {"export": ("whole",), "pairs": ("whole", "export")}
_TRAININGS, _EXPORTS, _BOTH, _ONE_RUN = (
    "two trainings",
    "two exports of one run",
    "a training and an export of another run",
    "two trainings into one run",
)


@dataclass
class Case:
    """A command that is killed.

    Attributes:
        name: For the table.
        command: The command, to be repeated.
        cache: Its cache.
        duration_s: Of a whole run.
        moments: Points of its own.
        clear: Removes its results and its cache.
        recover: Repeats it and compares; raises LostError.
        folders: Where leftovers are looked for.
    """

    name: str
    command: list[str]
    cache: Path
    duration_s: float
    moments: list[Point]
    clear: Callable[[], None]
    recover: Callable[[], str]
    folders: list[Path]


def train_case(name: str, folder: Path, data: Path, options: list[object]) -> Case:
    """A training, and its uninterrupted run in `folder/whole`."""
    cache, runs, whole = folder / "cache", folder / "runs", folder / "whole"
    run = runs / "run"
    done = run_edgeclf("train", data, "--run", whole, *options, cache=folder / "cache-whole")
    command = edgeclf_command("train", data, "--run", run, *options)

    def clear() -> None:
        for place in (runs, cache):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)

    def recover() -> str:
        if (run / "checkpoint.npz").exists():
            way = "resumed"
            must_end_well(edgeclf_command("train", "--resume", run), cache)
        elif run.exists():
            way = "was finished"
        else:
            way = "repeated"
            must_end_well(command, cache)
        compare_runs(run, whole)
        return way

    sizes = {path.name.split("-")[0]: path.stat().st_size for path in (folder / "cache-whole").glob("*.array")}
    epochs = (whole / "history.csv").read_bytes().count(b"\n") - 1
    moments = [
        at_file(cache, "file-digests.sqlite3"),
        at_file(cache, "pixels-*.array", 1),
        at_file(cache, "pixels-*.index", 1),
        at_file(cache, "pixels-*.array", sizes["pixels"] // 2),
        at_file(runs, ".run.*.part"),
        at_file(runs, "**/.*.part.npz"),
        at_text(runs, "run/history.csv", 2),
        at_text(runs, "run/history.csv", epochs),
        at_text(runs, "run/history.csv", epochs + 1),
        at_file(runs, "run/.*.part.keras", 1),
        at_file(runs, "run/model.keras"),
        at_file(runs, "run/metrics.json"),
        at_file(runs, "run/confusion.png"),
    ]
    if "features" in sizes:
        moments[4:4] = [at_file(cache, "features-*.array"), at_file(cache, "features-*.array", 1)]
    return Case(name, command, cache, done.seconds, moments, clear, recover, [runs, cache])


def export_command(run: Path, out: Path) -> list[str]:
    """An int8 export that no measured latency decides."""
    return edgeclf_command(
        "export", run, "--out", out, "--precision", "int8", "--effort", "quick", "--entrance", "int8"
    )


def export_case(folder: Path, run: Path) -> Case:
    """An int8 export of a finished run."""
    cache, files, whole = folder / "cache", folder / "files", folder / "whole.onnx"
    out = files / "model.onnx"
    command = export_command(run, out)
    duration_s = run_edgeclf(*export_command(run, whole)[3:], cache=folder / "cache-whole").seconds

    def clear() -> None:
        for place in (files, cache):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)

    def recover() -> str:
        was_there = out.exists()
        if was_there:
            must_end_well(edgeclf_command("verify", out), cache)
        must_end_well(command, cache)
        must_end_well(edgeclf_command("verify", out), cache)
        if graph_of(out) != graph_of(whole):
            raise LostError("another network than that of an uninterrupted export")
        return "was whole, repeated" if was_there else "was absent, repeated"

    moments = [
        at_file(cache, "pixels-*.array", 1),
        at_file(cache, ".*.part*"),
        at_file(cache, "int8-*.onnx"),
        at_file(files, ".*.part.onnx"),
        at_file(files, "model.onnx"),
    ]
    return Case("export", command, cache, duration_s, moments, clear, recover, [files, cache])


def infer_case(folder: Path, photographs: int) -> Case:
    """Records of a folder of photographs into a file that is there already."""
    cache, files, whole = folder / "cache", folder / "files", folder / "whole.jsonl"
    folder.mkdir()
    out, old = files / "records.jsonl", b'{"source": "of an earlier run"}\n'
    model, images = write_model(folder / "model.onnx", 8), write_photographs(folder / "images", photographs)
    line = ["infer", model, images, "--threads", 1, "--out"]
    duration_s = run_edgeclf(*line, whole, cache=cache).seconds
    command = edgeclf_command(*line, out, "--json")

    def clear() -> None:
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir(parents=True)
        out.write_bytes(old)

    def recover() -> str:
        is_old = out.read_bytes() == old
        if not is_old and records_of(out) != records_of(whole):
            raise LostError("records that are neither the old ones nor whole")
        must_end_well(command, cache)
        if records_of(out) != records_of(whole):
            raise LostError("other records than those of an uninterrupted run")
        return "was old, repeated" if is_old else "was whole, repeated"

    moments = [
        at_file(files, ".*.part.jsonl"),
        at_text(files, ".*.part.jsonl", photographs // 2),
        at_text(files, ".*.part.jsonl", photographs - 1),
    ]
    return Case("infer", command, cache, duration_s, moments, clear, recover, [files])


def spread(case: Case, count: int, rng: np.random.Generator) -> list[Point]:
    """So many points of a case: half its own moments, evenly among them, half times over its duration."""
    own = min(len(case.moments), count - count // 2)
    places = np.linspace(0, len(case.moments) - 1, own).round().astype(int)
    times = (np.arange(count - own) + rng.uniform(0.1, 0.9, count - own)) / max(1, count - own)
    return [*(case.moments[place] for place in places), *(at_time(case.duration_s * share) for share in times)]


def try_point(case: Case, point: Point) -> dict[str, Any]:
    """Kills a case at a point and recovers it."""
    for attempt in range(_TRIES):
        case.clear()
        started = time.perf_counter()
        if run_and_kill(case.command, cache_environment(case.cache), point):
            break
        # It was quicker than the whole run, or that moment too short: a time before the end that it had now.
        case.duration_s = time.perf_counter() - started
        point = at_time(case.duration_s * (0.9 - 0.1 * attempt))
    else:
        raise SystemExit(f"{case.name} cannot be killed: it is over too soon; give it more to do")
    after_kill = leftovers(*case.folders)
    try:
        outcome, lost = case.recover(), None
    except LostError as error:
        outcome, lost = "LOST", str(error)
    return {
        "case": case.name,
        "point": point.name,
        "outcome": outcome,
        "lost": lost,
        "left_by_kill": after_kill,
        "left_at_end": leftovers(*case.folders),
    }


def at_once(commands: list[list[str]], cache: Path) -> list["subprocess.CompletedProcess[str]"]:
    """Runs commands at the same time on one empty cache."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=cache_environment(cache), **quiet) for command in commands]  # type: ignore[call-overload]
    words = [process.communicate(timeout=LONGEST_RUN_S)[1] for process in running]
    return [
        subprocess.CompletedProcess(command, process.returncode, "", text)
        for command, process, text in zip(commands, running, words, strict=True)
    ]


def two_at_once(folder: Path, data: Path, names: list[str]) -> list[dict[str, Any]]:
    """Pairs of commands on one cache, of the trainings and the export that were made as wholes; `names` are those of the pairs."""
    cache, made = folder / "cache-both", folder / "both"
    exported_run, exported = folder / "whole" / "whole", folder / "export" / "whole.onnx"
    is_frozen = (folder / "frozen").is_dir()
    whole, options = (folder / "frozen" / "whole", _FROZEN) if is_frozen else (exported_run, _WHOLE)

    def train(name: str) -> list[str]:
        return edgeclf_command("train", data, "--run", made / name, *options)

    def check_run(name: str) -> None:
        compare_runs(made / name, whole)

    def check_file(name: str) -> None:
        must_end_well(edgeclf_command("verify", made / name), cache)
        if graph_of(made / name) != graph_of(exported):
            raise LostError(f"{name} is another network")

    pairs: dict[str, tuple[list[list[str]], dict[str, Callable[[str], None]]]] = {
        _TRAININGS: ([train("a"), train("b")], {"a": check_run, "b": check_run}),
        _EXPORTS: (
            [export_command(exported_run, made / "c.onnx"), export_command(exported_run, made / "d.onnx")],
            {"c.onnx": check_file, "d.onnx": check_file},
        ),
        _BOTH: (
            [train("e"), export_command(exported_run, made / "f.onnx")],
            {"e": check_run, "f.onnx": check_file},
        ),
        _ONE_RUN: ([train("g"), train("g")], {"g": check_run}),
    }
    results = []
    for name in names:
        commands, checks = pairs[name]
        done = at_once(commands, cache)
        codes = sorted(process.returncode for process in done)
        expected = [0, 0] if len(checks) == 2 else [0, 3]
        lost = None
        if codes != expected or any("Traceback" in process.stderr for process in done):
            lost = f"exit codes {codes}: {' '.join(process.stderr[-600:] for process in done)}"
        try:
            for result, check in checks.items():
                check(result)
        except LostError as error:
            lost = lost or str(error)
        results.append({"pair": name, "exit_codes": codes, "lost": lost, "left_at_end": leftovers(made, cache)})
    return results


def make_cases(folder: Path, data: Path, given: argparse.Namespace) -> list[Case]:
    """The cases that are wanted, and those whose whole runs they need."""
    makers: dict[str, Callable[[], Case]] = {
        "frozen": lambda: train_case("frozen", folder / "frozen", data, _FROZEN),
        "whole": lambda: train_case("whole", folder / "whole", data, _WHOLE),
        "export": lambda: export_case(folder / "export", folder / "whole" / "whole"),
        "infer": lambda: infer_case(folder / "infer", given.photographs),
    }
    needed = {name for wanted in given.only for name in (wanted, *_NEEDED.get(wanted, ()))}
    if "pairs" in given.only and not given.quick:
        needed.add("frozen")
    return [make() for name, make in makers.items() if name in needed]


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick=_QUICK)
    arguments.set_defaults(pairs=[_TRAININGS, _EXPORTS, _BOTH, _ONE_RUN])
    arguments.add_argument("--points", type=int, default=40, help="kills, over all commands (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="of the times (default: 0)")
    arguments.add_argument("--images", type=int, default=40, help="training images of a class (default: %(default)s)")
    arguments.add_argument("--photographs", type=int, default=2_000, help="for infer (default: %(default)s)")
    arguments.add_argument(
        "--only", nargs="+", choices=[*_SHARES, "pairs"], default=[*_SHARES, "pairs"], help="parts of it"
    )
    given = arguments.parse()
    if given.points < len(given.only) - ("pairs" in given.only):
        arguments.error("--points must be at least the number of cases")
    if given.quick:
        given.pairs = [_BOTH, _ONE_RUN]
    report = Report(given)
    points: list[dict[str, Any]] = []
    with working_folder() as folder:
        data = write_labelled_folder(folder / "data", train=given.images, test=given.images // 3, classes=3)
        cases = [case for case in make_cases(folder, data, given) if case.name in given.only]
        shares = sum(_SHARES[case.name] for case in cases)
        counts = [max(1, round(given.points * _SHARES[case.name] / shares)) for case in cases]
        if cases:
            counts[0] += max(1 - counts[0], given.points - sum(counts))
        report.columns({"case": "<8", "killed": "<44", "outcome": "<24", "left by the kill": "<40", "left": "<30"})
        for case, count in zip(cases, counts, strict=True):
            rng = np.random.default_rng((given.seed, _SEEDS[case.name]))
            for point in spread(case, count, rng):
                tried = try_point(case, point)
                points.append(tried)
                left = [" ".join(tried[name]) for name in ("left_by_kill", "left_at_end")]
                report.row(tried["case"], f"{tried['point']} ", f"{tried['outcome']} ", *(f"{text} " for text in left))
                if tried["lost"]:
                    report.line(f"    {tried['lost']}")
        pairs = two_at_once(folder, data, given.pairs) if "pairs" in given.only else []
    for pair in pairs:
        report.line(f"{pair['pair']}: exit codes {pair['exit_codes']}, {pair['lost'] or 'right results'}")
    lost = sum(tried["lost"] is not None for tried in points)
    left_over = Counter(name for tried in (*points, *pairs) for name in tried["left_at_end"])
    report.line(
        f"points tried {len(points)}, recovered {len(points) - lost}, lost {lost}; left at the end: {dict(left_over)}"
    )
    report.close(
        {
            "tried": len(points),
            "recovered": len(points) - lost,
            "lost": lost,
            "left_at_end": dict(left_over),
            "points": points,
            "pairs": pairs,
        }
    )
    return int(bool(lost or any(pair["lost"] for pair in pairs)))


if __name__ == "__main__":
    raise SystemExit(main())
