"""Webhook: a sink that posts every event to a URL."""

import base64
import http.client
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.live.masking import masked
from edgeclf.toolkit.events.background_sink import BackgroundSink, SinkError

_TIMEOUT_S = 5.0
# Before each further attempt; an event that none of these delivers is counted as failed.
_RETRY_PAUSES_S = (0.5, 1.0, 2.0)


def webhook_sink(url: str, warn: Callable[[str], None]) -> BackgroundSink:
    """A sink that posts each event as JSON, in order, with four attempts; a redirect counts as a failure.

    Args:
        url: An http or https URL; its user name and password are sent as Basic authentication.
        warn: See `BackgroundSink`.

    Raises:
        UsageError: The URL is no http or https URL.
    """
    bare_url, headers = _request_of(url)
    opener = urllib.request.build_opener(_NoRedirect)

    def post(event: Mapping[str, Any], closing: threading.Event) -> None:
        data = json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace")
        request = urllib.request.Request(bare_url, data, headers, method="POST")  # noqa: S310 - http or https
        for pause_s in (*_RETRY_PAUSES_S, None):
            failure, may_pass = _post_once(opener, request)
            if failure is None:
                return
            if not may_pass or pause_s is None or closing.wait(pause_s):
                raise SinkError(failure)

    return BackgroundSink("webhook", post, 1, warn)


def _request_of(url: str) -> tuple[str, dict[str, str]]:
    """A URL without user and password, and the headers, which carry them as Basic authentication."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise UsageError(
            f"cannot post to {masked(url)!r}", expected="an http:// or https:// URL", hint="check --webhook"
        )
    headers = {"Content-Type": "application/json", "User-Agent": "edgeclf"}
    if parts.username is not None:
        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), headers


def _post_once(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> tuple[str | None, bool]:
    """The cause of a failure, None for a success; and whether another attempt may succeed."""
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            response.read(1024)
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code} {error.reason}".strip(), error.code >= 500 or error.code in {408, 429}
    except http.client.HTTPException as error:
        return f"no HTTP answer ({type(error).__name__})", True
    except (OSError, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        return str(cause) or type(cause).__name__, True
    return None, False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would arrive as a GET without the event."""

    def redirect_request(self, *_: object) -> None:
        return None
