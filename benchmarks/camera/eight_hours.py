"""Eight hours of a camera in minutes, with all that happens to one, and kills of a recording camera: counts, losses, leftovers.

    python benchmarks/camera/eight_hours.py [--hours 8] [--kills 20] [--seed 0] [--quick] [--json]

A camera in memory, on a clock that goes on only where something waits (`lapse_clock.py`), through the live loop with everything
that `edgeclf infer` puts around it: records and events in files, a recording, the preview's state, a webhook. Frames come one
by one, in bursts and damaged; streams are cut, fall silent, and servers are gone for 90 s; a still image stands for as long; the
model's file is replaced by good and by broken ones; the recording runs out of room, then no file may grow at all for a tenth of the
time; a log is rotated; nobody answers at the webhook's address for the first half. What is counted must be what was sent, each
line that could be written must be in the files, and threads, open files and memory must be at the end what they were after an eighth.

Then `edgeclf infer --save --events --out` at a camera on loopback is killed by SIGKILL `--kills` times, each time started again on
the same files: lines that were there stay, each label's change that a record shows has its event, each recording plays.

Exit code 1 where a count differs, a line is lost, a password is shown, or (not with --quick) something grows.
"""

import argparse
import contextlib
import gc
import http.server
import json
import os
import resource
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# Before OpenCV is loaded: FFmpeg says of each recording that was cut off that it is.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import numpy as np

from benchmarks.camera.colour_model import write_colour_model
from benchmarks.camera.killed_camera import frames_in, run_kills
from benchmarks.camera.lapse_clock import LapseClock
from benchmarks.camera.scripted_camera import Schedule, ScriptedCamera
from benchmarks.common import Arguments, Report, working_folder
from edgeclf.runtime import Classifier, LiveClassifier, LiveEvent, LiveResult
from edgeclf.runtime.live.annotate import annotate
from edgeclf.toolkit.events.appended_file import AppendedFile
from edgeclf.toolkit.events.event_record import event_record
from edgeclf.toolkit.events.file_sink import FileSink
from edgeclf.toolkit.events.webhook import webhook_sink
from edgeclf.toolkit.infer.recording import LiveRecording
from edgeclf.toolkit.infer.records import SinkOptions, make_writer
from edgeclf.toolkit.serve.state import PreviewState

_SECRET = "h2pw7SECRET"
_URL = f"http://eve:{_SECRET}@192.0.2.1/cam.mjpg?token={_SECRET}"
_TICKERS = frozenset(("edgeclf-freeze", "edgeclf-model"))
_FREEZE_AFTER_S = 60.0
_PATIENCE_S = 60.0
# Pages that the allocator keeps, and what ONNX Runtime and OpenCV set up late.
_ALLOWED_MB = 16.0
# Room for a recording: less than it keeps to complete its file.
_LITTLE_ROOM_BYTES = 8 << 20


def held() -> dict[str, float]:
    """Threads, open files and resident memory (MB) of this process."""
    gc.collect()
    tasks = len(list(Path("/proc/self/task").iterdir()))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": tasks - sum(thread.name == Webhook.THREAD for thread in threading.enumerate()),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


