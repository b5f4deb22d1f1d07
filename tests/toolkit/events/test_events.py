"""Events on their way out: written, posted, handed to commands - counted, and never in anybody's way."""

import contextlib
import http.server
import io
import json
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest

from edgeclf.runtime.errors import OutputError, SourceError, UsageError
from edgeclf.toolkit.events.background_sink import BackgroundSink, SinkError
from edgeclf.toolkit.events.command import command_sink
from edgeclf.toolkit.events.event_record import make_record
from edgeclf.toolkit.events.file_sink import FileSink
from edgeclf.toolkit.events.webhook import webhook_sink

from ...clocks import wait_until


class Receiver:
    """An HTTP server that remembers what is posted and answers with the given codes, then 200."""

    def __init__(self, codes=()):
        outer = self
        self.got, self.codes = [], list(codes)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(outer.codes.pop(0) if outer.codes else 200, f"words, {self.path}")
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def numbered(number):
    return make_record("label", "cam", label="réd", previous=None, frame=number)


def test_an_event_says_what_when_and_where():
    event = numbered(3)
    assert list(event)[:3] == ["event", "time", "source"]
    assert event["time"].endswith("Z")
    assert len(event["time"]) == len("2026-01-01T00:00:00.000Z")


def test_a_file_of_events_grows_and_is_kept_from_run_to_run(tmp_path):
    for number in range(2):
        events = FileSink(tmp_path / "deep" / "events.jsonl", pytest.fail)
        events.on_event(numbered(number))
        events.close()
    lines = (tmp_path / "deep" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1]
    assert events.summary == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_events_and_is_said_once():
    errors = []
    events = FileSink(Path("/dev/full"), errors.append)
    for number in range(5):
        events.on_event(numbered(number))
    events.close()
    assert events.summary == "5 events not written"
    (error,) = errors
    assert "no space left" in error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_events_on_stdout_are_json_in_any_terminal(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    events = FileSink(None, pytest.fail)
    events.on_event({**numbered(1), "source": "röd 花 \udcff.mp4"})
    assert json.loads(written.getvalue())["source"] == "röd 花 \udcff.mp4"
    assert json.loads(written.getvalue())["label"] == "réd"
    events.close()


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        FileSink(tmp_path / "file" / "events.jsonl", pytest.fail)


def test_a_webhook_gets_every_event_in_order_with_user_and_password():
    with Receiver() as receiver:
        hook = webhook_sink(f"http://me:p%40ss@{receiver.address}/hook?x=1", pytest.fail)
        for number in range(20):
            hook.on_event(numbered(number))
        wait_until(lambda: hook.delivered == 20)
        hook.close()
    assert [body["frame"] for _, _, body in receiver.got] == list(range(20))
    path, headers, body = receiver.got[0]
    assert path == "/hook?x=1"
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="
    assert headers["Content-Type"] == "application/json"
    assert body["label"] == "réd"
    assert hook.summary == "webhook: 20 delivered, 0 failed, 0 dropped"


def test_a_webhook_tries_again_where_that_may_help_and_not_where_it_cannot():
    errors = []
    with Receiver(codes=[503, 429, 200, 404, 302]) as receiver:
        hook = webhook_sink(f"http://{receiver.address}/", errors.append)
        for number in range(4):
            hook.on_event(numbered(number))
        wait_until(lambda: hook.delivered + hook.failed == 4)
        hook.close()
    assert [body["frame"] for _, _, body in receiver.got] == [0, 0, 0, 1, 2, 3]
    assert (hook.delivered, hook.failed) == (2, 2)
    assert errors == ["webhook: HTTP 404 Not Found"]  # the second in a row is counted, not said


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "nonsense",
        "http://",
        "http://x:99999/",
        "http://x:port/",
        "http://[::1/",
        "http://a..b/",
        "http://x/a b",
        "http://x/caf\xe9",
        "http://caf\xe9.example/",
        "http://x/\n",
        f"http://{'a' * 64}.example/",
    ],
)
def test_a_url_that_cannot_be_posted_to(url):
    with pytest.raises(UsageError, match="cannot post to"):
        webhook_sink(url, pytest.fail)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://hooks.example/services/hunter2", "ftp://hooks.example/***"),
        ("http://eve:hunter2@hooks.example:99999/hunter2", "http://eve:***@hooks.example:99999/***"),
        ("http://hooks.example:0/http://hunter2", "http://hooks.example:0/***"),
        ("localhost:8080/hunter2", "localhost:8080/***"),
        ("eve:hunter2@hooks.example/x", "eve:***@hooks.example/***"),
        ("http://hooks.example?hunter2=\xe9", "http://hooks.example/***"),
    ],
)
def test_the_path_of_a_webhook_is_a_secret(url, shown):
    with pytest.raises(UsageError) as refused:
        webhook_sink(url, pytest.fail)
    assert f"cannot post to {shown!r}: " in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def dripping():
    """Starts servers that send a byte every 20 ms until the test ends; gives their addresses."""
    ended = threading.Event()
    listening = []

    def drip(taken, sent_at_once, endless):
        with taken, contextlib.suppress(OSError):
            taken.sendall(sent_at_once)
            while not ended.wait(0.02):
                taken.sendall(endless)

    def serve(sent_at_once, endless):
        opened = socket.create_server(("127.0.0.1", 0))
        listening.append(opened)

        def run():
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = opened.accept()
                    threading.Thread(target=drip, args=(taken, sent_at_once, endless), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        return f"127.0.0.1:{opened.getsockname()[1]}"

    yield serve
    ended.set()
    for opened in listening:
        opened.close()


def test_a_webhook_that_drips_its_answer_has_a_deadline_and_one_that_drips_the_rest_is_done(dripping, monkeypatch):
    monkeypatch.setattr("edgeclf.toolkit.events.webhook._DEADLINE_S", 0.3)
    monkeypatch.setattr("edgeclf.toolkit.events.webhook._RETRY_PAUSES_S", (0.01,))
    errors = []
    # No read of these ever waits for long, and none is the last.
    for sent_at_once in (b"", b"HTTP/1.1 "):
        hook = webhook_sink(f"http://{dripping(sent_at_once, b'1')}/", errors.append)
        hook.on_event(numbered(0))
        wait_until(lambda hook=hook: hook.delivered + hook.failed == 1)
        hook.close()
        assert (hook.delivered, errors.pop()) == (0, "webhook: no answer within 0.3 s")
    monkeypatch.undo()
    hook = webhook_sink(f"http://{dripping(b'HTTP/1.1 200 OK' + bytes((13, 10)) * 2, b'1')}/", errors.append)
    for number in range(2):
        hook.on_event(numbered(number))
    wait_until(lambda: hook.delivered == 2)
    hook.close()
    assert errors == []


def test_a_name_that_is_looked_up_for_too_long_has_the_deadline_and_its_event_does_not_come_later(monkeypatch):
    monkeypatch.setattr("edgeclf.toolkit.events.webhook._DEADLINE_S", 0.2)
    monkeypatch.setattr("edgeclf.toolkit.events.webhook._RETRY_PAUSES_S", (0.01, 0.01))
    errors, asked, found, look_up = [], [], threading.Event(), socket.getaddrinfo
    with Receiver() as receiver:
        host, port = receiver.address.split(":")

        def look_up_slowly(name, *rest, **options):
            if name != "slow.example":
                return look_up(name, *rest, **options)
            asked.append(name)
            found.wait()
            return look_up(host, *rest, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
        hook = webhook_sink(f"http://slow.example:{port}/", errors.append)
        hook.on_event(numbered(0))
        wait_until(lambda: hook.failed == 1)
        assert errors == ["webhook: no answer within 0.2 s"]
        # What cannot be ended is not begun again and again.
        assert asked == ["slow.example"]
        found.set()
        monkeypatch.setattr("edgeclf.toolkit.events.webhook._DEADLINE_S", 60)
        hook.on_event(numbered(1))
        wait_until(lambda: hook.delivered == 1)
        hook.close()
    assert [body["frame"] for _, _, body in receiver.got] == [1]


def test_a_receiver_that_hangs_holds_up_nobody_and_everything_is_counted(monkeypatch):
    monkeypatch.setattr("edgeclf.toolkit.events.background_sink._CLOSING_S", 0.2)
    errors = []
    # Hangs until the end: were events or the end to wait for a delivery, this test would never return.
    hanging = BackgroundSink("hang", lambda _event, closing: closing.wait(), 2, errors.append)
    for number in range(1000):
        hanging.on_event(numbered(number))
    assert hanging.delivered == 0
    assert 890 <= hanging.dropped <= 900
    hanging.close()
    assert hanging.delivered + hanging.failed + hanging.dropped == 1000
    assert errors == ["hang: 100 events wait already; further ones are dropped"]


def test_an_event_that_is_under_way_in_the_end_is_counted_once(monkeypatch):
    monkeypatch.setattr("edgeclf.toolkit.events.background_sink._CLOSING_S", 0.1)
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()

    def deliver(_event, _closing):
        begun.set()
        end.wait()
        ended.set()

    delivery = BackgroundSink("d", deliver, 1, pytest.fail)
    for number in range(3):
        delivery.on_event(numbered(number))
    assert begun.wait(60)
    delivery.close()
    assert delivery.summary == "d: 0 delivered, 0 failed, 3 dropped"
    end.set()
    assert ended.wait(60)
    for thread in delivery._threads:
        thread.join(60)
    assert delivery.summary == "d: 0 delivered, 0 failed, 3 dropped"


def test_trouble_is_said_again_after_a_success():
    errors = []
    outcomes = iter(["x", "x", None, "x"])

    def deliver(_event, _closing):
        if (error := next(outcomes)) is not None:
            raise SinkError(error)

    delivery = BackgroundSink("d", deliver, 1, errors.append)
    for number in range(4):
        delivery.on_event(numbered(number))
    delivery.close()
    assert errors == ["d: x", "d: x"]
    assert (delivery.delivered, delivery.failed, delivery.dropped) == (1, 3, 0)


def test_a_delivery_goes_on_after_any_exception_and_counts_it():
    errors = []

    def deliver(event, _closing):
        if event["frame"] < 4:
            raise (KeyError("a bug"), OSError(1, "denied"), UnicodeError("x"), RecursionError())[event["frame"]]

    delivery = BackgroundSink("d", deliver, 1, errors.append)
    for number in range(6):
        delivery.on_event(numbered(number))
    delivery.close()
    assert (delivery.delivered, delivery.failed, delivery.dropped) == (2, 4, 0)
    assert errors == ["d: KeyError('a bug')"]


@pytest.fixture
def script(tmp_path):
    def write(body):
        path = tmp_path / "on event.py"
        path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


def test_a_command_gets_the_event_on_stdin_and_in_its_environment(script, tmp_path):
    path = script(
        "event = json.load(sys.stdin)\n"
        "open(sys.argv[1], 'a').write(json.dumps([event, sys.argv[2:], "
        "{k: v for k, v in os.environ.items() if k.startswith('EDGECLF_')}]) + '\\n')"
    )
    sink = command_sink(f"'{path}' '{tmp_path / 'out'}' '$HOME; rm -rf x' *", pytest.fail)
    sink.on_event(numbered(7))
    sink.close()
    event, arguments, variables = json.loads((tmp_path / "out").read_text())
    assert event["frame"] == 7
    assert arguments == ["$HOME; rm -rf x", "*"]  # no shell
    expected = {"EDGECLF_EVENT": "label", "EDGECLF_LABEL": "réd", "EDGECLF_FRAME": "7", "EDGECLF_SOURCE": "cam"}
    assert expected.items() <= variables.items()
    assert "EDGECLF_PREVIOUS" not in variables


def test_a_command_that_fails_hangs_or_does_not_read_is_counted(script, monkeypatch, tmp_path):
    monkeypatch.setattr("edgeclf.toolkit.events.command._TIMEOUT_S", 3.0)
    errors = []
    path = script(
        "sys.exit(3) if sys.argv[1] == 'fail' else (open(sys.argv[2], 'w').write(str(os.getpid())), time.sleep(60))"
    )
    failing = command_sink(f"'{path}' fail", errors.append)
    failing.on_event(numbered(0))
    hanging = command_sink(f"'{path}' hang '{tmp_path / 'pid'}'", errors.append)
    hanging.on_event({**numbered(0), "note": ["x" * 200_000]})  # more than a pipe holds
    wait_until(lambda: failing.failed == hanging.failed == 1)
    failing.close()
    hanging.close()
    assert sorted(errors) == [f"command: {path} ended with 3", f"command: {path} killed: more than 3 s"]
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_command_of_another_user_is_left_to_itself_and_holds_up_nobody(script, monkeypatch, tmp_path):
    monkeypatch.setattr("edgeclf.toolkit.events.command._TIMEOUT_S", 0.0)
    errors, kill = [], os.killpg

    def refuse(_group, _signal):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("edgeclf.toolkit.events.command.os.killpg", refuse)
    path = script(f"open({str(tmp_path / 'pid')!r} + str(os.getpid()), 'w').close(); sys.stdin.read(); time.sleep(600)")
    sink = command_sink(f"'{path}'", errors.append)
    for number in range(10):
        sink.on_event(numbered(number))
    wait_until(lambda: sink.failed == 10)
    # Two that are left, and one that another thread began meanwhile.
    wait_until(lambda: len(list(tmp_path.glob("pid*"))) >= 2)
    left = list(tmp_path.glob("pid*"))
    assert len(left) <= 3
    for started in left:
        kill(int(started.name[3:]), signal.SIGKILL)

    def runs_again():
        sink.on_event(numbered(4))
        return len(list(tmp_path.glob("pid*"))) > len(left)

    wait_until(runs_again)
    sink.close()
    for started in tmp_path.glob("pid*"):
        with contextlib.suppress(ProcessLookupError):
            kill(int(started.name[3:]), signal.SIGKILL)
    assert errors[0] == f"command: {path} left to itself, as it cannot be killed: more than 0 s"


def test_commands_that_cannot_be_run_are_errors_at_once():
    for text in ("", "'unfinished"):
        with pytest.raises(UsageError, match="bad --on-event"):
            command_sink(text, pytest.fail)
    with pytest.raises(SourceError, match="no such program"):
        command_sink("/nowhere/at/all --now", pytest.fail)
