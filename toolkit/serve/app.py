"""ASGI application of the preview: the page, images, JSON, a stream of figures, health and metrics."""

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Executor
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from edgeclf.runtime.spec.json_documents import json_line
from edgeclf.toolkit.serve.guard import Guard
from edgeclf.toolkit.serve.metrics import PreviewMetrics
from edgeclf.toolkit.serve.pictures import Pictures
from edgeclf.toolkit.serve.polling import wait_until
from edgeclf.toolkit.serve.state import CameraState, PreviewState

_PAGE = {
    "/": ("index.html", "text/html"),
    "/preview.css": ("preview.css", "text/css"),
    "/preview.js": ("preview.js", "text/javascript"),
    "/graph.js": ("graph.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Limit of connections that stay open, so that health and metrics are answered however many people watch.
_MOST_STREAMS = 32
_PICTURE_WAIT_S = 5.0
_FIGURES_INTERVAL_S = 0.2
_FIGURES_AT_LEAST_EVERY_S = 1.0
# A client that misses a message finds the missed seconds in the next one.
_SECONDS_IN_A_MESSAGE = 5
_BOUNDARY = "edgeclf-picture"

Endpoint = Callable[[Request], Awaitable[Response]]


def preview_app(
    state: PreviewState, *, token: str | None, hosts: Collection[str] | None, port: int, pool: Executor
) -> Starlette:
    """The ASGI application.

    Args:
        state: State of the cameras.
        token: Token that every request must carry; None for none.
        hosts: Hosts that a request may name; None for any.
        port: Port of the server.
        pool: Executor that encodes images.
    """
    preview = _Preview(state, Pictures(state, pool))
    routes = [Route(path, _file(*file)) for path, file in _PAGE.items()]
    routes += [
        Route("/api/status", preview.status),
        Route("/api/events", preview.events),
        Route("/api/stream", preview.figures),
        Route("/cameras/{number}/picture.jpg", preview.picture),
        Route("/cameras/{number}/stream.mjpg", preview.pictures),
        Route("/healthz", preview.health),
        Route("/metrics", preview.metrics),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, hosts=hosts, port=port)],
        exception_handlers={Exception: _say_bug_once(), HTTPException: _plain_error},
    )


