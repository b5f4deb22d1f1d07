"""Where the preview listens, and when it asks for a token."""

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import UnavailableError, UsageError
from edgeclf.toolkit.serve.address import choose_token, listen, parse_address, parse_host

LOOPBACK = [
    ":8080",
    "8080",
    "localhost:8080",
    "LOCALHOST:0",
    "127.0.0.1:8080",
    "127.3.2.1:1",
    "[::1]:8080",
    "[::ffff:127.0.0.1]:1",
]
OTHERS = ["0.0.0.0:8080", "[::]:8080", "192.0.2.7:80", "[2001:db8::1]:80", "[::ffff:192.0.2.1]:80"]


@pytest.mark.parametrize("text", LOOPBACK)
def test_loopback_needs_no_token(text):
    address = parse_address(text)
    assert address.is_loopback
    assert choose_token(None, {}, address).value is None


@pytest.mark.parametrize("text", OTHERS)
def test_any_other_address_needs_one(text):
    address = parse_address(text)
    assert not address.is_loopback
    for environment in ({}, {"EDGECLF_SERVE_TOKEN": ""}):
        with pytest.raises(UsageError, match="without a token") as raised:
            choose_token(None, environment, address)
        assert "--serve-token" in str(raised.value)
    assert choose_token(None, {"EDGECLF_SERVE_TOKEN": "from-the-environment"}, address).value == "from-the-environment"
    assert choose_token("given", {"EDGECLF_SERVE_TOKEN": "from-the-environment"}, address).value == "given"


def test_a_name_that_is_loopback_and_something_else_is_not_loopback():
    from edgeclf.toolkit.serve.address import Address

    mixed = Address("x:80", "x", parse_address(":80").targets + parse_address("192.0.2.7:80").targets)
    assert not mixed.is_loopback


def test_generated_tokens_are_long_and_never_the_same():
    made = [choose_token("auto", {}, parse_address("0.0.0.0:80")) for _ in range(20)]
    assert all(token.is_generated for token in made)
    assert len({token.value for token in made}) == 20
    assert min(len(token.value or "") for token in made) >= 32


@pytest.mark.parametrize("token", ["", "two words", "gr\u00fcn", "line\nend"])
def test_tokens_that_no_header_can_carry_are_refused_and_not_repeated(token):
    with pytest.raises(UsageError) as raised:
        choose_token(token, {}, parse_address(":80"))
    assert not token or token not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    ["", ":", "host", "::1:80", "[::1:80", "127.0.0.1", ":80/", "http://x:80", ":-1", ":\u0661", "a b:80", "x@y:80"],
)
def test_what_is_no_address_is_said_to_be_none(text):
    with pytest.raises(UsageError, match="bad --serve"):
        parse_address(text)


@given(st.integers())
def test_ports_are_those_that_exist(port):
    if 0 <= port <= 65535:
        assert parse_address(f":{port}").targets[0].place[1] == port
    else:
        with pytest.raises(UsageError):
            parse_address(f":{port}")


def test_a_port_that_is_taken_is_said_in_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match="another program uses") as raised:
            listen(parse_address(f":{taken.getsockname()[1]}"))
    assert raised.value.exit_code == 5


def test_an_address_of_another_machine_is_said_to_be_one():
    # 203.0.113.0/24 belongs to documentation, so to no machine.
    with pytest.raises(UnavailableError, match=r"203\.0\.113\.7, which is no address of this machine"):
        listen(parse_address("203.0.113.7:0"))


def test_without_a_host_both_loopbacks_share_the_port_and_no_other_address_does():
    opened = listen(parse_address(":0"))
    try:
        ports = {entry.getsockname()[1] for entry in opened}
        hosts = {entry.getsockname()[0] for entry in opened}
        assert len(ports) == 1
        assert {"127.0.0.1"} <= hosts <= {"127.0.0.1", "::1"}
        with contextlib.closing(socket.socket()) as elsewhere:
            assert elsewhere.connect_ex(("127.0.0.2", *ports)) != 0
    finally:
        for entry in opened:
            entry.close()


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Cameras.Example.org", "cameras.example.org"),
        ("gateway", "gateway"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8::1", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_hosts_are_those_of_headers(text, host):
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text", ["", "http://a.example", "a.example:443", "a b", "*", "*.example", "a/b", ".", "bücher.example", "-x"]
)
def test_what_is_no_host_is_refused(text):
    with pytest.raises(UsageError, match="bad --serve-host"):
        parse_host(text)
