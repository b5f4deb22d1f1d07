"""Measures what `edgeclf doctor` finds: faults are injected into copies of a clean, labelled folder.

    python benchmarks/doctor/battery.py DATA [--images 800] [--seeds 0 1 2] [--faults leakage shortcut] [--json]
    python benchmarks/doctor/battery.py --demo
    python benchmarks/doctor/battery.py --quick
    python benchmarks/doctor/battery.py DATA --clean-only --seeds 0 1 2 3 4 5 6 7 8 9

DATA has train/ and test/ folders, class folders in each. For every seed a sample of its images is copied and examined
as it is, for false alarms; then every fault is injected into a copy of that copy. A fault counts as found when a problem
or a warning names the right cause with the right evidence; recall and precision are those of the images it names.
Images that an injection did not touch are examined only once, so that a fault costs what it changes.
"""

import argparse
import fnmatch
import importlib
import importlib.util
import shutil
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, working_folder
from benchmarks.doctor.faults.base import Fault, judge
from benchmarks.synthetic import write_labelled_folder
from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder
from edgeclf.runtime.batch.listing import looks_like_image
from edgeclf.runtime.progress import no_progress
from edgeclf.toolkit.datasets.demo_data import write_demo_data
from edgeclf.toolkit.doctor.examination import ExaminationOptions, examine_path
from edgeclf.toolkit.doctor.gather.thumbnails import ScanCache


@dataclass(frozen=True)
class Tried:
    """One fault in one copy.

    Attributes:
        fault: Its name.
        line: Its group.
        seed: Of the copy and of the injection.
        found: Whether it was found.
        rank: Position of the right finding, from 1.
        first: Whether no other problem or warning came before it.
        must_be_first: Whether that is asked of it.
        recall: Of the images that must be named.
        precision: Of the images that are named.
        said: Causes of all problems and warnings, in order.
        seconds: That the doctor took.
    """

    fault: str
    line: int
    seed: int
    found: bool
    rank: int | None
    first: bool
    must_be_first: bool
    recall: float | None
    precision: float | None
    said: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Clean:
    """One copy without a fault.

    Attributes:
        seed: Of the copy.
        images: How many it has.
        problems: Causes of findings of that severity.
        warnings: Causes of findings of that severity.
        seconds: That the doctor took, features from the cache where they were there.
    """

    seed: int
    images: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float


def all_faults() -> tuple[Fault, ...]:
    """The faults of every module in `faults/`, sorted by group."""
    names = sorted(path.stem for path in (Path(__file__).parent / "faults").glob("[!_]*.py") if path.stem != "base")
    modules = [importlib.import_module(f"benchmarks.doctor.faults.{name}") for name in names]
    found: list[Fault] = [fault for module in modules for fault in module.FAULTS]
    return tuple(sorted(found, key=lambda fault: fault.line))


def choose_faults(patterns: Sequence[str] | None) -> tuple[Fault, ...]:
    """The faults whose names contain, or match, one of the patterns; all for None."""
    if patterns is None:
        return all_faults()
    return tuple(
        fault
        for fault in all_faults()
        if any(pattern in fault.name or fnmatch.fnmatch(fault.name, pattern) for pattern in patterns)
    )


def copy_sample(source: Path, target: Path, images: int | None, generator: np.random.Generator) -> int:
    """Copies a data set, or a share of every class in every split that leaves about so many images; gives their number."""
    groups: dict[Path, list[Path]] = {}
    for path in sorted(source.rglob("*")):
        if path.is_file() and looks_like_image(path):
            groups.setdefault(path.parent, []).append(path)
    total = sum(len(paths) for paths in groups.values())
    share = 1.0 if images is None else min(1.0, images / max(1, total))
    copied = 0
    for folder, paths in groups.items():
        into = target / folder.relative_to(source)
        into.mkdir(parents=True, exist_ok=True)
        for position in generator.permutation(len(paths))[: max(2, round(share * len(paths)))].tolist():
            shutil.copyfile(paths[position], into / paths[position].name)
            copied += 1
    return copied


