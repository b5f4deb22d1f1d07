"""Addresses as they are shown: without passwords, tokens and stream keys, wherever in a URL these stand.

What is shown goes into records, logs, events, webhooks, status pages and metrics, which outlive a camera's password. So the rule is
not which words mean a secret, but which are known to mean none: a value is shown where its name says what it is - a channel, a size, a
rate - and it is short. Escapes such as %3D count as the sign that they stand for.
"""

import http.client
import re
from urllib.parse import quote, unquote

_MASK = "***"
# Host and port with a query behind them, in which an @ may stand; and a password with a slash in it: no port is one.
_HOST_AND_QUERY = re.compile(r"[^:@]*(:\d+)?[?#]")
_SLASH_IN_PASSWORD = re.compile(r"[^/@:\[]+:(?!\d*(?:[/?#]|$))[^@]*@")
# A port, or a password that begins with digits and a slash: of two meanings the one that is a secret is shown as one.
_PORT_OR_PASSWORD = re.compile(r"[^/@:\[?#]+:\d+/[^?#]*@")
_BAD_PORT = re.compile(r"^(\[[^\]]*\]|[^:\[]*):(?!\d*$).+$", re.DOTALL)
# What stands behind one of these in a path: /user/admin/password/it/stream, /token_it.
_NAMES_OF_SECRETS = frozenset(
    [
        *("user", "usr", "username", "login", "admin", "root"),
        *("password", "passwd", "passwort", "passphrase", "pass", "pwd", "psw", "pw"),
        *("token", "tok", "accesstoken", "key", "apikey", "streamkey", "auth", "secret", "sig", "signature"),
    ]
)
_SECRET_IN_SEGMENT = re.compile(
    rf"(?:^|.*?[-_.])(?:{'|'.join(sorted(_NAMES_OF_SECRETS, key=len, reverse=True))})[-_.](?=.)",
    re.IGNORECASE | re.DOTALL,
)
# Behind one of these nothing tells what a part of a path says, as in /user=me_password=it_channel=1; also written as an escape.
_SIGN = re.compile(r"[=:;|&,?#\\ @]|%(?:2[03565CcFf]|3[AaBbDdFf]|40|5[Cc]|7[Cc])")
_LIKE_ADDRESS = re.compile(
    r"[^/]*://|(?:https?|rtsps?|rtmps?|udp|tcp|ftp|srt|onvif):|[^/\\]{2,}:.*@", re.IGNORECASE | re.DOTALL
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
# A word, a word and a number, or numbers: main, Onvif, h264, 1, 640x480, 29.97.
_HARMLESS_VALUE = re.compile(r"[A-Za-z]{0,12}|[A-Za-z]{1,8}\d{1,4}|\d{1,6}(?:[x.]\d{1,6})?[A-Za-z]?")
# Letters and digits in one word as long as keys are.
_KEY = re.compile(r"(?=.*[A-Za-z])(?=.*\d)[A-Za-z0-9_~.+=-]{16,}")
_LONG_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_~+=-]{24,}")


def masked(url: str) -> str:
    """A URL without what may be secret in it; text that is no URL stays as it is.

    Masked are the password; a port that is none; a user without one who looks like a key; in the path all before a last `@`, what stands
    behind `password/`, `token_` and their like, behind `=`, `:` and other signs, and what looks like a key; values of the query
    that are not known to be harmless; the fragment; and behind `rtmp://host/app/` all.
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
    name = _MASK if _looks_like_key(name) else _cut_at_sign(name)
    host, path, query, fragment = parts.groups(default="")
    host = _BAD_PORT.sub(rf"\1:{_MASK}", host)
    if not host.startswith("[") and re.search(r"[:@]", unquote(host.removeprefix("@").partition(":")[0])):
        host = f"@{_MASK}" if host.startswith("@") else _MASK
    shown = _masked_path(path.split("/"), has_key=scheme.lower() in {"rtmp", "rtmps"})
    text = f"{scheme}://{name}{colon}{_MASK if colon else ''}{host}{'/'.join(shown)}"
    if query:
        text += "?" + re.sub(r"[^&;]+", lambda pair: _masked_pair(pair[0]), query[1:])
    return text + (f"#{_MASK}" if len(fragment) > 1 else fragment)


def masked_attempt(text: str) -> str:
    """Text that was to be an address, or the path of a file that is not there; the latter is shown as it is."""
    if "://" in text:
        return masked(text)
    is_suspect = re.search(r"[@?=]", text) is not None or looks_like_address(text)
    return masked(f"x://{text}").removeprefix("x://") if is_suspect else text


def http_failure(code: int) -> str:
    """The status of an answer as a phrase of its standard: a server's own words may hold the address, and any text at all."""
    return f"HTTP {code} {http.client.responses.get(code, '')}".strip()


def looks_like_address(text: str) -> bool:
    """Whether text was to be a URL, and not a path: by its scheme, or by a user and a password; one letter is a drive."""
    return _LIKE_ADDRESS.match(text) is not None


def _masked_path(segments: list[str], *, has_key: bool) -> list[str]:
    """The parts of a path; with `has_key`, stream keys follow the application of an RTMP server, its first part."""
    # Before an @ stand a user and a password, with slashes in it or not, of an address within this one, say.
    before_at = max((place for place, segment in enumerate(segments) if "@" in unquote(segment)), default=0)
    # The first is the empty one before the slash.
    public = 2 if has_key else len(segments)
    return [
        _MASK if segment and (place <= before_at or place >= public) else _masked_segment(segment, before)
        for place, (segment, before) in enumerate(zip(segments, ["", *segments], strict=False))
    ]


def _masked_segment(segment: str, before: str) -> str:
    if not segment:
        return segment
    if re.sub(r"[-_]", "", unquote(before)).lower() in _NAMES_OF_SECRETS or _looks_like_key(segment):
        return _MASK
    cut = _cut_at_sign(segment)
    found = _SECRET_IN_SEGMENT.match(unquote(cut))
    return cut if found is None else f"{quote(found[0], safe='')}{_MASK}"


def _cut_at_sign(text: str) -> str:
    """Text up to the first sign behind which a secret may follow."""
    found = _SIGN.search(text)
    return text if found is None or found.end() == len(text) else f"{text[: found.end()]}{_MASK}"


def _masked_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    is_known = re.sub(r"[-_]", "", name).lower() in _HARMLESS and _HARMLESS_VALUE.fullmatch(value) is not None
    if is_known:
        return pair
    # A word by itself may be a key.
    return f"{_cut_at_sign(name)}={_MASK}" if equals and not _looks_like_key(name) else _MASK


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
