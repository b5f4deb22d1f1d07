"""Receivers of events: a URL that gets a POST, a command that is run."""

import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.live.camera import masked
from edgeclf.toolkit.events.event_log import BackgroundDelivery, DeliveryError

_TIMEOUT_S = 10.0
# Before each further attempt of a webhook; an event that none of these delivers is counted as failed.
_RETRY_PAUSES_S = (0.5, 1.0, 2.0)
_COMMANDS_AT_ONCE = 2


def webhook(url: str, on_trouble: Callable[[str], None]) -> BackgroundDelivery:
    """Posts each event as JSON, in order, with four attempts; a redirect counts as a failure.

    Raises:
        UsageError: It is no http or https URL.
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
                raise DeliveryError(failure)

    return BackgroundDelivery("webhook", post, 1, on_trouble)


def _request_of(url: str) -> tuple[str, dict[str, str]]:
    """A URL without user and password, and the headers, which carry them as Basic authentication."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise UsageError(f"cannot post to {masked(url)!r}", expected="an http:// or https:// URL", do="check --webhook")
    headers = {"Content-Type": "application/json", "User-Agent": "edgeclf"}
    if parts.username is not None:
        import base64

        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), headers


def _post_once(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> tuple[str | None, bool]:
    """Why a request failed, None where it did not; and whether that may pass."""
    try:
        with opener.open(request, timeout=_TIMEOUT_S / 2) as response:
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
    """A redirected POST would arrive as a GET without the event."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401
        return None


def command(text: str, on_trouble: Callable[[str], None]) -> BackgroundDelivery:
    """Runs a command for each event, without a shell: JSON on stdin, and `EDGECLF_EVENT`, `EDGECLF_LABEL` ... set.

    Two run at once; one that takes longer than ten seconds is killed. Its output goes nowhere.

    Raises:
        UsageError: The text cannot be split into words.
        SourceError: There is no such program.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError("bad --on-event", got=f"{text!r} ({error})", expected="a command and its arguments") from error
    if not words:
        raise UsageError("bad --on-event", got="nothing", expected="a command and its arguments")
    if shutil.which(words[0]) is None:
        raise SourceError(
            f"cannot run {words[0]}", got="no such program", expected="one that can be executed", do="check --on-event"
        )

    def run(event: Mapping[str, Any], closing: threading.Event) -> None:
        line = json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            # A group of its own: what it starts ends with it, and Ctrl-C in the terminal is not its business.
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_variables(event)},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise DeliveryError(str(error)) from error
        deadline_s = time.monotonic() + _TIMEOUT_S
        with process:
            while True:
                try:
                    process.communicate(line, timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    line = b""  # communicate goes on with what it was given first
                    if time.monotonic() < deadline_s and not closing.is_set():
                        continue
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    why = "the run ended" if closing.is_set() else f"more than {_TIMEOUT_S:g} s"
                    raise DeliveryError(f"{words[0]} killed: {why}") from None
        if process.returncode:
            raise DeliveryError(f"{words[0]} ended with {process.returncode}")

    return BackgroundDelivery("command", run, _COMMANDS_AT_ONCE, on_trouble)


def _variables(event: Mapping[str, Any]) -> dict[str, str]:
    """An event's plain fields as environment variables."""
    return {
        f"EDGECLF_{name.upper()}": str(value).replace("\0", "")
        for name, value in event.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
