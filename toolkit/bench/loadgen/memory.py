"""Memory of the queries that the load generator prepares before a run, and whether they fit."""

import math
from pathlib import Path

from edgeclf.runtime.errors import UsageError
from edgeclf.toolkit.bench.loadgen.scenario_rules import Scenario

# At their highest, as measured: 310 bytes a query of one image, 630 of eight, and 220 a sample of `offline`, which waits in a
# queue of ours as well.
_BYTES_PER_QUERY, _BYTES_PER_SAMPLE, _BYTES_PER_WAITING_SAMPLE = 350, 50, 250
# Twice as many as are expected in a stream, in case it is faster; a tenth more in offline.
_PREPARED = {"single-stream": 2.0, "multi-stream": 2.0, "server": 1.0, "offline": 1.1}
_USED_FRACTION = 0.8


def check_fits(
    scenario: Scenario, duration_s: float, expected_s: float, samples_per_query: int, available: int | None
) -> None:
    """Checks that the queries of a run fit into the memory.

    Args:
        scenario: The scenario.
        duration_s: Shortest duration.
        expected_s: Expected time from one query to the next; in `offline`, whose only query holds all samples, of one sample.
        samples_per_query: Images in one query.
        available: Memory that is left, in bytes; None where that is not known.

    Raises:
        UsageError: They do not.
    """
    longest = longest_s(scenario, expected_s, samples_per_query, available)
    if available is None or duration_s <= longest:
        return
    count = _PREPARED[scenario] * duration_s / expected_s
    is_offline = scenario == "offline"
    needed = _USED_FRACTION * available * duration_s / longest
    raise UsageError(
        f"the queries of {scenario} do not fit into the memory",
        got=f"{count:.3g} {'samples' if is_offline else 'queries'} for {duration_s:g} s, all prepared before the first: "
        f"{needed / 1e9:.3g} GB",
        expected=f"at most {longest:.3g} s where {available / 1e9:.3g} GB are left",
        hint="choose a shorter --duration",
    )


def longest_s(scenario: Scenario, expected_s: float, samples_per_query: int, available: int | None) -> float:
    """The longest duration whose queries fit into the memory, in seconds.

    Args:
        scenario: The scenario.
        expected_s: As for `check_fits`.
        samples_per_query: Images in one query.
        available: Memory that is left, in bytes; None where that is not known: any duration.
    """
    if available is None:
        return math.inf
    each = (
        _BYTES_PER_WAITING_SAMPLE if scenario == "offline" else _BYTES_PER_QUERY + _BYTES_PER_SAMPLE * samples_per_query
    )
    return _USED_FRACTION * available * expected_s / (_PREPARED[scenario] * each)


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that is left on this machine, in bytes; None where the system does not tell.

    Args:
        meminfo: The file of Linux that tells.
    """
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