class Battery:
    """Tries faults in copies below one folder.

    Args:
        folder: For the copies.
        cache_folder: For the features of clean images; None takes the default.
    """

    def __init__(self, folder: Path, cache_folder: CacheFolder | None) -> None:
        self._folder = folder
        self._cache_folder = cache_folder
        self._scan_cache = ScanCache()

    def examine(self, path: Path, *, clean: bool) -> tuple[list[dict[str, Any]], float]:
        """The doctor's findings, as its JSON, and the seconds it took."""
        settings = ExaminationOptions(cache_folder=self._cache_folder if clean else CacheFolder(self._folder / "cache"))
        started = time.perf_counter()
        examination = examine_path(path, settings, no_progress, self._scan_cache)
        return [finding.to_json() for finding in examination.findings], time.perf_counter() - started

    def try_clean(self, data: Path, seed: int, images: int) -> Clean:
        """Examines a clean copy, and drops what is remembered of the images of the one before."""
        self._scan_cache = ScanCache()
        findings, seconds = self.examine(data, clean=True)
        by_severity = {
            severity: tuple(finding["cause"] for finding in findings if finding["severity"] == severity)
            for severity in ("problem", "warning")
        }
        return Clean(seed, images, by_severity["problem"], by_severity["warning"], seconds)

    def try_fault(self, clean: Path, fault: Fault, seed: int) -> Tried:
        """Injects a fault into a copy of a clean copy and examines that."""
        folder = self._folder / "injected"
        data = folder / "data"
        shutil.copytree(clean, data)
        known = set(self._scan_cache.records)
        try:
            generator = np.random.default_rng([seed, zlib.crc32(fault.name.encode())])
            truth = fault.inject(folder if fault.needs_run else data, generator)
            findings, seconds = self.examine(folder / "run" if fault.needs_run else data, clean=False)
        finally:
            shutil.rmtree(folder)
            shutil.rmtree(self._folder / "cache", ignore_errors=True)
        # What was injected is not met again.
        for digest in set(self._scan_cache.records) - known:
            self._scan_cache.records.pop(digest)
            self._scan_cache.vectors.pop(digest, None)
        verdict = judge(findings, truth)
        said = tuple(finding["cause"] for finding in findings if finding["severity"] != "note")
        return Tried(
            fault.name,
            fault.line,
            seed,
            verdict.found,
            verdict.rank,
            verdict.rank == 1,
            truth.must_rank_first,
            verdict.recall,
            verdict.precision,
            said,
            seconds,
        )


def summarize(tried: Sequence[Tried]) -> list[dict[str, Any]]:
    """The figures of each fault over all seeds, one row a fault."""
    rows = []
    for name in dict.fromkeys(item.fault for item in tried):
        runs = [item for item in tried if item.fault == name]
        recalls = [item.recall for item in runs if item.recall is not None]
        precisions = [item.precision for item in runs if item.precision is not None]
        ranks = [item.rank for item in runs if item.rank is not None]
        missed = Counter(item.said[0] if item.said else "nothing" for item in runs if not item.found)
        rows.append(
            {
                "fault": name,
                "line": runs[0].line,
                "runs": len(runs),
                "found": sum(item.found for item in runs) / len(runs),
                "first": sum(item.first for item in runs) / len(runs),
                "must_be_first": runs[0].must_be_first,
                "worst_rank": max(ranks, default=None),
                "recall": float(np.mean(recalls)) if recalls else None,
                "lowest_recall": min(recalls, default=None),
                "precision": float(np.mean(precisions)) if precisions else None,
                "lowest_precision": min(precisions, default=None),
                "said_instead": dict(missed),
                "seconds": float(np.median([item.seconds for item in runs])),
            }
        )
    return rows


