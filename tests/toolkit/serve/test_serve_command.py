"""`edgeclf infer --serve` as a user meets it: where it says it is, what it refuses, how it ends."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import cv2
import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9/no-camera"
BLOCKER = """
import sys
blocked = sys.argv.pop(1)
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""
RUN = "from edgeclf.toolkit.cli import main\nmain()"


@pytest.fixture(scope="module")
def camera_url():
    """A camera over HTTP that shows green."""
    green = np.full((240, 320, 3), (30, 200, 30), np.uint8)
    jpeg = cv2.imencode(".jpg", green)[1].tobytes()
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
            with contextlib.suppress(OSError):
                while not ended.wait(0.04):
                    self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    ended.set()
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def serving(colour_model, camera_url, *arguments, env=None):
    """A running `edgeclf infer --camera --serve`, and where it says that it serves."""
    # Where the tests themselves run in the background, a shell has Ctrl-C ignored, and children inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "edgeclf.toolkit"]
    command += ["infer", str(colour_model), "--camera", camera_url, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stderr is not None
        lines = []
        while not lines or not lines[-1].startswith("preview: "):
            lines.append(process.stderr.readline())
            assert lines[-1], "".join(lines)
        yield process, lines[-1].removeprefix("preview: ").split()[0], lines
    finally:
        process.kill()
        process.communicate()


def wait_until_healthy(client: httpx.Client, url: str) -> None:
    deadline = time.monotonic() + 60
    while client.get(url + "healthz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_camera_is_served_and_ends_while_clients_watch(colour_model, camera_url, stop):
    with contextlib.ExitStack() as stack:
        process, url, _ = stack.enter_context(serving(colour_model, camera_url, "--serve", ":0", "--json"))
        client = stack.enter_context(httpx.Client(verify=False, timeout=120))
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        wait_until_healthy(client, url)
        assert "<!doctype html>" in client.get(url).text
        (status,) = client.get(url + "api/status").json()["cameras"]
        assert (status["camera"], status["label"]) == (camera_url, "green")
        assert 'edgeclf_frames_classified_total{camera="' in client.get(url + "metrics").text
        for path in ("cameras/0/stream.mjpg", "api/stream"):
            answer = stack.enter_context(client.stream("GET", url + path))
            assert next(answer.iter_raw())
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    # Records and nothing else on stdout; on stderr no line about requests.
    assert {json.loads(line)["label"] for line in out.splitlines()} == {"green"}
    assert re.fullmatch(r"\d+ frames in .*\n", err)


def test_a_file_by_a_relative_path_is_the_camera_that_is_expected(colour_model, tmp_path, monkeypatch):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    for _ in range(20):
        writer.write(np.full((48, 64, 3), (0, 0, 200), np.uint8))
    writer.release()
    monkeypatch.chdir(tmp_path)
    with (
        serving(colour_model, "./clip.avi", "--loop", "--serve", ":0", "--json") as (_, url, _),
        httpx.Client(verify=False, timeout=120) as client,
    ):
        wait_until_healthy(client, url)
        (status,) = client.get(url + "api/status").json()["cameras"]
        assert (status["camera"], status["label"]) == ("./clip.avi", "red")


def test_for_other_machines_every_request_needs_the_token_and_no_output_holds_it(colour_model, camera_url):
    token = "only-in-the-environment"
    environment = {**os.environ, "EDGECLF_SERVE_TOKEN": token}
    arguments = ("--serve", "0.0.0.0:0", "--json")
    with (
        serving(colour_model, camera_url, *arguments, env=environment) as (process, elsewhere, lines),
        httpx.Client(verify=False, timeout=120, follow_redirects=True) as client,
    ):
        url = f"http://127.0.0.1:{elsewhere.rsplit(':', 1)[1]}"
        for path in ("", "healthz", "metrics", "api/status", "cameras/0/stream.mjpg", "?token=wrong"):
            assert client.get(url + path).status_code == 401
        assert client.get(f"{url}?token={token}").status_code == 200
        wait_until_healthy(client, url)
        process.terminate()
        out, err = process.communicate(timeout=300)
    assert token not in "".join(lines) + out + err


def test_auto_makes_a_token_and_says_it_once_on_stderr(colour_model, camera_url):
    arguments = ("--serve", "127.0.0.1:0", "--serve-token", "auto", "--json")
    with (
        serving(colour_model, camera_url, *arguments) as (process, url, lines),
        httpx.Client(verify=False, timeout=120, follow_redirects=True) as client,
    ):
        base, _, token = url.partition("?token=")
        assert len(token) >= 32
        assert client.get(base).status_code == 401
        assert client.get(url).status_code == 200
        process.terminate()
        out, err = process.communicate(timeout=300)
    assert "".join(lines).count(token) == 1
    assert token not in out + err


def test_a_short_token_is_warned_of_and_not_repeated(colour_model, camera_url):
    with serving(colour_model, camera_url, "--serve", ":0", "--serve-token", "zebra") as (_, _, lines):
        assert "can be guessed" in "".join(lines)
        assert "zebra" not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--serve", "0.0.0.0:0"], 2, "cannot serve on 0.0.0.0:0 without a token"),
        (["--serve", "[::]:0", "--serve-token", ""], 2, "bad serve token"),
        (["--serve", "nonsense"], 2, "bad --serve: got 'nonsense'"),
        (["--serve", ":70000"], 2, "bad --serve"),
        (["--serve-token", "x"], 2, "--serve-token without --serve"),
        (["--serve-token", ""], 2, "--serve-token without --serve"),
        (["--serve-host", "a.example"], 2, "--serve-host without --serve"),
        (["--serve", ":0", "--serve-host", "http://a.example"], 2, "bad --serve-host"),
        (["--serve", "203.0.113.7:0", "--serve-token", "auto"], 5, "203.0.113.7, which is no address of this machine"),
    ],
)
def test_what_cannot_be_served_is_one_sentence_before_the_camera_is_opened(
    run_edgeclf, colour_model, arguments, code, sentence
):
    environment = {name: value for name, value in os.environ.items() if name != "EDGECLF_SERVE_TOKEN"}
    done = run_edgeclf("infer", colour_model, "--camera", NOWHERE, *arguments, env=environment)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_one_sentence_and_exit_code_5(run_edgeclf, colour_model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_edgeclf(
            "infer", colour_model, "--camera", NOWHERE, "--serve", f":{taken.getsockname()[1]}"
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (5, "")
    assert "a port that another program uses" in done.stderr
    assert done.stderr.count("\n") == 1


def test_only_cameras_are_served(run_edgeclf, colour_model, tmp_path):
    done = run_edgeclf("infer", colour_model, tmp_path, "--serve", ":0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--serve is for cameras" in done.stderr


@pytest.mark.parametrize("package", ["uvicorn", "starlette", "prometheus_client"])
def test_a_missing_package_names_the_extra(colour_model, package):
    command = [sys.executable, "-c", BLOCKER + RUN, package, "infer", colour_model, "--camera", NOWHERE]
    done = subprocess.run(
        [*map(str, command), "--serve", ":0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert 'pip install "edgeclf[serve]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_serve_none_of_the_packages_is_loaded(colour_model, camera_url):
    program = (
        "import sys\nfrom edgeclf.toolkit.cli import main\ntry:\n    main()\nfinally:\n    print(sorted(sys.modules))"
    )
    command = [sys.executable, "-c", program, "infer", str(colour_model), "--camera", camera_url, "--max-frames", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'edgeclf.toolkit.infer.cameras'" in done.stdout
    for package in ("uvicorn", "starlette", "prometheus_client", "asyncio", "http.cookies"):
        assert f"'{package}'" not in done.stdout
