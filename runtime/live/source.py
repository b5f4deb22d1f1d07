"""A camera's identity - the text given, the source opened, the name shown - computed once, where the text arrives."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.images.video import VIDEO_SUFFIXES
from edgeclf.runtime.live.masking import credentials_of, masked, masked_attempt

URL_SCHEMES = ("http://", "https://", "rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://")
# Schemes of streams that are listened for, on any of this machine's addresses.
_HOSTLESS = frozenset(("udp", "tcp"))
# Where a password goes in a URL.
_PLACE = "{password}"
# A percent sign that begins no escape.
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class CameraSource:
    """One camera's identity.

    Attributes:
        text: The source as it was given.
        opened: What is opened: a device index, a device path, a URL with its scheme in small letters and its user and
            password escaped, or the path of a video file.
        name: The source for people, records, events and metrics: `text` with what may be secret in a URL masked.
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


def parse_cameras(
    sources: Sequence[int | str | Path | CameraSource], passwords: Sequence[str] = ()
) -> tuple[CameraSource, ...]:
    """Several cameras of one run, each with a name of its own.

    URLs that differ in what is masked alone would have one name; the later ones get a number.

    Args:
        sources: As for `parse_camera`; a URL with a user and no password, or with `{password}` in it, takes one.
        passwords: One for all URLs that take one, or one for each, in their order; none where they have theirs.

    Raises:
        SourceError: A text looks like a video file, and there is none.
        UsageError: A text names no camera, a camera is named twice, there is another number of passwords than URLs that take
            one, or none for a URL with `{password}` in it.
    """
    cameras: list[CameraSource] = []
    for camera in _with_passwords(sources, passwords):
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


def _with_passwords(
    sources: Sequence[int | str | Path | CameraSource], passwords: Sequence[str]
) -> Iterator[CameraSource]:
    takers = [place for place, source in enumerate(sources) if takes_password(source)]
    if passwords and (not takers or len(passwords) not in {1, len(takers)}):
        raise UsageError(
            "passwords do not go with the cameras",
            got=f"{len(passwords)} for {len(takers)} addresses that take one",
            expected="one for all, or one for each address with user@ or {password} in it, such as rtsp://user@host/live",
            hint="write the user without a password into the address",
        )
    for place, source in enumerate(sources):
        if passwords and place in takers:
            password = passwords[takers.index(place) if len(passwords) > 1 else 0]
            text = str(source)
            yield replace(parse_camera(_filled(text, password)), text=text, name=masked(text))
            continue
        if isinstance(source, str) and "://" in source and _PLACE in source:
            raise UsageError(
                f"no password for {masked(source)}",
                expected=f"one in the place of {_PLACE}",
                hint="give --camera-password-file, or the variable EDGECLF_CAMERA_PASSWORD",
            )
        yield parse_camera(source)


def takes_password(source: int | str | Path | CameraSource) -> bool:
    """Whether a source is a URL with a user and no password, or with `{password}` in it."""
    if not isinstance(source, str) or "://" not in source:
        return False
    user = credentials_of(source.partition("://")[2])
    return _PLACE in source or (bool(user) and ":" not in user)


def _filled(text: str, password: str) -> str:
    escaped = quote(password, safe="")
    if _PLACE in text:
        return text.replace(_PLACE, escaped)
    scheme, mark, rest = text.partition("://")
    user = credentials_of(rest)
    return f"{scheme}{mark}{user}:{escaped}{rest[len(user) :]}"


def _url(text: str) -> str | None:
    """A URL that every library reads alike; None where the text is none of a camera's."""
    scheme, mark, rest = text.partition("://")
    if not mark or f"{scheme.lower()}://" not in URL_SCHEMES:
        return None
    credentials = credentials_of(rest)
    user, colon, password = credentials.partition(":")
    url = f"{scheme.lower()}://{_escaped(user)}{colon}{_escaped(password)}{rest[len(credentials) :]}"
    try:
        parts = urlsplit(url)
        is_usable = (parts.port or 0) >= 0 and bool(parts.hostname or scheme.lower() in _HOSTLESS)
    except ValueError:  # a port or brackets that cannot be
        is_usable = False
    return url if is_usable else None


def _escaped(part: str) -> str:
    # What is escaped already stays so.
    return quote(_BARE_PERCENT.sub("%25", part), safe="%!$&'()*+,;=")


def _opened(source: int | str | Path) -> int | str | Path:
    if isinstance(source, int):
        if source >= 0:
            return source
    elif isinstance(source, str) and source.isdecimal():
        return int(source)
    elif isinstance(source, str) and source.startswith("/dev/"):
        return source
    elif isinstance(source, str) and (url := _url(source)) is not None:
        return url
    elif kind_of(source) == "file":
        return Path(source)
    elif Path(source).suffix.lower() in VIDEO_SUFFIXES:
        raise SourceError(
            f"cannot open camera {masked_attempt(str(source))}",
            got="no such file",
            expected="a video file",
            hint="check the path",
        )
    raise UsageError(
        f"cannot use {masked_attempt(str(source))!r} as a camera",
        expected="a number such as 0, a device such as /dev/video0, an http:// or rtsp:// URL, or a video file",
        hint="name one of these",
    )