def print_report(report: Report, cleans: Sequence[Clean], rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table of faults and the false alarms."""

    def both(row: Mapping[str, Any], name: str) -> str | None:
        return None if row[name] is None else f"{row[name]:.3f} ({row[f'lowest_{name}']:.3f})"

    if rows:
        columns = {"fault": "<66", "runs": ">5", "found": ">7.3f", "first": ">8", "worst rank": ">11"}
        columns |= {"recall (lowest)": ">16", "precision (lowest)": ">19", "s": ">7.1f", "  instead": "<12"}
        report.columns(columns)
        for row in rows:
            first = f"{row['first']:.3f}{'*' if row['must_be_first'] else ' '}"
            instead = ", ".join(f"{cause} {count}" for cause, count in row["said_instead"].items())
            found = row["fault"], row["runs"], row["found"], first, row["worst_rank"]
            report.row(*found, both(row, "recall"), both(row, "precision"), row["seconds"], f"  {instead}")
        report.line("* the true cause must come first")
    alarmed = [clean for clean in cleans if clean.problems]
    report.line(
        f"Clean copies: {len(cleans) - len(alarmed)} of {len(cleans)} without a problem; "
        f"{sum(not clean.warnings for clean in cleans)} without a warning "
        f"({np.median([clean.images for clean in cleans]):.0f} images, {np.median([clean.seconds for clean in cleans]):.1f} s)"
    )
    for severity in ("problems", "warnings"):
        said = Counter(cause for clean in cleans for cause in getattr(clean, severity))
        if said:
            counts = ", ".join(f"{cause} in {count}" for cause, count in said.most_common())
            report.line(f"  {severity}: {counts}")


def _check_packages(parser: argparse.ArgumentParser) -> None:
    """Ends where packages are missing: label noise, which the doctor then cannot judge, would count as missed."""
    if missing := [name for name in ("cleanlab", "sklearn") if importlib.util.find_spec(name) is None]:
        parser.error(f"{' and '.join(missing)} missing: install edgeclf[doctor]")


def run_battery(given: argparse.Namespace, faults: Sequence[Fault]) -> tuple[list[Clean], list[Tried]]:
    """Examines a clean copy for every seed, and every fault in copies of it, with progress on stderr."""
    cleans: list[Clean] = []
    tried: list[Tried] = []
    with working_folder() as folder:
        data = given.data or (write_labelled_folder(folder / "data", train=40, test=16) if given.quick else None)
        battery = Battery(
            folder, CacheFolder(folder / "clean-cache") if given.quick else chosen_cache_folder(given.cache_folder)
        )
        for seed in given.seeds:
            clean = folder / f"clean-{seed}"
            if data is None:
                images = sum(write_demo_data(clean, seed).values())
            else:
                images = copy_sample(data, clean, given.images, np.random.default_rng(seed))
            cleans.append(battery.try_clean(clean, seed, images))
            print(f"seed {seed}: clean, {cleans[-1].seconds:.1f} s", file=sys.stderr, flush=True)
            for fault in faults:
                tried.append(battery.try_fault(clean, fault, seed))
                last = tried[-1]
                verdict = f"found, rank {last.rank}" if last.found else f"missed; {', '.join(last.said) or 'nothing'}"
                print(f"seed {seed}: {last.fault}: {verdict}, {last.seconds:.1f} s", file=sys.stderr, flush=True)
            shutil.rmtree(clean)
    return cleans, tried


def main() -> None:
    """Prints tables, or JSON."""
    quick = {"seeds": [0], "faults": ["leakage: exact"]}
    arguments = Arguments(__doc__, quick=quick, seeds=(0, 1, 2))
    arguments.add_argument("data", type=Path, nargs="?", help="folder with train/ and test/, class folders in each")
    arguments.add_argument("--demo", action="store_true", help="the textures of edgeclf demo instead of DATA")
    arguments.add_argument("--images", type=int, help="how many images of DATA a copy has (default: all)")
    arguments.add_argument(
        "--faults", nargs="+", metavar="PATTERN", help="only faults whose name contains or matches one"
    )
    arguments.add_argument("--clean-only", action="store_true", help="inject nothing: false alarms alone")
    arguments.add_argument("--list", action="store_true", help="list the faults and end")
    arguments.add_argument("--cache-folder", type=Path, help="for features of clean images (~/.cache/edgeclf)")
    given = arguments.parse()
    faults = () if given.clean_only else choose_faults(given.faults)
    if given.list:
        for fault in faults:
            print(f"{fault.line}  {fault.name}{'  (with a run)' if fault.needs_run else ''}")
        return
    _check_packages(arguments)
    if not given.quick and given.demo == (given.data is not None):
        arguments.error("give either DATA or --demo")
    if given.data is not None and not ((given.data / "train").is_dir() and (given.data / "test").is_dir()):
        arguments.error(f"{given.data} has no train/ and test/ folders")
    if not faults and not given.clean_only:
        arguments.error(f"no fault matches {' '.join(given.faults)}; --list lists them")
    cleans, tried = run_battery(given, faults)
    rows = summarize(tried)
    report = Report(given)
    print_report(report, cleans, rows)
    report.close({"clean": [asdict(c) for c in cleans], "faults": rows, "runs": [asdict(t) for t in tried]})


if __name__ == "__main__":
    main()
