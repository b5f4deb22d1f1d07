"""A model file run by ONNX Runtime's own ARM kernels on this machine, by user-mode emulation of ARM cores."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.export.emulation import guest
from edgeclf.export.emulation.sysroot import EMULATOR, Sysroot
from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.errors import DeviceUnavailableError, UsageError
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session.session import ModelSession

# The emulator lists its cores at once.
_LISTING_S = 60


@dataclass(frozen=True)
class Core:
    """An ARM core that can be emulated.

    Attributes:
        name: Its name, the one QEMU uses.
        part: Its part number in /proc/cpuinfo.
        features: Its features in /proc/cpuinfo, by which ONNX Runtime chooses kernels.
    """

    name: str
    part: str
    features: str

    @property
    def has_dot_products(self) -> bool:
        """Whether it has the dot product instructions SDOT and UDOT, for which ONNX Runtime has faster int8 kernels."""
        return "asimddp" in self.features.split()


_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_NEWER = f"{_BASE} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
CORES = {
    core.name: core
    for core in (
        # Raspberry Pi 3, many industrial boards.
        Core("cortex-a53", "0xd03", _BASE),
        # Raspberry Pi 4.
        Core("cortex-a72", "0xd08", _BASE),
        # Raspberry Pi 5, RK3588.
        Core("cortex-a76", "0xd0b", _NEWER),
        # Every feature that QEMU knows.
        Core("max", "0xd0b", _NEWER),
    )
}


def get_core(name: str) -> Core:
    """The core of a name.

    Raises:
        UsageError: There is no such core.
    """
    if name not in CORES:
        raise UsageError(f"unknown core {name!r}", expected=", ".join(CORES), hint="choose one of them")
    return CORES[name]


def check_cores(cores: Sequence[Core]) -> None:
    """Checks that the installed emulator knows cores, before anything is downloaded; one that is missing is reported elsewhere.

    Raises:
        DeviceUnavailableError: It is older than one of them.
    """
    try:
        listed = subprocess.run(
            [EMULATOR, "-cpu", "help"], capture_output=True, text=True, check=False, timeout=_LISTING_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    known = [name for name in CORES if name in listed.split()]
    missing = [core.name for core in cores if core.name not in known]
    if known and missing:
        raise DeviceUnavailableError(
            f"the installed emulator has no {' and no '.join(missing)}",
            got=f"QEMU with {', '.join(known)}",
            expected="a newer QEMU for the cores it does not have",
            hint=f"pass --core {known[0]}, or install a newer qemu-user-static",
        )


def run_emulated(
    model: ModelSession, images_rgb: UInt8Array, core: Core, sysroot: Sysroot, progress: Progress
) -> FloatArray:
    """Runs a model file on an emulated core, one image at a time on one thread.

    Args:
        model: The file, opened here.
        images_rgb: (N, H, W, 3) uint8 RGB, preprocessed.
        core: The core.
        sysroot: The emulated system.
        progress: Called with the number of images done.

    Returns:
        (N, C) float32 probabilities.

    Raises:
        DeviceUnavailableError: The emulated process fails.
        ModelFileError: Its output is not one row an image.
    """
    with tempfile.TemporaryDirectory(prefix="edgeclf-arm64-") as name:
        folder = Path(name)
        np.save(folder / "tensor.npy", model.tensor_of(images_rgb))
        view = _system_with_core(core, sysroot, folder / "system")
        command = [EMULATOR, "-cpu", core.name, "-L", str(view), str(sysroot.python), "-s", "-B"]
        command += [guest.__file__, str(model.path.resolve()), str(folder / "tensor.npy"), str(folder / "out.npy")]
        command += [model.output_name, str(model.fixed_batch or 1)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))}
        environment |= {"PYTHONPATH": str(sysroot.wheels), "OMP_NUM_THREADS": "1"}
        stage = f"arm64 {core.name}"
        with (
            (folder / "errors").open("w+", encoding="utf-8", errors="replace") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
        ):
            try:
                for line in process.stdout or ():
                    if line.strip().isdigit():
                        progress(stage, int(line), len(images_rgb))
            except BaseException:
                process.kill()
                raise
            code = process.wait()
            errors.seek(0)
            said = [text for text in errors.read().splitlines() if text.strip()]
        if code or not (folder / "out.npy").is_file():
            raise DeviceUnavailableError(
                f"the emulated {core.name} could not run {model.path}",
                got=said[-1][:200] if said else f"exit code {code}",
                expected="outputs for every image",
                hint="remove the folder emulation/ in the cache and try again",
            )
        return model.probabilities_of(np.load(folder / "out.npy"), len(images_rgb))


def _system_with_core(core: Core, sysroot: Sysroot, view: Path) -> Path:
    """The system with this core's /proc/cpuinfo: ONNX Runtime chooses its kernels by that file, and crashes without it."""
    view.mkdir()
    for entry in sysroot.root.iterdir():
        if entry.name != "proc":
            (view / entry.name).symlink_to(entry)
    (view / "proc").mkdir()
    (view / "proc" / "cpuinfo").write_text(
        "processor\t: 0\nBogoMIPS\t: 108.00\n"
        f"Features\t: {core.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {core.part}\nCPU revision\t: 3\n\n",
        encoding="ascii",
    )
    return view
