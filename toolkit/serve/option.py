"""`--serve` and `--serve-token`: what a command says about them and does with them. Light: every `--help` loads it."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.toolkit.serve.feeds import PreviewFeeds

ServeOption = Annotated[
    str | None,
    typer.Option(
        "--serve",
        help="Show cameras on a web page at [HOST]:PORT, with JSON, health and metrics. Without a host, to this "
        "machine alone.",
        show_default=False,
    ),
]
ServeTokenOption = Annotated[
    str | None,
    typer.Option(
        "--serve-token",
        help="What a browser must know; needed for a host that others reach. auto makes one and prints it. A list of "
        "processes shows it; the variable EDGECLF_SERVE_TOKEN does not.",
        show_default=False,
    ),
]


def preview_of(
    session: "ModelSession", cameras: Sequence[int | str], serve: str | None, token: str | None
) -> "AbstractContextManager[PreviewFeeds | None]":
    """The preview that `--serve` asks for, to run while cameras are classified; gives None where it is not asked for.

    Args:
        session: The model.
        cameras: The cameras, as the user named them.
        serve: Value of `--serve`.
        token: Value of `--serve-token`.

    Raises:
        UsageError: `--serve-token` without `--serve`, or a camera that is none; on entering, see `preview_server`.
    """
    from edgeclf.runtime.errors import UsageError

    if serve is None:
        if token is not None:
            raise UsageError("--serve-token without --serve", expected="both", do="add --serve :8080, or leave it out")
        return contextlib.nullcontext()
    from edgeclf.runtime.live.camera import masked, parse_camera
    from edgeclf.toolkit.serve.server import preview_server

    spec = session.spec
    model = {
        "file": session.path.name,
        "architecture": spec.architecture,
        "precision": spec.precision,
        "provider": session.provider,
        "labels": list(spec.labels),
    }
    names = [masked(str(parse_camera(camera))) for camera in cameras]
    return preview_server(serve, token, model=model, cameras=names)
