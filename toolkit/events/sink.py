"""The interface of a sink: an object that gets every result and every event of live cameras."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgeclf.runtime import LiveResult


class Sink(Protocol):
    """Receives results and events of all cameras of a run.

    Both methods are called from several threads at once and must return within microseconds: slower work belongs into
    a thread of the sink's own.
    """

    def on_result(self, result: "LiveResult") -> None:
        """Receives a classified frame."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Receives an event as plain JSON values, as `make_record` builds them."""
