"""Addresses as they are shown: without passwords, tokens and stream keys, wherever in a URL these stand.

What is shown goes into records, logs, events, webhooks, status pages and metrics, which outlive a camera's password. So the rule is
not which words mean a secret, but which are known to mean none: a value is shown where its name says what it is - a channel, a size, a
rate - and it is short.
"""

import re

_MASK = "***"
# Host and port with a query behind them, in which an @ may stand; and a password with a slash in it: no port is one.
_HOST_AND_QUERY = re.compile(r"[^:@]*(:\d+)?[?#]")
_SLASH_IN_PASSWORD = re.compile(r"[^/@:\[]+:(?!\d*(?:[/?#]|$))[^@]*@")
# A port, or a password that begins with digits and a slash: of two meanings the one that is a secret is shown as one.
_PORT_OR_PASSWORD = re.compile(r"[^/@:\[?#]+:\d+/[^?#]*@")
_BAD_PORT = re.compile(r"^(\[[^\]]*\]|[^:\[]*):(?!\d*$).+$", re.DOTALL)
# What stands behind one of these in a path: /user/admin/password/it/stream.
_NAMES_OF_SECRETS = frozenset(
    ["user", "usr", "username", "login", "password", "passwd", "pass", "pwd", "pw", "token", "key", "auth", "secret"]
)
# Host and port, path, query, fragment (RFC 3986, appendix B).
_PARTS = re.compile(r"([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
# Names of values that tell cameras and streams apart, in small letters without `-` and `_`.
_HARMLESS = frozenset(
    [
        "camera",
        "cam",
        "channel",
        "ch",
        "chn",
        "stream",
        "streamid",
        "streamtype",
        "subtype",
        "profile",
        "index",
        "input",
        "track",
        "codec",
        "videocodec",
        "format",
        "type",
        "resolution",
        "res",
        "size",
        "width",
        "height",
        "fps",
        "framerate",
        "rate",
        "quality",
        "compression",
        "bitrate",
        "transport",
        "proto",
        "unicast",
        "multicast",
        "tcp",
        "udp",
        "timeout",
        "overrun",
        "listen",
        "nodelay",
        "enablesrtp",
        "audio",
        "video",
        "duration",
        "rotation",
        "mirror",
    ]
)
_HARMLESS_VALUE = re.compile(r"[A-Za-z0-9.:x-]{0,12}")
# Letters and digits in one word as long as keys are.
_KEY = re.compile(r"(?=.*[A-Za-z])(?=.*\d)[A-Za-z0-9_~.+=-]{16,}")
_LONG_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_~+=-]{24,}")


def masked(url: str) -> str:
    """A URL without what may be secret in it; text that is no URL stays as it is.

    Masked are the password; a port that is none; what stands behind `password/` and its like in the path; a user without one who looks like a key; values of the query that are not known to be
    harmless; the fragment; parts of the path that hold a `=`, or look like keys; and behind `rtmp://host/app/` all.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    user = credentials_of(rest)
    if not user and (found := _PORT_OR_PASSWORD.match(rest)):
        user = found[0][:-1]
    parts = _PARTS.fullmatch(rest, len(user))
    if parts is None:
        raise AssertionError("the expression takes any text")
    name, colon, _ = user.partition(":")
    if _looks_like_key(name):
        name = _MASK
    host, path, query, fragment = parts.groups(default="")
    host = _BAD_PORT.sub(rf"\1:{_MASK}", host)
    segments = path.split("/")
    # The first is the empty one before the slash, the second the application of an RTMP server; stream keys follow.
    public = 2 if scheme.lower() in {"rtmp", "rtmps"} else len(segments)
    shown = [
        _masked_segment(segment, before) if place < public else _MASK
        for place, (segment, before) in enumerate(zip(segments, ["", *segments], strict=False))
    ]
    text = f"{scheme}://{name}{colon}{_MASK if colon else ''}{host}{'/'.join(shown)}"
    if query:
        text += "?" + re.sub(r"[^&;]+", lambda pair: _masked_pair(pair[0]), query[1:])
    return text + (f"#{_MASK}" if len(fragment) > 1 else fragment)


def _masked_segment(segment: str, before: str) -> str:
    if before.lower() in _NAMES_OF_SECRETS and segment:
        return _MASK
    name, equals, _ = segment.partition("=")
    # In paths such as /user=me_password=it_channel=1 nothing tells where a value ends.
    if equals:
        return f"{name}={_MASK}"
    return _MASK if _looks_like_key(segment) else segment


def _masked_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    is_known = re.sub(r"[-_]", "", name).lower() in _HARMLESS and _HARMLESS_VALUE.fullmatch(value) is not None
    if is_known:
        return pair
    # A word by itself may be a key.
    return f"{name}={_MASK}" if equals and not _looks_like_key(name) else _MASK


def _looks_like_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None or _LONG_KEY.fullmatch(text) is not None


def credentials_of(rest: str) -> str:
    """User and password of a URL, from what follows its scheme, whatever characters are in the password; empty for none."""
    slash = rest.find("/")
    head, at, _ = (rest if slash < 0 else rest[:slash]).rpartition("@")
    if at and not _HOST_AND_QUERY.match(head):
        return head
    found = _SLASH_IN_PASSWORD.match(rest)
    return "" if found is None else found[0][:-1]