class Webhook:
    """An address at which nobody answers until `answer` is called; then each body is kept."""

    THREAD = "webhook of the benchmark"

    def __init__(self) -> None:
        self.bodies: list[str] = []
        # Bound and not listening: nobody else takes the port, and connections are refused.
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/hook"
        self._server: http.server.HTTPServer | None = None

    def answer(self) -> None:
        """Begins to answer."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        address = self._socket.getsockname()
        self._server = http.server.HTTPServer(address, Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = self._socket
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, daemon=True, name=self.THREAD).start()

    def close(self) -> None:
        """Ends it."""
        if self._server is not None:
            self._server.shutdown()
        self._socket.close()


class Service:
    """Everything around the live loop, as `edgeclf infer --camera` has it."""

    def __init__(self, folder: Path, classifier: Classifier, clock: LapseClock, fps: float, webhook: Webhook) -> None:
        self.folder = folder
        self.words: list[str] = []
        self.events: Counter[str] = Counter()
        self.records = AppendedFile(folder / "records.jsonl", self.words.append, "records")
        self.event_file = FileSink(folder / "events.jsonl", self.words.append)
        self.webhook = webhook_sink(webhook.url, self.words.append)
        self.preview = PreviewState(lambda: {"labels": list(classifier.spec.labels)}, stale_after_s=1e9)
        self.recording = LiveRecording(folder / "camera.avi", lambda: fps, self.words.append, clock)
        targets = SinkOptions("jsonl", 1, folder / "records.jsonl", False, None, None, None)  # noqa: FBT003 - names are long
        self._writer = make_writer(targets, self.records.write, 0, begin=self.records.begin)
        self._lock = threading.Lock()

    def on_event(self, event: LiveEvent) -> None:
        """Hands an event on, from any thread."""
        record = event_record(event)
        with self._lock:
            self.events[record["event"]] += 1
        for sink in (self.event_file, self.webhook, self.preview):
            sink.on_event(record)

    def on_result(self, result: LiveResult) -> None:
        """Hands a result on."""
        self._writer.write(result.outcome)
        self.preview.on_result(result)
        if result.outcome.prediction is not None:
            self.recording.add(annotate(result.frame.image_bgr, result.outcome.prediction))

    def wait_for_webhook(self) -> None:
        """Until no event waits for it: a post under way has a thread and a connection."""
        deadline_s, hook = time.monotonic() + _PATIENCE_S, self.webhook
        while hook.delivered + hook.failed + hook.dropped < self.events.total() and time.monotonic() < deadline_s:
            time.sleep(0.1)

    def close(self) -> None:
        """Closes all."""
        self.recording.close()
        self.webhook.close()
        self.event_file.close()
        self.records.close()


class Happenings:
    """What happens to the machine meanwhile, by the share of the time that is over.

    Args:
        service: What it happens to.
        model: The model's file.
        webhook: The address of events.
        swaps: How often the model's file is replaced; every second time by one that is broken.
    """

    def __init__(self, service: Service, model: Path, webhook: Webhook, swaps: int) -> None:
        self._service, self._model, self._webhook = service, model, webhook
        self.swaps: Counter[str] = Counter()
        self.tried_without_room: Counter[str] = Counter()
        self.before: dict[str, float] = {}
        self._done: set[str] = set()
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        plan = {"measure": 0.125, "little room": 0.3, "no room": 0.4, "room": 0.5, "webhook": 0.55, "rotate": 0.7}
        # Not while no file may be written.
        shares = [share for share in np.linspace(0.02, 0.95, swaps) if not 0.29 < share < 0.52]
        self._plan = {**plan, **{f"swap {number}": share for number, share in enumerate(shares)}}

    def at(self, share: float) -> None:
        """Lets happen what is due."""
        for name, due in self._plan.items():
            if share >= due and name not in self._done:
                self._done.add(name)
                self._happen(name)

    def end(self) -> None:
        """Lifts the limit of sizes."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)

    def _happen(self, name: str) -> None:
        folder, counts = self._service.folder, self._counts
        if name == "measure":
            self.before = held()
        elif name == "little room":
            self._limit((folder / "camera.avi").stat().st_size + _LITTLE_ROOM_BYTES)
        elif name == "no room":
            # Not the half of a line more in the smaller file; the larger one is beyond it.
            self._begun = counts()
            self._limit((folder / "events.jsonl").stat().st_size + 30)
        elif name == "room":
            self.tried_without_room = Counter({key: value - self._begun[key] for key, value in counts().items()})
            self.end()
        elif name == "webhook":
            self._webhook.answer()
        elif name == "rotate":
            (folder / "records.jsonl").rename(folder / "records.jsonl.1")
        else:
            self._swap()

    def _swap(self) -> None:
        number = sum(self.swaps.values())
        kind = "kept" if number % 2 else "reloaded"
        self.swaps[kind] += 1
        new = self._model.with_name("new.onnx")
        if kind == "kept":
            new.write_bytes(self._model.read_bytes()[:100] + bytes([number]) * 200)
        else:
            write_colour_model(new, f"number {number}")
        new.replace(self._model)

    def _limit(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._limits[1]))

    def _counts(self) -> Counter[str]:
        service = self._service
        return Counter(records=service.records.written + service.records.failed, events=service.events.total())


