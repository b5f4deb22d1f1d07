"""Measures the cost of the web preview to the classification of frames, with 0, 1 and 5 clients.

    python benchmarks/camera/serve.py MODEL.onnx [--rounds 5] [--seconds 2] [--size 1280x720] [--threads 1]
                                       [--quick] [--json]

Frames of noise and gradients are classified one after the other as fast as the model runs. In every round each way has its
turn: without a preview, and with one that 0, 1 and 5 clients watch, each client with the stream of pictures and the stream
of figures, in a process of its own. `publish` is the time that the classifying thread spends in the preview's call.
"""

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


from benchmarks.common import Arguments, Report, background_process, median, run_in_turns, working_folder
from benchmarks.synthetic import write_model
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.batch.jobs import Job, classify_job
from edgeclf.runtime.live.grabber import CameraFrame
from edgeclf.runtime.live.results import CameraStatistics, LiveResult
from edgeclf.runtime.session.session import ModelSession
from edgeclf.toolkit.serve.server import preview_server

_CLIENTS = (0, 1, 5)
# Reads both streams of every client, counts pictures, and says so when its input is closed.
_CLIENT = """
import selectors, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chosen = selectors.DefaultSelector()
for number in range(count):
    for path in ("/cameras/0/stream.mjpg", "/api/stream"):
        client = socket.create_connection((host, port))
        client.sendall(f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n".encode())
        client.recv(1)
        chosen.register(client, selectors.EVENT_READ)
chosen.register(sys.stdin, selectors.EVENT_READ)
print("ready", flush=True)
pictures = 0
while True:
    for key, _ in chosen.select():
        if key.fileobj is sys.stdin:
            print(pictures)
            sys.exit()
        pictures += key.fileobj.recv(1 << 20).count(b"Content-Type: image/jpeg")
"""


@dataclass(frozen=True)
class Turn:
    """One way in one round.

    Attributes:
        way: Its name.
        frames_per_s: Frames classified per second.
        publish_us: Median time of the preview's call, in microseconds; None without a preview.
        publish_p99_us: Its 99th percentile.
        pictures_per_s: Pictures that one client got per second; None without clients.
    """

    way: str
    frames_per_s: float
    publish_us: float | None = None
    publish_p99_us: float | None = None
    pictures_per_s: float | None = None


def make_frames(width: int, height: int, count: int = 8) -> list[UInt8Array]:
    """Frames that are neither flat nor pure noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 180, width, dtype=np.float32)[None, :, None]
    return [
        (np.roll(ramp, number * 50, axis=1) + rng.integers(0, 60, (height, width, 3))).astype(np.uint8)
        for number in range(count)
    ]


def classify(
    session: ModelSession,
    frames: list[UInt8Array],
    seconds: float,
    publish: Callable[[LiveResult], None] | None,
) -> tuple[float, list[float]]:
    """Classifies for some seconds; gives frames per second and the time of every call of `publish` in microseconds."""
    calls_us = []
    started = time.perf_counter()
    number = 0
    while time.perf_counter() - started < seconds:
        frame = CameraFrame(number, frames[number % len(frames)], time.monotonic())
        outcome = classify_job(session, Job("0", partial(_image, frame), number))
        if outcome.prediction is None:
            raise SystemExit(f"the model cannot be used: {outcome.error}")
        if publish is not None:
            label, confidence = outcome.prediction.label, outcome.prediction.confidence
            counts = CameraStatistics(number + 1, number + 1, 0)
            result = LiveResult("0", frame, outcome, label, confidence, frame.age_ms, 25.0, counts)
            before = time.perf_counter_ns()
            publish(result)
            calls_us.append((time.perf_counter_ns() - before) / 1e3)
        number += 1
    return number / (time.perf_counter() - started), calls_us


def _image(frame: CameraFrame) -> UInt8Array:
    return frame.image_bgr


@contextlib.contextmanager
def watching(url: str, clients: int) -> Iterator[Callable[[], int]]:
    """Clients in a process of their own; yields a function that ends them and returns the number of frames they got."""
    host, port = url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    command = [sys.executable, "-c", _CLIENT, host, port, clients]
    with background_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise SystemExit("the clients did not start")
        yield lambda: int(process.communicate()[0])


def measure(session: ModelSession, frames: list[UInt8Array], rounds: int, seconds: float) -> list[Turn]:
    """Classifies once a round without a preview and with each number of clients, in turns."""
    ways = {str(clients): partial(_turn, session, frames, seconds, clients) for clients in (None, *_CLIENTS)}
    return [turn for turns in run_in_turns(ways, rounds).values() for turn in turns]


def _turn(session: ModelSession, frames: list[UInt8Array], seconds: float, clients: int | None) -> Turn:
    if clients is None:
        return Turn("no preview", classify(session, frames, seconds, None)[0])
    # The address it prints is of no use here.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.ExitStack() as stack:
        preview = stack.enter_context(preview_server(":0", None, model=dict, cameras=["0"]))
        pictures = stack.enter_context(watching(preview.url, clients)) if clients else None
        rate, calls_us = classify(session, frames, seconds, preview.on_result)
        return Turn(
            f"{clients} clients",
            rate,
            median(calls_us),
            float(np.percentile(calls_us, 99)),
            pictures() / clients / seconds if pictures and clients else None,
        )


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"rounds": 1, "seconds": 0.2, "size": "320x240"})
    arguments.add_input("model", "the .onnx file")
    arguments.add_argument("--rounds", type=int, default=5, help="turns of each way (default: %(default)s)")
    arguments.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default: %(default)s)")
    arguments.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT of the frames (default: %(default)s)")
    arguments.add_argument("--threads", type=int, default=1, help="threads of one inference (default: %(default)s)")
    given = arguments.parse()
    width, _, height = given.size.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or given.rounds < 1 or given.seconds <= 0:
        arguments.error("expected WIDTHxHEIGHT, at least one round, and a positive time")
    with working_folder() as folder:
        session = ModelSession(given.model or write_model(folder / "model.onnx"), threads=given.threads)
    frames = make_frames(int(width), int(height))
    classify(session, frames, min(0.5, given.seconds), None)
    turns = measure(session, frames, given.rounds, given.seconds)
    report = Report(given)
    columns = {"frames/s": ">10.1f", "ratio": ">8.3f", "publish us": ">12.1f", "p99 us": ">9.1f"}
    report.columns({"": "<14", **columns, "pictures/s a client": ">21.1f"})
    ways = list(dict.fromkeys(turn.way for turn in turns))
    rates = {way: median(turn.frames_per_s for turn in turns if turn.way == way) for way in ways}
    for way, rate in rates.items():
        those = [turn for turn in turns if turn.way == way]
        calls = _known_median([turn.publish_us for turn in those]), _known_median([t.publish_p99_us for t in those])
        report.row(way, rate, rate / rates[ways[0]], *calls, _known_median([turn.pictures_per_s for turn in those]))
    report.close([asdict(turn) for turn in turns])
    return 0


def _known_median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


if __name__ == "__main__":
    raise SystemExit(main())
