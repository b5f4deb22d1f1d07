"""Models and programs that the tests of several folders share; what holds for every test whatever ran before it."""

import contextlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from .randomness import SEED_VARIABLE, fresh_rng

# TensorFlow reads this once, when it is first imported, and rounds otherwise without it. Set before any test, every
# process - this one, whichever test loads TensorFlow in it, and each that a test starts - computes alike; what was set
# from outside stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Why a test may be skipped where everything that can be installed is installed (.ci/run): a pattern for the reason, and
# why no machine can be asked to mend it. EDGECLF_STRICT_SKIPS=1 makes any other skip fail the run.
ALLOWED_SKIPS = {
    r"needs (onnxruntime-gpu|onnxruntime-openvino|a working NVIDIA GPU)": "an accelerator",
    r"this ONNX Runtime has no \w+": "an accelerator",
}
_refused_skips: list[str] = []

# A busy machine must not fail a test: no example is timed.
settings.register_profile("edgeclf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgeclf")

COLOURS = ("red", "green", "blue")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Makes the seed of pytest-randomly, which its header names, that of every generator the tests make."""
    seed = config.getoption("randomly_seed", 0)
    os.environ[SEED_VARIABLE] = str(seed if isinstance(seed, int) else 0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Counts the names that Keras gives to layers from zero, as in a process of the test's own, whatever ran before it."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.clear_session(free_memory=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers a skip that `ALLOWED_SKIPS` does not allow."""
    _remember_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remembers a skipped module that `ALLOWED_SKIPS` does not allow."""
    _remember_skip(report)


def _remember_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.match(pattern, reason) for pattern in ALLOWED_SKIPS):
            _refused_skips.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a strict run in which something was skipped that is on no list."""
    if os.environ.get("EDGECLF_STRICT_SKIPS") and _refused_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the skips that fail a strict run."""
    if os.environ.get("EDGECLF_STRICT_SKIPS") and _refused_skips:
        terminalreporter.section("skipped, and not on the list in tests/conftest.py", red=True)
        for line in _refused_skips:
            terminalreporter.line(line)


@pytest.fixture
def rng() -> np.random.Generator:
    """`fresh_rng()`: seeded by the run's seed and the test, whatever ran before."""
    return fresh_rng()


def write_colour_model(
    path: Path,
    *,
    size_hw: tuple[int, int] = (32, 32),
    spec_changes: dict[str, object] | None = None,
    with_spec: bool = True,
) -> Path:
    """Writes a classifier of 0.5 KB that keeps the contract: softmax of the mean colour / 16 over red, green, blue."""
    import onnx
    from onnx import TensorProto, helper

    from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["means", "sixteen"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *size_hw, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("sixteen", TensorProto.FLOAT, [], [16.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if with_spec:
        spec = ModelSpec(labels=COLOURS, preprocess=Preprocess(size_hw), architecture="mean-colour")
        entry = model.metadata_props.add()
        entry.key, entry.value = SPEC_KEY, spec.with_changes(**(spec_changes or {})).to_json()
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that says red, green or blue, whichever an image has most of; 32 x 32 input."""
    return write_colour_model(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture(scope="session")
def make_colour_model() -> Callable[..., Path]:
    """`write_colour_model`, for variants: another size, other spec fields, no spec."""
    return write_colour_model


@pytest.fixture(scope="session")
def run_edgeclf() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own: `run_edgeclf("infer", model, image)`."""

    def run(*arguments: object, timeout_s: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [sys.executable, "-m", "edgeclf.toolkit", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)

    return run


class StreamServer:
    """An MJPEG-over-HTTP camera on loopback.

    Args:
        parts: Called with the number of the connection, from 0; gives what to send, one after the other: a picture or
            what stands in its place, a number of seconds to wait, or None to end at once. A connection for which it
            raises LookupError is answered with 503.
        with_length: Whether parts say how long they are.

    Attributes:
        connections: How many there were.
        paths: What each asked for, with its query.
    """

    def __init__(self, parts: Callable[[int], Iterable[bytes | float | None]], *, with_length: bool = True) -> None:
        outer = self
        self.connections = 0
        self.paths: list[str] = []
        self.closing = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.connections += 1
                outer.paths.append(self.path)
                try:
                    script = parts(outer.connections - 1)
                except LookupError:
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for item in script:
                        if item is None or (isinstance(item, float) and outer.closing.wait(item)):
                            return
                        if isinstance(item, bytes):
                            length = b"Content-Length: %d\r\n" % len(item) if with_length else b""
                            head = b"--frame\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n"
                            self.wfile.write(head + item + b"\r\n")
                    if not with_length:
                        self.wfile.write(b"--frame--\r\n")

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/video.mjpg"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> "StreamServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def stream_server() -> type[StreamServer]:
    """`StreamServer`."""
    return StreamServer
