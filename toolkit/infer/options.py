"""Options of `edgeclf infer` for cameras."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeclf.runtime import Smoothing


@dataclass(frozen=True)
class LiveOptions:
    """Options of reading and watching cameras, and the receivers of their events.

    Attributes:
        reconnects: Attempts to reopen a lost camera.
        max_fps: Frames of each camera classified per second at most; None for no limit.
        every: Frames that arrive per frame classified: 1 classifies all, 3 every third.
        loop: Whether video files begin again at their end.
        smoothing: Conditions for a change of the label.
        freeze_after_s: Seconds without a new image that count as frozen; None for no detection.
        log_every_s: Seconds between lines of figures on stderr; 0 for none.
        watch: Whether a replaced model file is taken while the cameras run.
        events: File that events are appended to, `-` for stdout; None for none.
        webhook: URL that events are posted to; None for none.
        on_event: Command that is run for events; None for none.
    """

    reconnects: int = 5
    max_fps: float | None = None
    every: int = 1
    loop: bool = False
    smoothing: Smoothing = field(default_factory=Smoothing)
    freeze_after_s: float | None = None
    log_every_s: float = 0.0
    watch: bool = False
    events: Path | None = None
    webhook: str | None = None
    on_event: str | None = None

    @property
    def has_events_on_stdout(self) -> bool:
        """Whether events take the place of records on stdout."""
        return str(self.events) == "-"
