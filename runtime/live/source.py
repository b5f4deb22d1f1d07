"""A camera's identity - the text given, the source opened, the name shown - computed once, where the text arrives."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.images.video import VIDEO_SUFFIXES

URL_SCHEMES = ("http://", "https://", "rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*(?=@)")


@dataclass(frozen=True)
class CameraSource:
    """One camera's identity.

    Attributes:
        text: The source as it was given.
        opened: What is opened: a device index, a device path or URL, or the path of a video file.
        name: The source for people, records, events and metrics: `text` with a URL's password masked.
    """

    text: str
    opened: int | str | Path
    name: str


def parse_camera(source: int | str | Path | CameraSource) -> CameraSource:
    """The camera that an index, device path, URL or file names; a `CameraSource` is returned unchanged.

    Raises:
        SourceError: The text looks like a video file, and there is none.
        UsageError: The text is none of these.
    """
    if isinstance(source, CameraSource):
        return source
    text = str(source)
    return CameraSource(text, _opened(source), masked(text))


def parse_cameras(sources: Sequence[int | str | Path | CameraSource]) -> tuple[CameraSource, ...]:
    """Several cameras of one run, each with a name of its own.

    Two URLs that differ in their passwords only would have one name once these are masked; the later ones get a number.

    Raises:
        SourceError: A text looks like a video file, and there is none.
        UsageError: A text names no camera, or a camera is named twice.
    """
    cameras: list[CameraSource] = []
    for camera in map(parse_camera, sources):
        if camera.opened in [earlier.opened for earlier in cameras]:
            raise UsageError(
                "a camera is named twice", got=", ".join(c.name for c in [*cameras, camera]), expected="different ones"
            )
        name, number = camera.name, 1
        while name in [earlier.name for earlier in cameras]:
            number += 1
            name = f"{camera.name} ({number})"
        cameras.append(replace(camera, name=name))
    return tuple(cameras)


def masked(url: str) -> str:
    """A URL without the password in it."""
    return _PASSWORD.sub(r"\1:***", url)


def _opened(source: int | str | Path) -> int | str | Path:
    if isinstance(source, int):
        if source >= 0:
            return source
    elif isinstance(source, str) and source.isdecimal():
        return int(source)
    elif isinstance(source, str) and source.startswith(("/dev/", *URL_SCHEMES)):
        return source
    elif kind_of(source) == "file":
        return Path(source)
    elif Path(source).suffix.lower() in VIDEO_SUFFIXES:
        raise SourceError(
            f"cannot open camera {source}", got="no such file", expected="a video file", hint="check the path"
        )
    raise UsageError(
        f"cannot use {masked(str(source))!r} as a camera",
        expected="a number such as 0, a device such as /dev/video0, an http:// or rtsp:// URL, or a video file",
        hint="name one of these",
    )
