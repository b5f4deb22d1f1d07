"""`edgeclf verify --emulate`: what ARM cores make of a file, next to this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.toolkit.console import note, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from edgeclf.export.cache_folder import CacheFolder
    from edgeclf.export.emulation.arm64 import EmulationFacts


def verify_emulated(
    model: Path,
    data: Path,
    split: str,
    *,
    architecture: str,
    cores: Sequence[str],
    most_images: int,
    limits: tuple[float, float],
    cache_folder: "CacheFolder | None",
    as_json: bool,
) -> None:
    """Runs a file on emulated cores and prints how its results differ.

    Args:
        model: The `.onnx` file.
        data: Images, labelled or not.
        split: Which of them.
        architecture: `arm64`.
        cores: Names of the cores.
        most_images: How many images, evenly spread over those there are.
        limits: Lowest agreement and highest loss of accuracy of an int8 file.
        cache_folder: Where the emulated system is kept; None takes the default.
        as_json: Whether to print one JSON document.

    Raises:
        UsageError: There is no such architecture or core.
        MissingPackageError: The emulator is not installed.
        DeviceUnavailableError: The system cannot be prepared, or cannot run the file.
        GateError: A core's labels differ more than the limits allow.
    """
    import numpy as np

    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.export.emulation.arm64 import compare_with_here, get_core, run_emulated
    from edgeclf.export.emulation.sysroot import prepare_sysroot
    from edgeclf.export.verify.parity import parity_failures
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import GateError, UsageError
    from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.toolkit.datasets.evaluation_set import list_images
    from edgeclf.toolkit.reports.parity import PARITY_COLUMNS, limits_for

    if architecture != "arm64":
        raise UsageError(
            f"cannot emulate {architecture!r}", expected="arm64", do="leave the others to their own machines"
        )
    chosen = [get_core(name) for name in cores]
    session = ModelSession(model, device="cpu", threads=1)
    images = list_images(data, session.spec.labels, split, need_labels=False)
    rows = np.unique(np.linspace(0, len(images.paths) - 1, min(most_images, len(images.paths))).astype(int))
    true = None if images.true_indices is None else [images.true_indices[row] for row in rows]
    with progress_bar(enabled=not as_json) as progress:
        sysroot = prepare_sysroot((cache_folder or chosen_cache_folder()).path, progress)
        pixels = np.stack([preprocess_bgr(load_image(images.paths[row]), session.spec.preprocess) for row in rows])
        here = np.concatenate([session.run(pixels[row : row + 1]) for row in range(len(rows))])
        facts = [
            compare_with_here(here, run_emulated(model, pixels, core, sysroot, progress), core, true) for core in chosen
        ]
    allowed = limits_for(session.spec, session.spec, *limits)
    failures = [failure for item in facts for failure in parity_failures(item.parity, allowed)]
    cpu = cpu_info()
    if as_json:
        document = {"model": str(model), "cpu": cpu.to_json(), "passed": not failures, "failures": failures}
        print_json({**document, "cores": [item.to_json() for item in facts]})
    else:
        print_table(
            f"{model} on emulated ARM cores, next to {cpu.model}",
            ["", "dot products", "same bits", *PARITY_COLUMNS],
            [_cells(item) for item in facts],
        )
    if failures:
        raise GateError(
            f"{model} does something else on ARM",
            got="; ".join(failures),
            do="export it again with --target any, or ship the fp32 file there",
        )
    note("passed: the file does the same on these cores")


def _cells(facts: "EmulationFacts") -> list[str]:
    from edgeclf.toolkit.reports.parity import parity_cells

    dot_products = "yes" if facts.core.has_dot_products else "no"
    return [facts.core.name, dot_products, "all" if facts.identical else "not all", *parity_cells(facts.parity)]
