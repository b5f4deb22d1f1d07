"""Results without a camera, a preview without a command, and a browser without a window."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from edgeclf.runtime.batch.jobs import Outcome
from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.live.grabber import CameraFrame
from edgeclf.runtime.live.results import CameraStatistics, LiveResult
from edgeclf.runtime.live.smoothing import Smoothing
from edgeclf.runtime.prediction import Prediction
from edgeclf.toolkit.serve.server import preview_server
from edgeclf.toolkit.serve.state import PreviewState

from .clients import LABELS

COLOURS_BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
MODEL = {"file": "colours.onnx", "architecture": "mean-colour", "precision": "fp32", "labels": list(LABELS)}


@pytest.fixture(scope="session")
def make_result() -> Callable[..., LiveResult]:
    """`make_result("red", 7)`: what a frame of that colour gives."""

    def make(
        label: str | None,
        number: int = 0,
        *,
        camera: str = "0",
        image_bgr: np.ndarray | None = None,
        latency_ms: float = 5.0,
        age_ms: float = 9.0,
        statistics: CameraStatistics | None = None,
        smoothed_label: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> LiveResult:
        if image_bgr is None:
            image_bgr = np.full((90, 160, 3), COLOURS_BGR.get(label or "red"), np.uint8)
        frame = CameraFrame(number, image_bgr, time.monotonic())
        counts = statistics or CameraStatistics(captured=number + 1, taken=number + 1, reconnects=0)
        if label is None:
            outcome = Outcome(camera, number, None, ImageError("cannot read the frame"), latency_ms)
            return LiveResult(camera, frame, outcome, None, None, age_ms, 25.0, counts)
        probabilities = np.full(3, 0.1, np.float32)
        probabilities[LABELS.index(label)] = 0.8
        prediction = Prediction(label, LABELS.index(label), 0.8, probabilities, LABELS)
        outcome = Outcome(camera, number, prediction, None, latency_ms)
        if smoothing is None:
            return LiveResult(camera, frame, outcome, label, 0.8, age_ms, 25.0, counts)
        return LiveResult(camera, frame, outcome, smoothed_label or label, 0.25, age_ms, 25.0, counts, smoothing)

    return make


@pytest.fixture
def start_preview(monkeypatch) -> Iterator[Callable[..., PreviewState]]:
    """Starts a preview on a free port, which ends with the test."""
    monkeypatch.delenv("EDGECLF_SERVE_TOKEN", raising=False)
    with contextlib.ExitStack() as stack:

        def start(address: str = ":0", token: str | None = None, model=None, **options: object) -> PreviewState:
            return stack.enter_context(preview_server(address, token, model=model or (lambda: MODEL), **options))

        yield start


class Publisher(threading.Thread):
    """Publishes one result after the other, until the block ends."""

    def __init__(self, publish: Callable[[int], None], interval_s: float = 0.03) -> None:
        super().__init__(daemon=True)
        self._publish = publish
        self._interval_s = interval_s
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._ended.wait(self._interval_s):
            self._publish(number)
            number += 1

    def __enter__(self) -> "Publisher":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@pytest.fixture(scope="session")
def publishing() -> type[Publisher]:
    return Publisher


# Where Chromium looks for the pipes. Duplicates first: one of the two may be descriptor 3 or 4 itself.
_AS_DESCRIPTORS_3_AND_4 = """
import os, sys
reads, writes = (os.dup(int(number)) for number in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
for number in (3, 4):
    os.set_inheritable(number, True)  # where a duplicate is what it was to become already
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """Headless Chromium, driven over the DevTools protocol through a pair of pipes."""

    def __init__(self, command: str, folder: str) -> None:
        reads_commands, self._commands = os.pipe()
        self._answers, writes_answers = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += [f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _AS_DESCRIPTORS_3_AND_4, str(reads_commands), str(writes_answers), command, *flags],
            pass_fds=(reads_commands, writes_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads_commands)
        os.close(writes_answers)
        self._number = 0
        self._buffer = b""
        self._session: dict[str, str] = {}
        self.events: list[dict] = []
        (page,) = [
            target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page"
        ]  # fmt: skip
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            answer = self._receive(deadline)
            if answer is None:
                raise TimeoutError(method)
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def open(self, url: str) -> None:
        # What the page before still has to say is not this one's.
        self.call("Page.navigate", url="about:blank")
        self.value("new Promise((done) => setTimeout(done, 50))")
        self.events.clear()
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> object:
        """What an expression gives in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 30) -> object:
        """Waits until an expression is true in the page."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(AssertionError):  # the page is still loading
                found = self.value(expression)
                if found:
                    return found
            assert time.monotonic() < deadline, (
                f"never true: {expression}; page: {self.value('document.body.innerText')}"
            )
            time.sleep(0.05)

    def complaints(self) -> list[dict]:
        """Everything that the page or the browser wrote to the console, and every exception."""
        names = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        self.call("Runtime.evaluate", expression="0")
        return [event["params"] for event in self.events if event["method"] in names]

    def requested(self) -> set[str]:
        """URLs the page asked for."""
        self.call("Runtime.evaluate", expression="0")
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return {event["request"]["url"] for event in sent}

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _receive(self, deadline: float) -> dict | None:
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            read = os.read(self._answers, 1 << 20)
            if not read:
                raise RuntimeError("the browser has ended")
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """One browser for all tests of the page."""
    command = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if command is None:
        pytest.skip("no Chromium on this machine: chromium, chromium-browser or google-chrome")
    started = Browser(command, str(tmp_path_factory.mktemp("chromium")))
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="session")
def decode() -> Callable[[bytes], np.ndarray]:
    def decoded(jpeg: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return image

    return decoded
