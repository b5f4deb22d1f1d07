"""Model files on emulated cores: the self-test there, and the comparison with this machine, run, judged and printed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeclf.export import ParityLimits
from edgeclf.export.emulation.arm64 import Core, get_core
from edgeclf.export.emulation.comparison import compare_cores, self_test_on_cores
from edgeclf.export.verify.verdict import DEFAULT_RULE, judge_parity, limits_between, limits_record, recorded_limits
from edgeclf.runtime import ForeignModel, ModelSession, load_image, preprocess_bgr
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.errors import EdgeclfError, GateError, ImageError, InputError, UsageError
from edgeclf.runtime.spec import Preprocess
from edgeclf.toolkit.console import note, print_json, progress_bar, unreadable_json
from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable, list_images
from edgeclf.toolkit.foreign import note_use, options_for, refuse_idle_options, use_json
from edgeclf.toolkit.options import refuse_idle_limits
from edgeclf.toolkit.reports.emulation import print_emulation
from edgeclf.toolkit.reports.parity import limits_sentence
from edgeclf.toolkit.reports.self_test import check_self_test, print_self_test, self_test_sentence

if TYPE_CHECKING:
    from edgeclf.training.data.table_files import TableOptions

# Without and with dot products: the two kinds of int8 kernels there are.
_DEFAULT_CORES = ("cortex-a72", "cortex-a76")


def self_test_emulated(
    model: ModelSession, architecture: str, core_names: Sequence[str] | None, cache_folder: Path, *, as_json: bool
) -> None:
    """Prints what the self-test of a model file says on emulated cores.

    Args:
        model: The file, opened on this machine's CPU.
        architecture: What `--emulate` names.
        core_names: The cores; None or none of them takes one of each kind.
        cache_folder: Where the emulated system is kept.
        as_json: Print JSON instead of tables.

    Raises:
        UsageError: There is no such architecture or core.
        GateError: The self-test fails on a core.
        EdgeclfError: As `self_test_on_cores`.
    """
    cores = _cores(architecture, core_names or _DEFAULT_CORES)
    with progress_bar(enabled=not as_json) as progress:
        results = self_test_on_cores(model, cores, cache_folder=cache_folder, progress=progress)
    if as_json:
        found = [{"core": core.name, **result.to_json()} for core, result in zip(cores, results, strict=True)]
        print_json({"model": str(model.path), "passed": all(result.passed for result in results), "cores": found})
    else:
        for result in results:
            print_self_test(f"{model.path}, self-test ({result.provider})", result)
    for result in results:
        check_self_test(str(model.path), result)
    for core, result in zip(cores, results, strict=True):
        note(f"{core.name}: {self_test_sentence(result)}")


def verify_emulated(
    model: Path,
    foreign: ForeignModel,
    data: Path,
    split: str,
    *,
    architecture: str,
    core_names: Sequence[str] | None,
    max_images: int,
    limits: ParityLimits | None,
    table: "TableOptions | None" = None,
    cache_folder: Path,
    ignore_unreadable: bool,
    as_json: bool,
) -> None:
    """Compares a model file on emulated cores with the same file on this machine, and prints the verdict.

    Args:
        model: The file.
        foreign: How it is used where it has no spec.
        data: Folder or CSV of the images.
        split: See `list_images`.
        architecture: What `--emulate` names.
        core_names: The cores; None or none of them takes one of each kind.
        max_images: At most so many images, evenly spread.
        limits: Limits of the comparison; None takes those recorded in the file, else the default rule.
        table: What the user says of a CSV; None for nothing.
        cache_folder: Where the emulated system is kept.
        ignore_unreadable: Whether images that cannot be read are no error.
        as_json: Print JSON instead of tables.

    Raises:
        InputError: Images cannot be read, all others were compared.
        UsageError: There is no such architecture or core, or options for files without a spec are given and it has one.
        GateError: The file does something else on a core.
        EdgeclfError: As `ModelSession`, `list_images` and `compare_cores`.
    """
    cores = _cores(architecture, core_names or _DEFAULT_CORES)
    session = ModelSession(model, device="cpu", threads=1, foreign=options_for(model, foreign))
    refuse_idle_options(foreign, [session])
    refuse_idle_limits(limits, session.spec.precision)
    note_use(session)
    with progress_bar(enabled=not as_json) as progress:
        listed = list_images(data, [(model, session)], split, need_labels=False, table=table, progress=progress)
        images = listed.spread(max_images)
        pixels_rgb, rows, unreadable = _read(images.paths, session.spec.preprocess)
        facts = compare_cores(
            session,
            pixels_rgb,
            None if images.true_indices is None else [images.true_indices[row] for row in rows],
            cores,
            cache_folder=cache_folder,
            progress=progress,
        )
    recorded = recorded_limits(session.spec.parity)
    allowed = limits_between(session.spec.precision, session.spec.precision, limits or recorded or DEFAULT_RULE)
    note(limits_sentence(allowed, recorded))
    verdicts = [judge_parity(item.parity, allowed) for item in facts]
    failures = [failure for verdict in verdicts for failure in verdict.failures]
    doubts = [doubt for verdict in verdicts for doubt in verdict.doubts]
    cpu = cpu_info()
    if as_json:
        document = {
            "model": str(model),
            "used_as": use_json(session),
            "unreadable": unreadable_json(unreadable),
            "cpu": cpu.to_json(),
            "passed": not failures,
            "failures": failures,
        }
        cores_json = [
            {**item.to_json(), "verdict": verdict.to_json()} for item, verdict in zip(facts, verdicts, strict=True)
        ]
        print_json({**document, "doubts": doubts, "limits": limits_record(allowed), "cores": cores_json})
    else:
        print_emulation(
            f"{model} on emulated ARM cores, next to {cpu.model}", facts, [item.outcome for item in verdicts]
        )
    if failures:
        end_with_unreadable(unreadable, ignore=True)
        raise GateError(
            f"{model} does something else on ARM",
            got="; ".join(failures),
            hint="export it again with --target any, or ship the fp32 file there",
        )
    note(f"undecided: {'; '.join(doubts)}" if doubts else "passed: the file does the same on these cores")
    end_with_unreadable(unreadable, ignore=ignore_unreadable)


def _cores(architecture: str, names: Sequence[str]) -> list[Core]:
    if architecture != "arm64":
        raise UsageError(
            f"cannot emulate {architecture!r}", expected="arm64", hint="leave the others to their own machines"
        )
    return [get_core(name) for name in names]


def _read(
    paths: Sequence[Path], preprocess: Preprocess
) -> tuple[UInt8Array, list[int], list[tuple[Path, EdgeclfError]]]:
    """Preprocessed images, (N, H, W, 3) uint8 RGB, with their positions in the list, and those that cannot be read."""
    images_rgb: list[UInt8Array] = []
    rows: list[int] = []
    unreadable: list[tuple[Path, EdgeclfError]] = []
    for row, path in enumerate(paths):
        try:
            images_rgb.append(preprocess_bgr(load_image(path), preprocess))
            rows.append(row)
        except ImageError as error:
            unreadable.append((path, error))
    if not rows:
        raise InputError(
            "none of the images can be read",
            got=f"{len(paths)} files, the first with: {unreadable[0][1].what}" if unreadable else "no files",
            expected="at least one readable image",
        )
    return np.stack(images_rgb), rows, unreadable
