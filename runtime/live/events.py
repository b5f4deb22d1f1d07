"""Typed events of a live camera and its model. The words for them are chosen where they are printed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgeclf.runtime.live.results import CameraStatistics, LiveFigures


@dataclass(frozen=True)
class CameraEvent:
    """Something that happened to a camera.

    Attributes:
        camera: Name of the camera, see `CameraSource.name`.
    """

    camera: str


@dataclass(frozen=True)
class Connected(CameraEvent):
    """The camera was opened and has delivered its first frame."""


@dataclass(frozen=True)
class Disconnected(CameraEvent):
    """The camera went away and is about to be reopened; once for every attempt.

    Attributes:
        reason: The cause, as a phrase.
        attempt: Number of the attempt that follows, from 1.
        attempts: Attempts before the camera is given up.
    """

    reason: str
    attempt: int
    attempts: int


@dataclass(frozen=True)
class Reconnected(CameraEvent):
    """The camera delivers again after it was reopened."""


@dataclass(frozen=True)
class Frozen(CameraEvent):
    """The camera has given no new image for the time of freeze detection.

    Attributes:
        kind: `silent` where no frame arrives, `still` where one image is repeated.
        seconds: Time since the last frame (`silent`) or the last change of the image (`still`).
    """

    kind: Literal["silent", "still"]
    seconds: float


@dataclass(frozen=True)
class Recovered(CameraEvent):
    """A frozen camera gives new images again."""


@dataclass(frozen=True)
class LabelChanged(CameraEvent):
    """The camera's label, after smoothing, is another one.

    Attributes:
        label: The label now.
        previous: The label before; None for the first.
        confidence: Smoothed probability of the label, 0..1.
        frame_number: Number of the frame that changed it.
        age_ms: Age of that frame, in milliseconds.
        rejected: Whether the label is `unknown` because the confidence is below the model's threshold.
    """

    label: str
    previous: str | None
    confidence: float
    frame_number: int
    age_ms: float
    rejected: bool = False


@dataclass(frozen=True, eq=False)
class Ended(CameraEvent):
    """The iteration over the camera ended.

    Attributes:
        figures: Figures of the run.
        statistics: Counts of the camera.
        freezes: Times that the camera froze; None without freeze detection.
        error: The exception that ended it; None for a regular end.
    """

    figures: LiveFigures
    statistics: CameraStatistics
    freezes: int | None
    error: Exception | None


@dataclass(frozen=True)
class ModelReloaded:
    """The model's file was replaced, and the new model runs.

    Attributes:
        path: The file.
        labels: Its class names now.
        previous_labels: The class names before.
    """

    path: Path
    labels: tuple[str, ...]
    previous_labels: tuple[str, ...]


@dataclass(frozen=True)
class ModelKept:
    """The model's file was replaced or removed, and the old model stays.

    Attributes:
        path: The file.
        reason: The fault of the new file, as a phrase.
    """

    path: Path
    reason: str


ModelEvent: TypeAlias = ModelReloaded | ModelKept
LiveEvent: TypeAlias = (
    Connected | Disconnected | Reconnected | Frozen | Recovered | LabelChanged | Ended | ModelReloaded | ModelKept
)
