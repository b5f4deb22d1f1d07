"""Clients of the preview: requests, its stream of messages, and connections that read nothing."""

import json
import socket
from urllib.parse import urlsplit

import httpx

# What the classifier behind the preview tells apart.
LABELS = ("red", "green", "blue")
# Without certificates, which take longer to load than everything else takes.
CLIENT = httpx.Client(verify=False, timeout=120)


def get(preview, path, **options):
    return CLIENT.get(preview.url + path, **options)


def messages(preview):
    """The stream's messages as pairs of name and document; ends when the stream ends."""
    with CLIENT.stream("GET", preview.url + "api/stream") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        name = None
        for line in answer.iter_lines():
            kind, _, rest = line.partition(": ")
            if kind == "event":
                name = rest
            elif kind == "data":
                yield name, json.loads(rest)


def send_request(url: str, path: str) -> socket.socket:
    """A client that sends a request and reads nothing yet."""
    parts = urlsplit(url)
    client = socket.create_connection((parts.hostname, parts.port), 20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client
