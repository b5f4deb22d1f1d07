"""Figures of a camera's run as text: a line of the log, and the summary."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeclf.runtime.live.results import CameraStatistics, LiveFigures


def summary_text(figures: "LiveFigures", statistics: "CameraStatistics", provider: str) -> str:
    """The whole run in a line."""
    return (
        f"{figures.done} frames in {figures.seconds:.1f} s "
        f"({figures.done / max(figures.seconds, 1e-9):.1f} frames/s) on {provider}" + _counts_text(figures, statistics)
    )


def log_text(figures: "LiveFigures", statistics: "CameraStatistics", frames: int, seconds: float) -> str:
    """A line of a service's log.

    Args:
        figures: Figures of the run so far.
        statistics: Counts of the camera so far.
        frames: Frames classified since the last line.
        seconds: Seconds since the last line.
    """
    return (
        f"{frames} frames in {seconds:.0f} s ({frames / max(seconds, 1e-9):.1f} frames/s); in all {figures.done} frames"
        + _counts_text(figures, statistics)
    )


def _counts_text(figures: "LiveFigures", statistics: "CameraStatistics") -> str:
    text = f", {statistics.dropped} dropped, {statistics.reconnects} reconnects"
    for count, words in (
        (statistics.skipped, "skipped"),
        (statistics.unreadable, "unreadable"),
        (statistics.size_changes, "changes of size"),
        (figures.errors, "without a result"),
    ):
        text += f", {count} {words}" if count else ""
    if (ages_ms := figures.age_percentiles_ms()) is not None:
        text += f", frame age p50 {ages_ms[0]:.0f} ms, p95 {ages_ms[1]:.0f} ms"
    return text
