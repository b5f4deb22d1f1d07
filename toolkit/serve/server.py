"""The preview's server: a thread of its own beside the one that classifies."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.errors import MissingPackageError
from edgeclf.toolkit.console import note, warn
from edgeclf.toolkit.serve.address import Address, Token, choose_token, listen, parse_address, visitor_host
from edgeclf.toolkit.serve.state import PreviewState

if TYPE_CHECKING:
    import socket

_SHORT_TOKEN = 16
# What a client that does not read may take of the end: then its connection is cut.
_PATIENCE_S = 1


@contextlib.contextmanager
def preview_server(
    address: str,
    token: str | None,
    *,
    model: dict[str, Any],
    cameras: Sequence[str] = (),
    stale_after_s: float = 10.0,
) -> Iterator[PreviewState]:
    """Serves the preview while the block runs; yields what takes results and events.

    Args:
        address: `[HOST]:PORT`; without a host, this machine alone.
        token: What every request must know, `auto` for a new one that is printed; None takes it from the environment,
            or none where only this machine can reach the address.
        model: What to say about the model, plain JSON values.
        cameras: Names of the cameras that are expected, as results will name them.
        stale_after_s: Silence after which a camera counts as lost.

    Raises:
        UsageError: The address or token makes no sense, or other machines reach the address and there is no token.
        UnavailableError: The port is taken, or this machine has no such address.
        MissingPackageError: A package of the extra [serve] is not installed.
    """
    found = parse_address(address)
    chosen = choose_token(token, os.environ, found)
    _check_packages()
    feeds = PreviewState(model, cameras, stale_after_s)
    sockets = listen(found)
    try:
        feeds.url = f"http://{visitor_host(sockets[0])}:{sockets[0].getsockname()[1]}/"
        server = _ServerThread(feeds, found, chosen, sockets)
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    _say_where(feeds.url, chosen)
    try:
        yield feeds
    finally:
        server.stop()


class _ServerThread:
    """A running server."""

    def __init__(self, feeds: PreviewState, address: Address, token: Token, sockets: "list[socket.socket]") -> None:
        import uvicorn

        from edgeclf.toolkit.serve.app import preview_app

        self._feeds = feeds
        self._sockets = sockets
        # One thread: pictures of several cameras queue here and not for the CPUs that classify.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="edgeclf-picture")
        port = int(sockets[0].getsockname()[1])
        app = preview_app(
            feeds,
            token=token.value,
            hosts=_hosts(address, sockets) if address.is_loopback else None,
            port=port,
            pool=self._pool,
        )
        # What uvicorn would log are requests that make no sense and clients that are cut off: nobody's business here.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=128,
                timeout_graceful_shutdown=_PATIENCE_S,
            )
        )
        self._ready = threading.Event()
        # A daemon: whatever goes wrong in it, the process ends.
        self._thread = threading.Thread(target=self._run, name="edgeclf-serve", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Ends all streams and the thread."""
        self._server.should_exit = True
        self._feeds.close()
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
                do='run pip install "edgeclf[headless,serve]"',
            ) from error


def _hosts(address: Address, sockets: "list[socket.socket]") -> set[str]:
    """Names of this machine that a request may use."""
    return {"localhost", "127.0.0.1", "[::1]", address.host or "localhost", *map(visitor_host, sockets)}


def _say_where(url: str, token: Token) -> None:
    if token.is_generated:
        url += f"?token={token.value}"
    elif token.value is not None:
        url += " (with ?token=TOKEN on the first visit)"
        if len(token.value) < _SHORT_TOKEN:
            warn(f"a serve token of {len(token.value)} signs can be guessed; --serve-token auto makes a long one")
    note(f"preview: {url}")
