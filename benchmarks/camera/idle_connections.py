"""Measures how long `/healthz` of the web preview takes beside connections that never finish a request.

    python benchmarks/camera/idle_connections.py [--idle 300] [--requests 50] [--quick] [--json]

A third of the connections send nothing, a third half of a request, a third a byte a second. Health is asked for over new connections
while they come and after all have. After ten seconds more the preview must have closed every one of them.

Exit code 1 where an answer is not 200, takes more than a second, or a connection is still open.
"""

import contextlib
import http.client
import io
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.camera.serve import classify, make_frames
from benchmarks.common import Arguments, Report, working_folder
from benchmarks.synthetic import write_model
from edgeclf.runtime.session.session import ModelSession
from edgeclf.toolkit.serve import connections
from edgeclf.toolkit.serve.server import preview_server

_LIMIT_S = 1.0
_BEGINNINGS = (b"", b"GET /healthz HTTP/1.1\r\nHost: localh", b"GET /")


def ask_health(host: str, port: int) -> tuple[int, float]:
    """Status and seconds of one request over a connection of its own."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status, time.perf_counter() - started
    finally:
        connection.close()


def drip(clients: list[socket.socket], ended: threading.Event) -> None:
    """Sends a byte over each connection every second."""
    while not ended.wait(1.0):
        for client in list(clients):
            with contextlib.suppress(OSError):
                client.sendall(b"x")


def is_open(client: socket.socket) -> bool:
    """Whether the server has neither answered nor closed a connection."""
    client.settimeout(0)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def main() -> int:
    """Prints figures, or JSON."""
    arguments = Arguments(__doc__, quick={"idle": 40, "requests": 5})
    arguments.add_argument("--idle", type=int, default=300, help="connections (default: %(default)s)")
    arguments.add_argument("--requests", type=int, default=50, help="requests after these (default: %(default)s)")
    given = arguments.parse()
    if given.idle < 1 or given.requests < 1:
        arguments.error("--idle and --requests must be at least 1")
    answers: list[tuple[int, float]] = []
    dripping: list[socket.socket] = []
    ended = threading.Event()
    with working_folder() as folder:
        session = ModelSession(write_model(folder / "model.onnx"), threads=1)
    # The address it prints is of no use here.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.ExitStack() as stack:
        preview = stack.enter_context(preview_server(":0", None, model=dict, stale_after_s=3600))
        # With a camera that delivers, health is 200.
        classify(session, make_frames(320, 240, 1), 0.1, preview.on_result)
        parts = urlsplit(preview.url)
        place = (str(parts.hostname), int(parts.port or 0))
        thread = threading.Thread(target=drip, args=(dripping, ended), daemon=True)
        thread.start()
        idle = []
        for number in range(given.idle):
            client = stack.enter_context(socket.create_connection(place, 60))
            kind = number % len(_BEGINNINGS)
            with contextlib.suppress(OSError):
                client.sendall(_BEGINNINGS[kind])
            if kind == len(_BEGINNINGS) - 1:
                dripping.append(client)
            idle.append(client)
            if number % 20 == 0:
                answers.append(ask_health(*place))
        answers += [ask_health(*place) for _ in range(given.requests)]
        open_at_once = sum(map(is_open, idle))
        time.sleep(connections.REQUEST_WITHIN_S + 1)
        left = sum(map(is_open, idle))
        ended.set()
        thread.join()
    times_ms = [1e3 * seconds for _, seconds in answers]
    refused = sum(status != http.client.OK for status, _ in answers)
    figures = {
        "idle_connections": given.idle,
        "requests": len(answers),
        "not_answered_with_200": refused,
        "median_ms": float(np.median(times_ms)),
        "slowest_ms": max(times_ms),
        "limit_ms": 1e3 * _LIMIT_S,
        "open_after_the_last_request": open_at_once,
        "open_10_s_later": left,
    }
    report = Report(given)
    for name, value in figures.items():
        report.line(f"{name}: {value:,.1f}")
    report.close(figures)
    # How long it takes is not judged under --quick.
    return int(bool(refused or left or (max(times_ms) > 1e3 * _LIMIT_S and not given.quick)))


if __name__ == "__main__":
    raise SystemExit(main())
