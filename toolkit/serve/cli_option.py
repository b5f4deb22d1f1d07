"""The options `--serve`, `--serve-token` and `--serve-host`, and the preview they start. Light: every `--help` imports this module."""

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from edgeclf.runtime import Classifier
    from edgeclf.runtime.live.source import CameraSource
    from edgeclf.toolkit.serve.state import PreviewState

ServeOption = Annotated[
    str | None,
    typer.Option(
        "--serve",
        help="Show cameras on a web page at [HOST]:PORT, with JSON, health and metrics. Without a host, to this "
        'machine alone. Needs pip install "edgeclf[serve]".',
        show_default=False,
    ),
]
ServeTokenOption = Annotated[
    str | None,
    typer.Option(
        "--serve-token",
        help="The token that every request must carry; needed for a host that others reach. auto makes one and prints it. "
        "A list of processes shows the option; the variable EDGECLF_SERVE_TOKEN stays hidden.",
        show_default=False,
    ),
]
ServeHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--serve-host",
        help="A name under which a proxy before the page is reached; may be repeated. Only these and this machine's own are "
        "answered. Without the option, a page for this machine alone answers to its own names, one for others to any.",
        metavar="NAME",
        show_default=False,
    ),
]

# Of a camera of few frames, so many of these without a result are a silence.
_MISSED_FRAMES = 3


def preview_of(
    classifier: "Classifier",
    cameras: "Sequence[CameraSource]",
    serve: str | None,
    token: str | None,
    hosts: "list[str] | None",
    *,
    max_fps: float | None = None,
) -> "AbstractContextManager[PreviewState | None]":
    """The preview that `--serve` asks for, to run while cameras are classified; yields None without `--serve`.

    Args:
        classifier: The model; another session may take its place while it runs.
        cameras: The cameras.
        serve: Value of `--serve`.
        token: Value of `--serve-token`.
        hosts: Values of `--serve-host`.

        max_fps: Frames of a camera classified per second at most; None for no limit. Fewer than one in some seconds are no
            silence.

    Raises:
        UsageError: `--serve-token` or `--serve-host` without `--serve`; on entering, see `preview_server`.
    """
    from edgeclf.runtime.errors import UsageError

    if serve is None:
        for option, given in (("--serve-token", token), ("--serve-host", hosts or None)):
            if given is not None:
                raise UsageError(
                    f"{option} without --serve", expected="both", hint="add --serve :8080, or leave it out"
                )
        return contextlib.nullcontext()
    from edgeclf.toolkit.serve.server import STALE_AFTER_S, preview_server

    def model() -> "dict[str, Any]":
        session = classifier.session
        return {
            "file": session.path.name,
            "architecture": session.spec.architecture,
            "precision": session.spec.precision,
            "provider": session.provider,
            "labels": list(session.spec.labels),
        }

    return preview_server(
        serve,
        token,
        model=model,
        hosts=hosts or (),
        cameras=[camera.name for camera in cameras],
        stale_after_s=max(STALE_AFTER_S, 0.0 if max_fps is None else _MISSED_FRAMES / max_fps),
    )
