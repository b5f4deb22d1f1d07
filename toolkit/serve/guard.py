"""Access control of the preview: the host that a request names, and the token."""

import hashlib
import hmac
from collections.abc import Collection, Iterator
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    # The page's own files and nothing else: no inline script or style, nothing from elsewhere, in no frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: security headers on every answer, and refusal of requests without access.

    Args:
        app: The application behind.
        token: Token that a request must carry; None for none.
        hosts: Hosts that a request may name; None for any. A page of another site whose name is made to point at this
            machine (DNS rebinding) names that site.
        port: Port of the server, which keeps the cookies of several previews on this machine apart.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Collection[str] | None, port: int) -> None:
        self._app = app
        self._hosts = hosts
        self._token = None if token is None else token.encode("ascii")
        self._cookie = f"edgeclf_preview_{port}"
        # Browsers send the cookie to every port of this machine, so it must not hold the token itself.
        self._pass = None if self._token is None else hmac.new(self._token, b"edgeclf preview", hashlib.sha256)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with a refusal or a redirect, or passes the request to the application."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._refusal_or_redirect(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal_or_redirect(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and _host_of(headers) not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return PlainTextResponse(
                f"this preview answers to {names} only; --serve-host allows the name of a proxy\n", 400
            )
        if self._token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in query if key == "token"]
        if given and scope["method"] == "GET":
            return self._admit(scope, headers, query) if all(map(self._is_token, given)) else _refused()
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(credentials.strip()):
            return None
        return None if any(map(self._is_pass, _cookies(headers, self._cookie))) else _refused()

    def _admit(self, scope: Scope, headers: Headers, query: list[tuple[str, str]]) -> Response:
        """Sets the cookie, and sends the browser to the address without the token, which it then keeps in no history."""
        assert self._pass is not None  # noqa: S101 - for the type checker: there is a token
        others = urlencode([(key, value) for key, value in query if key != "token"])
        # Relative, which names no other host and holds where a proxy has a path of its own before this one.
        path = "./" + quote(scope["path"].rpartition("/")[2])
        answer = Response(status_code=303, headers={"Location": f"{path}?{others}" if others else path})
        # As a proxy with TLS says of itself; whoever lies about it keeps his own browser out.
        is_encrypted = headers.get("x-forwarded-proto", "").lower() == "https"
        answer.set_cookie(self._cookie, self._pass.hexdigest(), httponly=True, samesite="strict", secure=is_encrypted)
        return answer

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token)

    def _is_pass(self, given: str) -> bool:
        return self._pass is not None and hmac.compare_digest(given.encode(), self._pass.hexdigest().encode())


def _refused() -> Response:
    return PlainTextResponse(
        "401: this preview needs its token; open the address with ?token=TOKEN, or send Authorization: Bearer TOKEN\n",
        401,
        {"WWW-Authenticate": "Bearer"},
    )


def _host_of(headers: Headers) -> str:
    """The host that a request names, in lower case, without its port."""
    host = headers.get("host", "").lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and (":" not in name or name.endswith("]")) else host


def _cookies(headers: Headers, name: str) -> Iterator[str]:
    for line in headers.getlist("cookie"):
        try:
            morsel = SimpleCookie(line).get(name)
        except CookieError:
            continue
        if morsel is not None:
            yield morsel.value