class _Preview:
    def __init__(self, state: PreviewState, pictures: Pictures) -> None:
        self._state = state
        self._pictures = pictures
        self._metrics = PreviewMetrics(state)
        self._streams = 0

    async def status(self, _request: Request) -> Response:
        return _Json({"model": self._state.model, "cameras": self._state.status()})

    async def events(self, request: Request) -> Response:
        return _Json({"events": self._state.events(last=_number(request, "last", 50))})

    async def health(self, _request: Request) -> Response:
        problems = self._state.problems()
        if problems:
            return _Json({"status": "unavailable", "reason": "; ".join(problems)}, 503)
        return _Json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        body, media_type = self._metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type})

    async def picture(self, request: Request) -> Response:
        """The newest image; with `after`, waits for one with a higher sequence number, 204 when none comes."""
        camera = self._camera(request)
        picture = await self._pictures.newer(camera, _number(request, "after", 0), _PICTURE_WAIT_S)
        if picture is None:
            return Response(status_code=204)
        return Response(picture.jpeg, headers={"Content-Type": "image/jpeg", "Edgeclf-Sequence": str(picture.sequence)})

    async def pictures(self, request: Request) -> Response:
        camera = self._camera(request)
        return self._stream(request, self._parts(camera), f"multipart/x-mixed-replace; boundary={_BOUNDARY}")

    async def figures(self, request: Request) -> Response:
        return self._stream(request, self._messages(), "text/event-stream")

    async def _parts(self, camera: CameraState) -> AsyncGenerator[bytes, None]:
        shown = 0
        # A browser shows a part when the boundary behind it arrives, so that is sent along.
        yield f"--{_BOUNDARY}\r\n".encode()
        while not self._state.closing:
            picture = await self._pictures.newer(camera, shown, _PICTURE_WAIT_S)
            if picture is None:
                continue
            shown = picture.sequence
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\n\r\n"
            yield head.encode() + picture.jpeg + f"\r\n--{_BOUNDARY}\r\n".encode()

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        state = self._state
        events = state.events()
        sent = events[-1]["id"] if events else 0
        model = state.model
        yield _message("hello", {**self._figures(seconds=10**6), "model": model, "events": events})
        while not state.closing:
            changed = partial(_differs, state, _progress(state))
            await asyncio.sleep(_FIGURES_INTERVAL_S)
            await wait_until(changed, _FIGURES_AT_LEAST_EVERY_S)
            for event in state.events(after=sent):
                sent = event["id"]
                yield _message("event", event)
            if (now := state.model) != model:
                model = now
                yield _message("model", model)
            yield _message("status", self._figures(seconds=_SECONDS_IN_A_MESSAGE))

    def _figures(self, seconds: int) -> dict[str, Any]:
        state = self._state
        now_s = state.now_s
        cameras = [
            {**status, "seconds": camera.seconds(seconds, int(now_s))}
            for camera, status in zip(state.cameras, state.status(), strict=False)
        ]
        return {"now_s": round(now_s, 3), "cameras": cameras}

    def _stream(self, request: Request, content: AsyncGenerator[bytes, None], media_type: str) -> Response:
        headers = {"Content-Type": media_type}
        if request.method == "HEAD":
            return Response(headers=headers)
        if self._streams >= _MOST_STREAMS:
            raise HTTPException(503, f"{_MOST_STREAMS} streams are open; close one", {"Retry-After": "5"})

        async def counted() -> AsyncIterator[bytes]:
            self._streams += 1
            try:
                async with contextlib.aclosing(content) as chunks:
                    async for chunk in chunks:
                        yield chunk
            finally:
                self._streams -= 1

        return StreamingResponse(counted(), headers=headers)

    def _camera(self, request: Request) -> CameraState:
        text: str = request.path_params["number"]
        cameras = self._state.cameras
        number = _decimal(text)
        if number is None or number >= len(cameras):
            raise HTTPException(404, f"there is no such camera; /api/status lists {len(cameras)}")
        return cameras[number]


def _progress(state: PreviewState) -> list[int]:
    """Changes with every result and event."""
    return [state.last_event, *(camera.sequence for camera in state.cameras)]


def _differs(state: PreviewState, before: list[int]) -> bool:
    return state.closing or _progress(state) != before


def _message(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json_line(document)}\n\n".encode()


def _number(request: Request, name: str, otherwise: int) -> int:
    number = _decimal(request.query_params.get(name, str(otherwise)))
    if number is None:
        raise HTTPException(400, f"bad {name}: expected a number")
    return number


def _decimal(text: str) -> int | None:
    """Digits as a number; None for any other text, and for more of them than any number here has."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


class _Json(JSONResponse):
    """As `JSONResponse`, for any text: names of files need not be Unicode."""

    def render(self, content: object) -> bytes:
        """The body."""
        return json_line(content).encode()


def _file(name: str, media_type: str) -> Endpoint:
    body = files("edgeclf.toolkit.serve").joinpath("page", name).read_bytes()

    async def serve(_request: Request) -> Response:
        return Response(body, media_type=media_type)

    return serve


async def _plain_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - that is what it is registered for
    return _Json({"error": error.detail}, error.status_code, error.headers)


def _say_bug_once() -> Callable[[Request, Exception], Awaitable[Response]]:
    said: set[type] = set()

    async def answer(_request: Request, error: Exception) -> Response:
        # Requests repeat several times a second; the log has each kind of bug once.
        if type(error) not in said:
            said.add(type(error))
            traceback.print_exception(error, file=sys.stderr)
            sys.stderr.write("warning: the preview has a bug; please report the lines above\n")
        # Starlette raises the exception again and the server closes the connection, so clients must not reuse it.
        return _Json({"error": "a bug in the preview; its log has more"}, 500, {"Connection": "close"})

    return answer
