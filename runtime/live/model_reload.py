"""A model whose file may be replaced while it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.batch.jobs import Job, classify_job
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.files import file_identity
from edgeclf.runtime.session.session import ModelSession


@dataclass(frozen=True)
class Replacement:
    """What became of a file that was replaced.

    Attributes:
        is_accepted: Whether the new model runs now.
        text: What happened, as a phrase: why the old one was kept, or which labels are others.
    """

    is_accepted: bool
    text: str


class WatchedModel:
    """A model that is exchanged for the file's new content once that has proved itself.

    Threads that classify read `session` for every frame; one thread calls `look`.

    Args:
        session: The model to begin with.
        load: Opens the file again with the same options.

    Attributes:
        session: The model to use now.
        reloads: How often a new one was taken.
        rejections: How often the old one was kept.
    """

    def __init__(self, session: ModelSession, load: Callable[[], ModelSession]) -> None:
        self.session = session
        self._load = load
        self._known = self._seen = file_identity(session.path)
        self.reloads = self.rejections = 0

    def look(self, frame_bgr: UInt8Array | None = None) -> Replacement | None:
        """Looks once whether the file is another one, and if so tries it.

        A file is tried when two looks in a row find it the same, so that one that is still being copied is left alone.

        Args:
            frame_bgr: (H, W, 3) uint8 BGR to classify with the new model before it is taken; None for a grey one.

        Returns:
            What became of a new file; None where there is none.
        """
        before, self._seen = self._seen, file_identity(self.session.path)
        if self._seen != before or self._seen == self._known:
            return None
        self._known = self._seen
        replacement = self._try(frame_bgr)
        self.reloads += replacement.is_accepted
        self.rejections += not replacement.is_accepted
        return replacement

    def _try(self, frame_bgr: UInt8Array | None) -> Replacement:
        if self._seen is None:
            return Replacement(is_accepted=False, text="the file is gone")
        try:
            session = self._load()
            image_bgr = np.full((64, 64, 3), 128, np.uint8) if frame_bgr is None else frame_bgr
            outcome = classify_job(session, Job.of_pixels("trial", image_bgr, 0))
        except EdgeclfError as error:
            return Replacement(is_accepted=False, text=str(error).removesuffix("."))
        if outcome.error is not None:
            return Replacement(is_accepted=False, text=str(outcome.error).removesuffix("."))
        changes = label_changes(self.session.spec.labels, session.spec.labels)
        self.session = session
        return Replacement(is_accepted=True, text=changes or "the same labels")


def label_changes(before: Sequence[str], after: Sequence[str]) -> str:
    """Which labels are others, as a phrase; empty where none is."""
    added = [label for label in after if label not in before]
    removed = [label for label in before if label not in after]
    phrases = [f"{verb} {', '.join(labels)}" for verb, labels in (("new:", added), ("gone:", removed)) if labels]
    if not phrases and tuple(before) != tuple(after):
        phrases = ["the same labels in another order"]
    return "; ".join(phrases)
