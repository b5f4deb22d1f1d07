"""Energy that the CPU package used, from the kernel's running average power limit (RAPL) counters.

Linux offers them for Intel and AMD under /sys/class/powercap/intel-rapl:N: `energy_uj` counts microjoules up to
`max_energy_range_uj`, then begins at 0 again. It is the whole package: what else runs there, and idling, is counted too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeclf.runtime.errors import DeviceUnavailableError

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class _Counter:
    path: Path
    range_uj: int


class EnergyMeter:
    """Reads the counters of all CPU packages.

    Args:
        root: Where the kernel shows its power zones.

    Raises:
        DeviceUnavailableError: There is no counter, or it may not be read.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._counters: list[_Counter] = []
        # Zones have subzones (intel-rapl:0:0, the cores) that are part of them; "psys" is the whole board.
        zones = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
        for zone in zones:
            if zone.name.count(":") != 1 or not _text(zone / "name").startswith("package"):
                continue
            counter = zone / "energy_uj"
            self._counters.append(_Counter(counter, int(_text(zone / "max_energy_range_uj"))))
            _text(counter)
        if not self._counters:
            raise DeviceUnavailableError(
                "cannot measure energy",
                got=f"no CPU package under {root}",
                expected="Linux on an Intel or AMD machine that is not virtual, with the RAPL counters of its kernel",
                hint="measure there, or leave --energy out",
            )

    def read(self) -> Mapping[Path, int]:
        """The counters now, in microjoules, for `joules_since`."""
        return {counter.path: int(_text(counter.path)) for counter in self._counters}

    def joules_since(self, before: Mapping[Path, int]) -> float:
        """Joules since `before`, right as long as no counter has gone round more than once (minutes to hours).

        Args:
            before: What `read` gave.
        """
        total_uj = 0
        for counter in self._counters:
            used_uj = int(_text(counter.path)) - before[counter.path]
            total_uj += used_uj if used_uj >= 0 else used_uj + counter.range_uj
        return total_uj / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise DeviceUnavailableError(
            "cannot measure energy",
            got=f"{(error.strerror or 'an error').lower()} for {path}",
            expected="a readable counter (since Linux 5.10 for root alone)",
            hint="run as root, or chmod a+r the file",
        ) from error
