"""A small arm64 system in a folder - Python, NumPy, ONNX Runtime's aarch64 build - to run under user-mode emulation.

Nothing is installed and no rights are needed: Debian's or Ubuntu's arm64 packages are downloaded with the keys of this
machine, and unpacked into a folder; aarch64 wheels are downloaded with pip, and unpacked beside them.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from edgeclf.runtime.errors import DeviceUnavailableError, MissingPackageError
from edgeclf.runtime.progress import Progress

EMULATOR = "qemu-aarch64-static"
_TOOLS = {EMULATOR: "qemu-user-static", "apt-get": "apt", "dpkg-deb": "dpkg"}
_DEBIAN_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libgomp1", "libstdc++6")
# Hundreds of megabytes over a slow line; servers that never answer.
_LONGEST_S = 1800
# Ubuntu's usual servers have packages for x86 alone, Debian's those for all.
_UBUNTU_PORTS = "http://ports.ubuntu.com/ubuntu-ports"
_UBUNTU_KEYS = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
_WHEEL_PLATFORM = "manylinux_2_28_aarch64"


@dataclass(frozen=True)
class Sysroot:
    """A system for emulation.

    Attributes:
        root: Folder of its files.
        wheels: Folder of its Python packages.
        python: Its interpreter, inside `root`.
    """

    root: Path
    wheels: Path
    python: Path


def check_tools() -> None:
    """Checks that the emulator and the packaging tools are installed, before anything is downloaded.

    Raises:
        MissingPackageError: One of them is not.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise MissingPackageError(
            "arm64 cannot be emulated here",
            got=f"no {' and no '.join(missing)}",
            expected="user-mode QEMU and Debian's package tools",
            hint=f"run apt install {' '.join(sorted({_TOOLS[tool] for tool in missing}))} (on Debian or Ubuntu)",
        )


def prepare_sysroot(cache_folder: Path, progress: Progress) -> Sysroot:
    """Prepares the arm64 system, or finds it as an earlier call prepared it.

    Args:
        cache_folder: Folder in which it is kept, one system for each version of ONNX Runtime.
        progress: Called at each step.

    Raises:
        MissingPackageError: A tool is not installed.
        DeviceUnavailableError: Something cannot be downloaded or unpacked; nothing half-made is left.
    """
    check_tools()
    place = cache_folder / "emulation" / f"arm64-onnxruntime-{onnxruntime.__version__}"
    if not (place / "complete").is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="arm64-", dir=place.parent) as name:
            building = Path(name) / "system"
            _build(building, Path(name), progress)
            (building / "complete").touch()
            shutil.rmtree(place, ignore_errors=True)
            building.rename(place)
    (python,) = sorted((place / "root" / "usr" / "bin").glob("python3.[0-9]*[0-9]"))[:1]
    return Sysroot(place / "root", place / "wheels", python)


def _build(building: Path, scratch: Path, progress: Progress) -> None:
    root, wheels = building / "root", building / "wheels"
    for folder in (root, wheels):
        folder.mkdir(parents=True)
    progress("arm64 packages: list", 0, 4)
    debs = _download_debs(scratch, progress)
    progress("arm64 packages: unpack", 2, 4)
    for deb in debs:
        _run(["dpkg-deb", "-x", str(deb), str(root)], f"unpack {deb.name}")
    # The program loader is expected in /lib; packages from before Debian merged it into /usr/lib bring their own.
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    version = next((root / "usr" / "bin").glob("python3.[0-9]*[0-9]")).name.removeprefix("python")
    progress("arm64 wheels", 3, 4)
    downloads = scratch / "downloads"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary=:all:", "--platform", _WHEEL_PLATFORM, "--python-version", version, "-d", str(downloads)]
    _run([*pip, "numpy", f"onnxruntime=={onnxruntime.__version__}"], "download aarch64 wheels")
    for wheel in sorted(downloads.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(wheels)
    progress("arm64 wheels", 4, 4)


def _download_debs(scratch: Path, progress: Progress) -> list[Path]:
    """Downloads Debian's arm64 packages, with all that they depend on."""
    state, cache = scratch / "state", scratch / "cache"
    for folder in (state / "lists" / "partial", cache / "archives" / "partial"):
        folder.mkdir(parents=True)
    status = scratch / "status"
    status.touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "Dir::State": state,
        "Dir::State::status": status,
        "Dir::Cache": cache,
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        **_sources(scratch),
    }
    apt = ["apt-get", "-q", "-y", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], "list Debian's arm64 packages")
    progress("arm64 packages: download", 1, 4)
    _run([*apt, "--download-only", "install", *_DEBIAN_PACKAGES], "download Debian's arm64 packages")
    return sorted((cache / "archives").glob("*.deb"))


def _sources(scratch: Path) -> dict[str, str | Path]:
    """Settings of apt for sources that have arm64: none, which are this machine's own, unless it is an Ubuntu of another kind."""
    try:
        codename = platform.freedesktop_os_release().get("UBUNTU_CODENAME")
    except OSError:
        codename = None
    if codename is None or platform.machine() == "aarch64":
        return {}
    listed = scratch / "sources.list"
    suites = (codename, f"{codename}-updates", f"{codename}-security")
    listed.write_text(
        "".join(f"deb [signed-by={_UBUNTU_KEYS}] {_UBUNTU_PORTS} {suite} main universe\n" for suite in suites),
        encoding="ascii",
    )
    return {"Dir::Etc::SourceList": listed, "Dir::Etc::SourceParts": "-"}


def _run(command: Sequence[str], purpose: str) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceUnavailableError(
            f"cannot {purpose}",
            got=f"no end within {_LONGEST_S // 60} minutes",
            expected="package sources that answer",
            hint="try again where there is a network; the cache folder can be copied",
        ) from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # Addresses of mirrors are long and tell a user without a network nothing.
        got = re.sub(r"https?://\S+", "the server", lines[-1])[:200] if lines else f"exit code {done.returncode}"
        raise DeviceUnavailableError(
            f"cannot {purpose}",
            got=got,
            expected="a Debian or Ubuntu machine that reaches its package sources and PyPI",
            hint="run it once where there is a network; the cache folder can be copied",
        )
