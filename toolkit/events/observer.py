"""Those who watch live sources: told of every result and every event, from the sources' threads."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgeclf.runtime.live.results import LiveResult


class Observer(Protocol):
    """A watcher of live sources.

    Both methods are called from several threads at once and must return within microseconds: what takes longer
    belongs into a thread of the observer's own.
    """

    def on_result(self, result: "LiveResult") -> None:
        """Takes a classified frame."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Takes an event, plain JSON values, as `make_event` builds it."""
