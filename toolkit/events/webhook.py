"""Webhook: a sink that posts every event to a URL."""

import base64
import contextlib
import http.client
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.live.masking import http_failure, masked_attempt
from edgeclf.runtime.spec.json_documents import json_line
from edgeclf.toolkit.events.background_sink import BackgroundSink, SinkError

# Of an attempt in all, from looking up the name to the status of the answer.
_DEADLINE_S = 5.0
# For an attempt to end whose connection was cut.
_ENDING_S = 0.5
# Before each further attempt; an event that none of these delivers is counted as failed.
_RETRY_PAUSES_S = (0.5, 1.0, 2.0)


def webhook_sink(url: str, warn: Callable[[str], None]) -> BackgroundSink:
    """A sink that posts each event as JSON, in order, with four attempts; a redirect counts as a failure.

    Args:
        url: An http or https URL; its user name and password are sent as Basic authentication.
        warn: See `BackgroundSink`.

    Raises:
        UsageError: The URL is no http or https URL, or no request can be made of it.
    """
    bare_url, headers = _request_of(url)
    poster = _Poster()

    def post(event: Mapping[str, Any], closing: threading.Event) -> None:
        data = json_line(event).encode()
        request = urllib.request.Request(bare_url, data, headers, method="POST")  # noqa: S310 - http or https
        for pause_s in (*_RETRY_PAUSES_S, None):
            failure, may_pass = poster.post(request)
            if failure is None:
                return
            if not may_pass or pause_s is None or closing.wait(pause_s):
                raise SinkError(failure)

    return BackgroundSink("webhook", post, 1, warn)


def _request_of(url: str) -> tuple[str, dict[str, str]]:
    """A URL without user and password, and the headers, which carry them as Basic authentication."""
    got = None
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"}:
            got = "another URL" if parts.scheme else "no URL"
        elif not parts.hostname or parts.port == 0:
            got = "a host or port that cannot be"
        elif not re.fullmatch(r"[!-~]+", url):
            got = "spaces or signs outside ASCII"
        else:
            # What the connection will do with the name, for every event.
            parts.hostname.encode("idna")
    except ValueError:
        got = "a host or port that cannot be"
    if got is not None:
        raise UsageError(
            f"cannot post to {_shown(url)!r}",
            got=got,
            expected="an http:// or https:// URL, with %20 and the like in place of other signs",
            hint="check --webhook",
        )
    headers = {"Content-Type": "application/json", "User-Agent": "edgeclf"}
    if parts.username is not None:
        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), headers


def _shown(url: str) -> str:
    """What tells webhooks apart, scheme and host: the path of many is what lets them in."""
    found = re.match(r"(?:[^/?#]*://)?[^/?#]*", masked_attempt(url))
    shown = found[0] if found else ""
    return shown if shown == url else f"{shown}/***"


class _Poster:
    """Posts one request after the other, each within a deadline."""

    def __init__(self) -> None:
        # It looks up a name, say, which nothing can end; there is never more than one.
        self._left: _Attempt | None = None

    def post(self, request: urllib.request.Request) -> tuple[str | None, bool]:
        """The cause of a failure, None for a success; and whether another attempt may succeed."""
        if self._left is not None:
            self._left.join(_DEADLINE_S)
            if self._left.is_alive():
                return _no_answer(), True
            self._left = None
        attempt = _Attempt(request)
        outcome = attempt.within(_DEADLINE_S)
        if attempt.is_alive():
            self._left = attempt
        return outcome


class _Attempt(threading.Thread):
    """One post in a thread of its own, which ends, or is left behind, when it takes too long in all.

    The timeout of a socket is for each read, of which there may be many, and for each of a name's addresses; looking the
    name up has none.

    Args:
        request: What is posted.
    """

    def __init__(self, request: urllib.request.Request) -> None:
        super().__init__(name="edgeclf-webhook-post", daemon=True)
        self._request = request
        self._is_over = False
        self._connection: http.client.HTTPConnection | None = None
        self._outcome: tuple[str | None, bool] | None = None
        self._bug: Exception | None = None

    def within(self, seconds: float) -> tuple[str | None, bool]:
        """Starts it; its outcome as of `_Poster.post`, after these seconds at most."""
        self.start()
        self.join(seconds)
        if self.is_alive():
            self._is_over = True
            self._cut()
            self.join(_ENDING_S)
        if self._bug is not None:
            raise self._bug
        return (_no_answer(), True) if self._is_over or self._outcome is None else self._outcome

    def run(self) -> None:
        """Posts."""
        try:
            self._outcome = self._post()
        except Exception as error:  # noqa: BLE001 - raised where the outcome is waited for
            self._bug = error

    def _post(self) -> tuple[str | None, bool]:
        opener = urllib.request.build_opener(_NoRedirect, _HttpHandler(self._opened), _HttpsHandler(self._opened))
        try:
            # The status is the answer: a server that drips the rest is not waited for.
            opener.open(self._request, timeout=_DEADLINE_S).close()
        except urllib.error.HTTPError as error:
            error.close()
            return http_failure(error.code), error.code >= 500 or error.code in {408, 429}
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                return _no_answer(), True
            if isinstance(cause, http.client.HTTPException):
                return f"no HTTP answer ({type(cause).__name__})", True
            return str(cause) or type(cause).__name__, True
        return None, False

    def _opened(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        """A constructor of connections that the deadline ends."""

        def connection(*args: Any, **options: Any) -> http.client.HTTPConnection:  # noqa: ANN401 - those of http.client
            self._connection = opened = kind(*args, **options)
            connect = opened.connect

            def connect_in_time() -> None:
                connect()
                # Nobody waits any more: the event is not delivered when it has been given up.
                if self._is_over:
                    raise TimeoutError

            opened.connect = connect_in_time  # type: ignore[method-assign]
            return opened

        return connection

    def _cut(self) -> None:
        opened = None if self._connection is None else self._connection.sock
        if opened is not None:
            with contextlib.suppress(OSError):
                # Of the socket below TLS, which the thread reads from: that read ends.
                socket.socket.shutdown(opened, socket.SHUT_RDWR)


def _no_answer() -> str:
    return f"no answer within {_DEADLINE_S:g} s"


_Opened: TypeAlias = Callable[[type[http.client.HTTPConnection]], Callable[..., http.client.HTTPConnection]]


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, opened: _Opened) -> None:
        super().__init__()
        self._opened = opened

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._opened(http.client.HTTPConnection), req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, opened: _Opened) -> None:
        super().__init__()
        self._opened = opened

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._opened(http.client.HTTPSConnection), req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would arrive as a GET without the event."""

    def redirect_request(self, *_: object) -> None:
        return None
