"""Comparison of a model file on emulated ARM cores with the same file on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.emulation.arm64 import Core, check_cores, run_emulated
from edgeclf.export.emulation.sysroot import prepare_sysroot
from edgeclf.export.verify.parity import ParityFacts, compare_probabilities
from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.self_test import SelfTestResult, compare_with_record, self_test_of
from edgeclf.runtime.session.session import ModelSession


@dataclass(frozen=True)
class EmulationFacts:
    """A model file's outputs on an emulated core next to those of this machine.

    Attributes:
        core: The core.
        identical: Whether all outputs have the same bits on both.
        parity: The figures, with this machine as the reference.
    """

    core: Core
    identical: bool
    parity: ParityFacts

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "core": self.core.name,
            "dot_products": self.core.has_dot_products,
            "identical": self.identical,
            **self.parity.to_json(),
        }


def compare_cores(
    model: ModelSession,
    images_rgb: UInt8Array,
    true_indices: Sequence[int] | None,
    cores: Sequence[Core],
    *,
    cache_folder: Path,
    progress: Progress = no_progress,
) -> list[EmulationFacts]:
    """Runs a model file on emulated cores and compares its outputs with those of this machine, image by image.

    Args:
        model: The file, opened on this machine's CPU with one thread.
        images_rgb: (N, H, W, 3) uint8 RGB, preprocessed.
        true_indices: (N,) index of each image's class; None where it is not known.
        cores: The cores.
        cache_folder: Folder in which the emulated system is kept for later calls.
        progress: Called at each step and image.

    Raises:
        MissingPackageError: The emulator or a packaging tool is not installed.
        DeviceUnavailableError: The emulator has no such core, or its system cannot be prepared, or cannot run the file.
    """
    check_cores(cores)
    sysroot = prepare_sysroot(cache_folder, progress)
    here = np.concatenate([model.run(images_rgb[row : row + 1]) for row in range(len(images_rgb))])
    return [
        compare_outputs(here, run_emulated(model, images_rgb, core, sysroot, progress), core, true_indices)
        for core in cores
    ]


def self_test_on_cores(
    model: ModelSession, cores: Sequence[Core], *, cache_folder: Path, progress: Progress = no_progress
) -> list[SelfTestResult]:
    """Runs the self-test of a model file on emulated cores.

    Args:
        model: The file.
        cores: The cores.
        cache_folder: Folder in which the emulated system is kept for later calls.
        progress: Called at each step and input.

    Returns:
        A result for each core.

    Raises:
        ModelFileError: The file has no self-test, or one that cannot be read.
        MissingPackageError: The emulator or a packaging tool is not installed.
        DeviceUnavailableError: The emulator has no such core, or its system cannot be prepared, or cannot run the file.
    """
    test, labels = self_test_of(model), model.spec.labels
    images_rgb = test.images_rgb(model.spec.preprocess.size_hw)
    check_cores(cores)
    sysroot = prepare_sysroot(cache_folder, progress)
    return [
        compare_with_record(
            test,
            run_emulated(model, images_rgb, core, sysroot, progress),
            labels,
            is_cpu=True,
            provider=f"CPUExecutionProvider, emulated {core.name}",
        )
        for core in cores
    ]


def compare_outputs(
    here: FloatArray, emulated: FloatArray, core: Core, true_indices: Sequence[int] | None
) -> EmulationFacts:
    """Compares the outputs of this machine with those of an emulated core.

    Args:
        here: (N, C) float32 probabilities of this machine.
        emulated: (N, C) float32 probabilities of the core, for the same images.
        core: The core.
        true_indices: (N,) index of each image's class; None where it is not known.
    """
    parity = compare_probabilities(here, emulated, f"emulated {core.name}", true_indices)
    return EmulationFacts(core, here.tobytes() == emulated.tobytes(), parity)