def run_lapse(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The hours of a camera: what was sent, what was counted, and what was held."""
    seconds = given.hours * 3600
    # A short run has less of everything, and of each kind something.
    schedule = Schedule(seconds, cut_s=min(900, seconds / 9))
    clock = LapseClock(_TICKERS)
    camera, webhook = ScriptedCamera(schedule, clock), Webhook()
    model = write_colour_model(folder / "model.onnx", "number 0")
    classifier = Classifier(model, threads=1)
    service = Service(folder, classifier, clock, schedule.fps, webhook)
    happenings = Happenings(service, model, webhook, max(4, round(2 * given.hours)))
    started = time.perf_counter()
    with patch("edgeclf.runtime.live.camera.open_capture", camera.open), contextlib.closing(webhook):
        live = LiveClassifier(
            classifier,
            _URL,
            freeze_after_s=_FREEZE_AFTER_S,
            watch_model=True,
            reconnects=100,
            on_event=service.on_event,
            clock=clock,
        )
        try:
            with contextlib.closing(live.results()) as results:
                for result in results:
                    service.on_result(result)
                    happenings.at(clock.now_s() / seconds)
                    if clock.now_s() >= seconds:
                        break
                    camera.taken()
                service.wait_for_webhook()
                after = held()
        finally:
            happenings.end()
        service.close()
    return {
        "seconds": time.perf_counter() - started,
        **counts_of(camera, live, service, happenings, webhook),
        "before": happenings.before,
        "after": after,
        "recorded": recorded_of(service),
    }


def counts_of(
    camera: ScriptedCamera, live: LiveClassifier, service: Service, happenings: Happenings, webhook: Webhook
) -> dict[str, Any]:
    """What was expected and what was counted, by the same names; lines lost; passwords shown."""
    sent, statistics, events = camera.sent, live.statistics, service.events
    tried = happenings.tried_without_room
    lines = {name: whole_lines(service.folder.glob(f"{name}.jsonl*")) for name in ("records", "events")}
    hook = service.webhook
    expected = {
        "captured": sent.frames,
        "unreadable": sent.damaged,
        "classified": sent.frames - sent.behind,
        "reconnects": sent.cuts,
        "label": sent.labels,
        "disconnected": sent.cuts + sent.refused,
        "reconnected": sent.cuts + 1,
        "frozen": sent.freezes,
        "moving": sent.freezes,
        "model_reloaded": happenings.swaps["reloaded"],
        "model_kept": happenings.swaps["kept"],
        "ended": 1,
        "records without room": tried["records"],
        "events without room": tried["events"],
        "records in files": sent.frames - sent.behind - tried["records"],
        "events in files": events.total() - tried["events"],
        "posted, failed or dropped": events.total(),
        "received by the webhook": hook.delivered,
    }
    failed_events = service.event_file.summary.split(" ", 1)[0].replace(",", "") or "0"
    counted = {
        **dict.fromkeys(expected, 0),
        **{kind: events[kind] for kind in expected if kind in events},
        "captured": statistics.captured,
        "unreadable": statistics.unreadable,
        "classified": live.figures.done,
        "reconnects": statistics.reconnects,
        "records without room": service.records.failed,
        "events without room": int(failed_events),
        "records in files": lines["records"],
        "events in files": lines["events"],
        "posted, failed or dropped": hook.delivered + hook.failed + hook.dropped,
        "received by the webhook": len(webhook.bodies),
    }
    shown = [*service.words, *webhook.bodies, json.dumps([service.preview.status(), service.preview.events()])]
    shown += [path.read_text(encoding="utf-8") for path in service.folder.glob("*.jsonl*")]
    return {
        "expected": expected,
        "counted": counted,
        "dropped_and_classified": statistics.dropped + live.figures.done,
        "lost": sum(max(0, expected[name] - counted[name]) for name in ("records in files", "events in files")),
        "passwords_shown": sum(_SECRET in text for text in shown),
        "delivered": hook.delivered,
    }


def whole_lines(paths: Iterator[Path]) -> int:
    """Lines of files of JSON lines; one that is none counts for nothing."""
    count = 0
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                json.loads(line)
                count += 1
    return count


def recorded_of(service: Service) -> dict[str, Any]:
    """Frames written into the recording, those that can be read from it, and those that came when it had ended."""
    recording = service.recording
    readable = frames_in(service.folder / "camera.avi")
    return {"written": recording.written, "readable": readable, "not_recorded": recording.lost}


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"hours": 0.5, "kills": 1, "most_lines": 20})
    arguments.add_argument("--hours", type=float, default=8.0, help="hours of the camera (default: %(default)s)")
    arguments.add_argument("--kills", type=int, default=20, help="kills (default: %(default)s)")
    arguments.add_argument("--most-lines", type=int, default=400, help="records before a kill (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="of the points of the kills (default: %(default)s)")
    given = arguments.parse()
    if given.hours < 0.5 or given.kills < 0:
        arguments.error("--hours must be at least 0.5, --kills at least 0")
    with working_folder() as folder, working_folder() as second:
        lapse = run_lapse(folder, given)
        kills = run_kills(second, given.kills, given.most_lines, given.seed)
    report = Report(given)
    report.columns({f"{given.hours:g} hours": "<28", "expected": ">12", "counted": ">12"})
    for name, value in lapse["expected"].items():
        report.row(name, value, lapse["counted"][name])
    for name, value in lapse["before"].items():
        report.line(f"{name}: {value:g} after an eighth, {lapse['after'][name]:g} at the end")
    for part in (lapse["recorded"], {"lost": lapse["lost"], "passwords shown": lapse["passwords_shown"]}, kills):
        report.line(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in part.items()))
    report.line(f"{lapse['seconds']:.0f} s for {given.hours:g} hours")
    report.close({"lapse": lapse, "kills": kills})
    return int(not (is_exact(lapse, kills) and (given.quick or is_flat(lapse))))


def is_exact(lapse: Mapping[str, Any], kills: Mapping[str, Any]) -> bool:
    """Whether all counts are what was sent, and nothing is lost or shown."""
    recorded = lapse["recorded"]
    return bool(
        lapse["expected"] == lapse["counted"]
        and lapse["dropped_and_classified"] == lapse["expected"]["captured"]
        and lapse["lost"] == lapse["passwords_shown"] == kills["lost"] == 0
        and recorded["written"] == recorded["readable"] > 0
        and kills["recordings_that_do_not_play"] == 0
    )


def is_flat(lapse: Mapping[str, Any]) -> bool:
    """Whether no more is held at the end than after an eighth."""
    before, after = lapse["before"], lapse["after"]
    return bool(
        after["threads"] <= before["threads"]
        and after["files"] <= before["files"]
        and after["resident_mb"] - before["resident_mb"] <= _ALLOWED_MB
    )


if __name__ == "__main__":
    raise SystemExit(main())
