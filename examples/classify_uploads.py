"""A web service that classifies uploads: `uvicorn --factory classify_uploads:app`, MODEL in EDGECLF_MODEL.

    curl --data-binary @photo.jpg http://127.0.0.1:8000/classify
    {"label": "gravel", "confidence": 0.981}

Needs starlette and uvicorn, which `pip install "edgeclf[headless,serve]"` brings. The classifier is opened once, before the
first request; its predictions run in threads, so that other requests are served meanwhile. What is no picture is answered
with 422 and the reason, and what is too large with 413.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from edgeclf.runtime import Classifier, ImageError

MOST_BYTES = 32 << 20


async def classify(request: Request) -> JSONResponse:
    """The label of the picture that is the request's body."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return JSONResponse({"error": f"more than {MOST_BYTES} bytes"}, status_code=413)
    try:
        prediction = await asyncio.to_thread(request.app.state.classifier.predict, bytes(body))
    except ImageError as error:
        return JSONResponse({"error": str(error)}, status_code=422)
    return JSONResponse({"label": prediction.label, "confidence": round(prediction.confidence, 3)})


@contextlib.asynccontextmanager
async def _opened(service: Starlette) -> AsyncIterator[None]:
    with Classifier(os.environ["EDGECLF_MODEL"]) as classifier:
        service.state.classifier = classifier
        yield


def app() -> Starlette:
    """The service."""
    return Starlette(routes=[Route("/classify", classify, methods=["POST"])], lifespan=_opened)
