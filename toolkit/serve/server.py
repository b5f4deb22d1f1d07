"""HTTP server of the preview, in a thread beside those that classify."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.errors import MissingPackageError, install_hint
from edgeclf.toolkit.console import note, warn
from edgeclf.toolkit.serve.address import Address, Token, choose_token, listen, parse_address, parse_host, visitor_host
from edgeclf.toolkit.serve.state import PreviewState

if TYPE_CHECKING:
    import socket

# Seconds without a result after which a camera counts as lost.
STALE_AFTER_S = 10.0
_SHORT_TOKEN = 16
# Seconds that a client which does not read may delay the end; then its connection is cut.
_PATIENCE_S = 1


@contextlib.contextmanager
def preview_server(
    address: str,
    token: str | None,
    *,
    model: Callable[[], dict[str, Any]],
    hosts: Sequence[str] = (),
    cameras: Sequence[str] = (),
    stale_after_s: float = STALE_AFTER_S,
) -> Iterator[PreviewState]:
    """Serves the preview while the block runs; yields its state, which receives results and events.

    Args:
        address: `[HOST]:PORT`; without a host, this machine alone.
        token: Token that every request must carry, `auto` for a new one that is printed; None takes it from the
            environment, or none where only this machine can reach the address.
        model: Returns the description of the model that runs now, plain JSON values.
        hosts: Names under which a proxy is reached that passes requests on, beside this machine's own. Where there are any, or only
            this machine can reach the address, requests for other names are refused.
        cameras: Names of the expected cameras, see `CameraSource.name`.
        stale_after_s: Seconds without a result after which a camera counts as lost.

    Raises:
        UsageError: The address, a host or the token makes no sense, or other machines reach the address and there is no token.
        UnavailableError: The port is taken, or this machine has no such address.
        MissingPackageError: A package of the extra [serve] is not installed.
    """
    found = parse_address(address)
    proxies = [parse_host(host) for host in hosts]
    chosen = choose_token(token, os.environ, found)
    _check_packages()
    state = PreviewState(model, cameras, stale_after_s)
    sockets = listen(found)
    try:
        state.url = f"http://{visitor_host(sockets[0])}:{sockets[0].getsockname()[1]}/"
        server = _ServerThread(state, found, chosen, sockets, proxies)
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    _say_where(state.url, chosen)
    try:
        yield state
    finally:
        server.stop()


class _ServerThread:
    """A running server."""

    def __init__(
        self,
        state: PreviewState,
        address: Address,
        token: Token,
        sockets: "list[socket.socket]",
        proxies: Sequence[str],
    ) -> None:
        import uvicorn

        from edgeclf.toolkit.serve.app import preview_app
        from edgeclf.toolkit.serve.connections import MOST_CONNECTIONS, PatientProtocol

        self._state = state
        self._sockets = sockets
        # One thread: images of several cameras queue here and do not take the CPUs of the classifier.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="edgeclf-picture")
        port = int(sockets[0].getsockname()[1])
        app = preview_app(
            state,
            token=token.value,
            hosts={*_hosts(address, sockets), *proxies} if proxies or address.is_loopback else None,
            port=port,
            pool=self._pool,
        )
        # uvicorn logs malformed requests and clients that are cut off, neither of which the user can act on.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=PatientProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                # Reached where every connection waits for an answer.
                limit_concurrency=MOST_CONNECTIONS + 1,
                timeout_graceful_shutdown=_PATIENCE_S,
            )
        )
        self._ready = threading.Event()
        # A daemon, so that the process ends whatever happens in it.
        self._thread = threading.Thread(target=self._run, name="edgeclf-serve", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Ends all streams and the thread."""
        self._server.should_exit = True
        self._state.close()
        self._thread.join(_PATIENCE_S + 2)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._ready.set()
        await self._server.serve(self._sockets)


def _check_packages() -> None:
    for name in ("uvicorn", "starlette", "prometheus_client"):
        try:
            __import__(name)
        except ImportError as error:
            raise MissingPackageError(
                f"{name} cannot be loaded",
                got=str(error),
                expected="the packages of the extra [serve]",
                hint=install_hint("serve"),
            ) from error


def _hosts(address: Address, sockets: "list[socket.socket]") -> set[str]:
    """Hosts that a request may name: those of this machine."""
    return {"localhost", "127.0.0.1", "[::1]", address.host or "localhost", *map(visitor_host, sockets)}


def _say_where(url: str, token: Token) -> None:
    if token.is_generated:
        url += f"?token={token.value}"
    elif token.value is not None:
        url += " (with ?token=TOKEN on the first visit)"
        if len(token.value) < _SHORT_TOKEN:
            warn(f"a serve token of {len(token.value)} signs can be guessed; --serve-token auto makes a long one")
    note(f"preview: {url}")
