"""Report of the devices that work here, each opened in a process of its own, since a driver may crash or hang."""

import base64
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgeclf.runtime.errors import EdgeclfError, UsageError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.runtime.session.devices import (
    AUTO_ORDER,
    DEVICE_FACTS,
    DeviceChoice,
    check_placement,
    check_provider,
    clashing_packages,
    device_error,
    node_placement,
)
from edgeclf.runtime.session.opening import open_session_from_bytes

# One convolution of 1 x 1 that doubles a (1, 1, 4, 4) float32 image; 145 bytes, opset 17.
PROBE_MODEL = base64.b64decode(
    "CAg6hgEKHgoFaW1hZ2UKBndlaWdodBIHZG91YmxlZCIEQ29udhIGZG91YmxlKhgIAQgBCAEIARABQgZ3ZWlnaHRKBAAAAEBaHwoFaW1hZ2US"
    "FgoUCAESEAoCCAEKAggBCgIIBAoCCARiIQoHZG91YmxlZBIWChQIARIQCgIIAQoCCAEKAggECgIIBEIECgAQEQ=="
)
_MARK = "edgeclf-probe "


@dataclass(frozen=True)
class DeviceState:
    """State of one device after the attempt to open it.

    Attributes:
        device: Its name.
        provider: ONNX Runtime's name for what runs it.
        state: `works`; `fails`: the provider is installed and cannot be used; `absent`: it is not installed.
        reason: Why it does not work, empty when it does.
        do: What to do about that, empty when it works.
        seconds: Time until a first result, start of the process included; None where none was started.
    """

    device: str
    provider: str
    state: Literal["works", "fails", "absent"]
    reason: str
    do: str
    seconds: float | None


@dataclass(frozen=True)
class DeviceReport:
    """Devices of this installation of ONNX Runtime on this machine.

    Attributes:
        version: ONNX Runtime's version.
        providers: The providers it was built with.
        auto: The device that `auto` takes.
        devices: The state of each.
        clashing_packages: Pairs of installed packages that overwrite each other's files.
    """

    version: str
    providers: tuple[str, ...]
    auto: str
    devices: tuple[DeviceState, ...]
    clashing_packages: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


def probe_devices(*, timeout_s: float = 60.0, progress: Progress = no_progress) -> DeviceReport:
    """Opens a small model on every device that the installed ONNX Runtime has a provider for.

    Args:
        timeout_s: Seconds after which a device that has not answered is given up.
        progress: Called with the devices that are done, of how many.
    """
    available = onnxruntime.get_available_providers()
    states = []
    for done, (device, facts) in enumerate(DEVICE_FACTS.items()):
        progress(f"devices: {device}", done, len(DEVICE_FACTS))
        if facts.provider in available:
            states.append(probe_device(device, timeout_s=timeout_s))
        else:
            reason = f"this ONNX Runtime has no {facts.provider}"
            states.append(DeviceState(device, facts.provider, "absent", reason, facts.package, None))
    progress("devices", len(DEVICE_FACTS), len(DEVICE_FACTS))
    works = {state.device for state in states if state.state == "works"}
    return DeviceReport(
        version=onnxruntime.__version__,
        providers=tuple(available),
        auto=next((device for device in AUTO_ORDER if device in works), "cpu"),
        devices=tuple(states),
        clashing_packages=tuple(clashing_packages()),
    )


def probe_device(device: str, *, timeout_s: float = 60.0) -> DeviceState:
    """Opens a small model on one device, in a process of its own, and checks its result.

    Args:
        device: A name out of `DEVICE_FACTS`.
        timeout_s: Seconds after which it is given up.

    Raises:
        UsageError: There is no such device.
    """
    if device not in DEVICE_FACTS:
        raise UsageError(f"unknown device {device!r}", expected=" or ".join(DEVICE_FACTS), hint="choose one of them")
    facts = DEVICE_FACTS[device]
    command = [sys.executable, "-m", "edgeclf.runtime.session.device_report", device]
    # The process finds this package where this one did.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return DeviceState(
            device,
            facts.provider,
            "fails",
            f"no answer within {timeout_s:g} s",
            "check the driver, or leave the device out",
            timeout_s,
        )
    seconds = round(time.perf_counter() - start, 3)
    answers = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not answers:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        last = (done.stderr.strip().splitlines() or [""])[-1][:200]
        reason = f"the process that opened it ended with {ended}" + (f": {last}" if last else "")
        return DeviceState(device, facts.provider, "fails", reason, "check the driver and its libraries", seconds)
    answer = json.loads(answers[-1])
    state: Literal["works", "fails"] = "fails" if answer["reason"] else "works"
    return DeviceState(device, facts.provider, state, answer["reason"], answer["do"], seconds)


def run_probe(device: str) -> None:
    """Opens the small model on a device in this process and runs it.

    Raises:
        DeviceUnavailableError: The device is not there, or its result is wrong.
    """
    choice = DeviceChoice(device)
    session = open_session_from_bytes(PROBE_MODEL, threads=1, device=choice)
    check_provider(choice, session.get_providers())
    check_placement(choice, node_placement(session))
    image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    (doubled,) = session.run(None, {"image": image})
    # Half precision holds these numbers exactly.
    if not np.array_equal(doubled, 2 * image):
        raise device_error(choice, "a wrong result of a convolution")


def _main() -> None:
    try:
        run_probe(sys.argv[1])
    except EdgeclfError as error:
        answer = {"reason": error.got or error.what, "do": error.hint or ""}
    else:
        answer = {"reason": "", "do": ""}
    sys.stdout.write(f"{_MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()
    # A driver that crashes while it is taken down has worked all the same.
    os._exit(0)


if __name__ == "__main__":
    _main()
