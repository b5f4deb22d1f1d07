"""Addresses that the preview listens at, their sockets, and the access token."""

import errno
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from edgeclf.runtime.errors import UnavailableError, UsageError

TOKEN_VARIABLE = "EDGECLF_SERVE_TOKEN"  # noqa: S105 - the name of a variable, not a secret
_ADDRESS = re.compile(r"(?:(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<host>[^:\[\]/@\s]*)):)?(?P<port>[0-9]{1,5})")
_HOST = re.compile(r"(?!-)[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_LOOPBACK_NAMES = ("", "localhost")
_HINT = "use :8080, 127.0.0.1:8080 or 0.0.0.0:8080"


@dataclass(frozen=True)
class Target:
    """One socket address to listen at.

    Attributes:
        family: `socket.AF_INET` or `socket.AF_INET6`.
        place: Argument of `socket.bind`.
    """

    family: int
    place: tuple[str | int, ...]

    @property
    def host(self) -> str:
        """The numeric address."""
        return str(self.place[0])

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        address = ipaddress.ip_address(self.host.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


@dataclass(frozen=True)
class Address:
    """A preview's address, resolved but not yet bound.

    Attributes:
        text: The address as it was given.
        host: Its host in lower case; empty for none.
        targets: Socket addresses to listen at; all but the first may fail.
    """

    text: str
    host: str
    targets: tuple[Target, ...]

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        return all(target.is_loopback for target in self.targets)


def parse_address(text: str) -> Address:
    """The address that `[HOST]:PORT` or `PORT` names; without a host, or for localhost, this machine alone.

    Raises:
        UsageError: The text is no such address.
        UnavailableError: The host's name is not known.
    """
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"]) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise UsageError(
            "bad --serve", got=repr(text), expected="HOST:PORT or :PORT, ports from 0 to 65535", hint=_HINT
        )
    host = match["host"] or match["ipv6"] or ""
    if match["ipv6"] is None and host.lower() in _LOOPBACK_NAMES:
        return Address(
            text, "", (Target(socket.AF_INET, ("127.0.0.1", port)), Target(socket.AF_INET6, ("::1", port, 0, 0)))
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # The codec for names of hosts raises UnicodeError, for one that is too long.
    except (OSError, UnicodeError) as error:
        raise UnavailableError(
            f"cannot serve on {text}",
            got=f"host {host!r}, which is not known",
            expected="a name or address",
            hint=_HINT,
        ) from error
    targets = [
        Target(int(family), place)
        for family, _, _, _, place in found
        if family in {socket.AF_INET, socket.AF_INET6} and isinstance(place[0], str)
    ]
    # A name may stand for several addresses, and a resolver may return one twice.
    return Address(text, host.lower(), tuple(dict.fromkeys(targets)))


def parse_host(text: str) -> str:
    """The name or address of a host, as `Host` headers have it: in lower case, IPv6 in brackets, without a port.

    Raises:
        UsageError: The text is none.
    """
    host = text.lower()
    try:
        if ipaddress.ip_address(host.strip("[]")).version == 6:
            return f"[{host.strip('[]')}]"
    except ValueError:
        if not _HOST.fullmatch(host):
            raise UsageError(
                "bad --serve-host",
                got=repr(text),
                expected="the name of a host, such as cameras.example.org, without http:// and port",
            ) from None
    return host


def listen(address: Address) -> list[socket.socket]:
    """Listening sockets of the address: the first target's and, on the same port, those of the others that work.

    Raises:
        UnavailableError: The port is taken or not permitted, or this machine has no such address.
    """
    first, *others = address.targets
    try:
        sockets = [_listen_at(first, int(first.place[1]))]
    except OSError as error:
        got, hint = {
            errno.EADDRINUSE: ("a port that another program uses", "choose another port, or :0 for any free one"),
            errno.EADDRNOTAVAIL: (f"{first.host}, which is no address of this machine", _HINT),
            errno.EACCES: ("a port that this user may not take", "choose one above 1023"),
        }.get(error.errno or 0, (error.strerror or str(error), _HINT))
        raise UnavailableError(f"cannot serve on {address.text}", got=got, hint=hint) from error
    port = sockets[0].getsockname()[1]
    for target in others:
        # IPv6 may be switched off; the first address is enough.
        try:
            sockets.append(_listen_at(target, port))
        except OSError:
            continue
    return sockets


def _listen_at(target: Target, port: int) -> socket.socket:
    opened = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        # Otherwise a restart within a minute finds the port taken by its own closed connections.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((target.host, port, *target.place[2:]))
        # Now, not when the server starts: with the option above, only listen() fails on a taken port.
        opened.listen(128)
    except OSError:
        opened.close()
        raise
    opened.setblocking(False)
    return opened


@dataclass(frozen=True)
class Token:
    """The access token of a preview.

    Attributes:
        value: The secret that requests must carry; None where they need none.
        is_generated: Whether it was made here and is to be printed.
    """

    value: str | None
    is_generated: bool = False


def choose_token(option: str | None, environment: Mapping[str, str], address: Address) -> Token:
    """The token from `--serve-token` or the environment; `auto` makes a new one.

    Raises:
        UsageError: Other machines could reach the address and there is none, or it cannot be sent in a header.
    """
    value = environment.get(TOKEN_VARIABLE) if option is None else option
    if option is None and not value:
        if address.is_loopback:
            return Token(None)
        raise UsageError(
            f"cannot serve on {address.text} without a token",
            got="an address that other machines reach",
            expected=f"--serve-token TOKEN or the environment variable {TOKEN_VARIABLE}",
            hint="pass --serve-token auto for a new one, or serve on a port alone for this machine only",
        )
    if value == "auto":
        return Token(secrets.token_urlsafe(24), is_generated=True)
    if not value or not re.fullmatch(r"[!-~]+", value):
        raise UsageError(
            "bad serve token",
            got="an empty text" if not value else "spaces or signs outside ASCII",
            expected="letters, digits and ASCII punctuation",
            hint="pass --serve-token auto for a new one",
        )
    return Token(value)


def visitor_host(opened: socket.socket) -> str:
    """Host for a URL of a listening socket; the machine's own address for a socket that listens at every one."""
    host = str(opened.getsockname()[0])
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = _own_address(opened.family) or socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _own_address(family: int) -> str | None:
    """This machine's address on its way to other machines, found without sending anything; None where there is none."""
    somewhere = ("2001:db8::1", 9) if family == socket.AF_INET6 else ("192.0.2.1", 9)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(somewhere)
            return str(probe.getsockname()[0])
    except OSError:
        return None
