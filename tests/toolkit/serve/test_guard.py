"""Who gets an answer: over real connections, to every path and method."""

import http.client
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOKEN = "a-token-of-this-test"
PATHS = [
    "/", "/preview.css", "/preview.js", "/graph.js", "/icon.svg", "/api/status", "/api/events", "/api/stream",
    "/cameras/0/picture.jpg", "/cameras/0/stream.mjpg", "/healthz", "/metrics", "/nothing", "/api/status/", "//", "/..",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]


@pytest.fixture
def open_to_all(start_preview, make_result):
    """A preview on every address of this machine, reached over loopback."""
    preview = start_preview("0.0.0.0:0", TOKEN)
    preview.on_result(make_result("red"))
    return f"http://127.0.0.1:{urlsplit(preview.url).port}"


def ask(
    url: str, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request whose path goes out as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_without_the_token_every_request_is_refused(open_to_all):
    for path in PATHS:
        for method in METHODS:
            status, headers, body = ask(open_to_all, path, method)
            assert status == 401, (method, path)
            assert headers["www-authenticate"] == "Bearer"
            assert b"red" not in body


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer \xe4\xf6"},
        {"Cookie": f"edgeclf_preview={TOKEN}"},
        {"Cookie": 'edgeclf_preview_80=; ;=;"'},
        {"X-Forwarded-For": "127.0.0.1", "Host": "localhost"},
        {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "eA=="},
    ],
)
def test_what_is_not_quite_the_token_is_refused(open_to_all, headers):
    assert ask(open_to_all, "/api/status", headers=headers)[0] == 401


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.text("abc/.%?=&;token0123#", max_size=30),
    header=st.text(st.characters(codec="latin-1", exclude_categories=["C"]), max_size=30),
)
def test_no_path_or_header_gets_past(open_to_all, path, header):
    assert ask(open_to_all, "/" + path.replace("#", ""), headers={"Authorization": header, "Cookie": header})[0] == 401


@pytest.mark.parametrize(
    "query", ["token=", "token=wrong", f"token={TOKEN}x", f"token={TOKEN}&token=x", f"Token={TOKEN}"]
)
def test_a_wrong_token_in_the_address_is_refused(open_to_all, query):
    assert ask(open_to_all, f"/?{query}")[0] == 401


def test_the_bearer_of_the_token_gets_everything(open_to_all):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in PATHS:
        if "stream" not in path:
            expected = 404 if path in {"/nothing", "/..", "//"} else (200, 307)
            assert ask(open_to_all, path, headers=bearer)[0] in (
                expected if isinstance(expected, tuple) else (expected,)
            )
    assert ask(open_to_all, "/api/status", "POST", bearer)[0] == 405


def test_a_browser_trades_the_token_of_its_first_visit_for_a_cookie(open_to_all):
    status, headers, _ = ask(open_to_all, f"/api/events?last=3&token={TOKEN}")
    assert (status, headers["location"]) == (303, "./events?last=3")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    # Every server on this machine is sent the cookie, whatever its port.
    assert TOKEN not in cookie
    pair = cookie.partition(";")[0]
    assert ask(open_to_all, "/api/events", headers={"Cookie": f"other=1; {pair}"})[0] == 200
    assert ask(open_to_all, "/api/events", headers={"Cookie": pair[:-1]})[0] == 401


def test_the_redirect_stays_on_this_host(open_to_all):
    for path, location in (
        ("//evil.example/x", "./x"),
        ("//evil.example", "./evil.example"),
        ("/http://evil.example", "./evil.example"),
        ("/http:evil.example", "./http%3Aevil.example"),
        ("/a%0d%0aSet-Cookie:x", "./a%0D%0ASet-Cookie%3Ax"),
    ):
        assert ask(open_to_all, f"{path}?token={TOKEN}")[1]["location"] == location
        assert urlsplit(urljoin(open_to_all + path, location)).netloc == urlsplit(open_to_all).netloc


def test_behind_a_proxy_with_tls_the_first_visit_stays_below_its_path_and_the_cookie_is_for_tls_alone(open_to_all):
    headers = {"X-Forwarded-Proto": "https"}
    for path in ("/", "/api/status", "/cameras/0/picture.jpg"):
        answered = ask(open_to_all, f"{path}?token={TOKEN}", headers=headers)[1]
        assert "Secure" in answered["set-cookie"]
        outside = f"https://cameras.example.org/door{path}"
        assert urljoin(f"{outside}?token={TOKEN}", answered["location"]) == outside


def test_on_loopback_a_token_is_asked_for_when_there_is_one(start_preview):
    url = start_preview(token=TOKEN).url
    assert ask(url, "/")[0] == 401
    assert ask(url, "/", headers={"Authorization": f"bearer {TOKEN}"})[0] == 200


def test_a_site_whose_name_points_here_gets_nothing(start_preview):
    url = start_preview().url
    port = urlsplit(url).port
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LocalHost:1"):
        assert ask(url, "/api/status", headers={"Host": host})[0] == 200, host
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "::1:80",
    ):
        for path in PATHS:
            assert ask(url, path, headers={"Host": host})[0] == 400, host


def test_the_name_of_a_proxy_is_answered_and_no_other(start_preview):
    for address, token in ((":0", None), ("0.0.0.0:0", TOKEN)):
        preview = start_preview(address, token, hosts=["Cameras.example.org", "2001:db8::7"])
        url = f"http://127.0.0.1:{urlsplit(preview.url).port}"
        own = urlsplit(preview.url).netloc
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        for host in ("cameras.example.org", "CAMERAS.example.org:443", "[2001:db8::7]:8080", "localhost", own):
            assert ask(url, "/api/status", headers={**bearer, "Host": host})[0] == 200, host
        for host in ("example.org", "evil.example", "cameras.example.org.evil.example", "[2001:db8::8]"):
            status, _, body = ask(url, "/api/status", headers={**bearer, "Host": host})
            assert (status, b"cameras.example.org" in body, b"--serve-host" in body) == (400, True, True), host


def test_every_answer_forbids_what_the_page_does_not_need(open_to_all):
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
        for path in ("/", "/nothing", "/api/status", "/metrics"):
            answered = ask(open_to_all, path, headers={**headers, "Origin": "https://evil.example"})[1]
            assert "default-src 'none'" in answered["content-security-policy"]
            assert "unsafe" not in answered["content-security-policy"]
            assert answered["x-content-type-options"] == "nosniff"
            assert answered["cache-control"] == "no-store"
            assert not [name for name in answered if name.startswith("access-control")]
            assert "server" not in answered


def test_httpx_follows_the_first_visit(open_to_all):
    with httpx.Client(follow_redirects=True) as client:
        page = client.get(f"{open_to_all}/?token={TOKEN}")
        assert page.status_code == 200
        assert TOKEN not in str(page.url)
        assert client.get(f"{open_to_all}/api/status").json()["cameras"][0]["label"] == "red"
