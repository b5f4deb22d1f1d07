"""Connections of the preview: those that ask for nothing are closed, so that they keep nobody out."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Those that wait for an answer or watch a stream; beyond it, the one that has asked for nothing for longest makes room.
MOST_CONNECTIONS = 128
# For the whole of a request's head, the first of a connection or the next.
REQUEST_WITHIN_S = 10.0


class PatientProtocol(H11Protocol):
    """An HTTP/1.1 connection that must send a whole request within ten seconds, and sooner where others need its place.

    Uvicorn itself waits for ever for a request that was begun, and counts such connections like all others.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Takes a connection; the one that has asked for nothing for longest goes where there are too many."""
        self._deadline: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._expect_request()
        if len(self.connections) > MOST_CONNECTIONS:
            idle = [other for other in self.connections if isinstance(other, PatientProtocol) and other.is_idle]
            longest = min(idle, key=lambda other: other.idle_since_s)
            longest.transport.abort()
            # Which takes until the loop's next turn; by then others may have come.
            self.connections.discard(longest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the deadline."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Passes on what was received; the deadline holds until a request is whole."""
        super().handle_events()
        if not self.is_idle:
            self._stop_waiting()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP; where an answer has begun, or was given before the request ended, without another."""
        has_answered = self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}
        if self.cycle is not None:
            # Whoever works on an answer of this connection ends, as when the client has gone away.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if has_answered:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Expects the next request."""
        super().on_response_complete()
        if self.is_idle and not self.transport.is_closing():
            self._expect_request()

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_request(self) -> None:
        self._stop_waiting()
        self.idle_since_s = self.loop.time()
        # Whatever is still to be sent there has not been taken for as long.
        self._deadline = self.loop.call_later(REQUEST_WITHIN_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
