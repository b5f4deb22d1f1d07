"""Live sources as a user meets them: several cameras, labels that change, freezes, full disks, a model replaced."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from ...clocks import wait_until
from ...randomness import fresh_rng
from ..colours import paced, picture, records, write_video

pytestmark = pytest.mark.slow


def of_kind(events, kind, source=None):
    return [event for event in events if event["event"] == kind and source in {None, event["source"]}]


class Running:
    """`edgeclf infer` in a process of its own, ended with SIGTERM."""

    def __init__(self, *arguments, **options):
        command = [sys.executable, "-m", "edgeclf.toolkit", "infer", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=300)
        assert "Traceback" not in err
        return self.process.returncode, out, err


def test_several_cameras_share_a_model_and_the_end_of_one_is_not_that_of_others(
    run_edgeclf, colour_model, stream_server, tmp_path
):
    video = write_video(tmp_path / "v.avi", ["blue"] * 8)
    with (
        stream_server(lambda _: paced([picture("green")] * 30, 0.02)) as green,
        stream_server(lambda _: paced([picture("red")] * 400, 0.02)) as red,
    ):
        done = run_edgeclf(
            "infer", colour_model, "--camera", green.url, "--camera", red.url, "--camera", video, "--json",
            "--reconnects", 0, "--duration", 3, "--events", tmp_path / "events.jsonl", "--save", tmp_path / "drawn.avi",
        )  # fmt: skip
    assert done.returncode == 3
    assert "1 of 3 cameras were lost" in done.stderr
    assert "Traceback" not in done.stderr
    found = records(done.stdout)
    labels = {
        source: {r["label"] for r in found if r["source"] == source} for source in (green.url, red.url, str(video))
    }
    assert labels == {green.url: {"green"}, red.url: {"red"}, str(video): {"blue"}}
    events = records((tmp_path / "events.jsonl").read_text())
    for source in labels:
        assert f"camera {source}: " in done.stderr
        (ended,) = of_kind(events, "ended", source)
        assert ended["frames"] == len([r for r in found if r["source"] == source])
        assert len(of_kind(events, "label", source)) == 1
    assert "error" in of_kind(events, "ended", green.url)[0]
    assert "error" not in of_kind(events, "ended", red.url)[0]
    for number in (1, 2, 3):
        assert cv2.VideoCapture(str(tmp_path / f"drawn-{number}.avi")).read()[0]


def test_cameras_that_differ_in_their_passwords_only_are_told_apart_and_end(run_edgeclf, colour_model, stream_server):
    with stream_server(lambda connection: paced([picture("red" if connection else "green")] * 1000, 0.02)) as server:
        urls = [server.url.replace("//", f"//eve:{password}@") for password in ("one", "two")]
        done = run_edgeclf("infer", colour_model, "--camera", urls[0], "--camera", urls[1], "--json", "--max-frames", 5)
    assert done.returncode == 0, done.stderr
    assert not {"one", "two"} & set(re.split(r"[:@]", done.stdout + done.stderr))
    found = records(done.stdout)
    shown = server.url.replace("//", "//eve:***@")
    assert [sum(r["source"] == name for r in found) for name in (shown, f"{shown} (2)")] == [5, 5]
    assert len({(r["source"], r["label"]) for r in found}) == 2


@pytest.mark.parametrize("format_name", ["jsonl", "csv", "table"])
def test_the_records_of_a_camera_are_appended_under_one_heading(run_edgeclf, colour_model, tmp_path, format_name):
    video = write_video(tmp_path / "v.avi", ["red"] * 6)
    out = tmp_path / "records"
    command = ("infer", colour_model, "--camera", video, "--format", format_name, "--out", out)
    assert run_edgeclf(*command).returncode == 0
    first = out.read_bytes()
    # The process was killed in the middle of a line.
    with out.open("ab") as file:
        file.write(b"half a li")
    assert run_edgeclf(*command).returncode == 0
    both = out.read_bytes()
    assert both.startswith(first + b"half a li\n")
    heading = 0 if format_name == "jsonl" else 1
    added = both.removeprefix(first + b"half a li\n")
    assert 1 <= added.count(b"\n") <= 6
    assert [line.split()[0] for line in both.splitlines()].count(first.split()[0]) == (
        1 if heading else first.count(b"\n") + added.count(b"\n")
    )


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_gets_the_records_of_which_its_status_line_shows_less(colour_model, tmp_path):
    video = write_video(tmp_path / "v.avi", ["red"] * 6)
    command = [sys.executable, "-m", "edgeclf.toolkit", "infer", colour_model, "--camera", video, "--max-frames", "3"]
    for options, has_records in (([], False), (["--top-k", "1"], False), (["--top-k", "2"], True)):
        screen, terminal = os.openpty()
        with os.fdopen(screen, "rb", buffering=0) as shown, os.fdopen(terminal, "wb") as stdout:
            done = subprocess.run([*map(str, command), *options], stdout=stdout, stderr=subprocess.PIPE, check=False)
            # What follows is there to be read also where nothing was printed.
            stdout.write(b"end")
            stdout.flush()
            text = ""
            while not text.endswith("end"):
                text += shown.read(4096).decode()
        assert done.returncode == 0, done.stderr
        assert (text.count("red ") == 3 and text.count("(") == 3) == has_records, text
        assert (text == "end") != has_records


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_records_and_not_the_camera(run_edgeclf, colour_model, tmp_path):
    video = write_video(tmp_path / "v.avi", ["red"] * 6)
    done = run_edgeclf(
        "infer", colour_model, "--camera", video, "--format", "jsonl", "--out", tmp_path / "records", "--max-frames", 3,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "3 frames in" in done.stderr
    assert "records lost" in done.stderr
    assert "Traceback" not in done.stderr
    text = (tmp_path / "records").read_text()
    assert all(record["label"] == "red" for record in records(text))
    assert text.endswith("\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("options", "code", "what"), [(["--json"], 3, "records lost"), (["--events", "-"], 0, "events not written")]
)
def test_a_full_disk_behind_stdout_costs_lines_and_not_the_camera(colour_model, tmp_path, options, code, what):
    video = write_video(tmp_path / "v.avi", ["red"] * 6)
    command = [sys.executable, "-m", "edgeclf.toolkit", "infer", colour_model, "--camera", video, *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*map(str, command), "--max-frames", "3"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == code
    assert "3 frames in" in done.stderr
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_a_signal_to_rotate_logs_ends_no_service_and_a_clip_ends_while_others_go_on(
    colour_model, stream_server, tmp_path
):
    clip = write_video(tmp_path / "clip.avi", ["blue"] * 2)
    path = tmp_path / "events.jsonl"
    with (
        stream_server(lambda _: paced([picture("red")] * 10_000, 0.02)) as server,
        Running(
            colour_model, "--camera", server.url, "--camera", clip, "--events", path, "--json", stdin=subprocess.DEVNULL
        ) as running,
    ):
        wait_until(lambda: path.exists() and of_kind(records(path.read_text()), "ended", str(clip)))
        path.rename(tmp_path / "events.jsonl.1")
        running.process.send_signal(signal.SIGHUP)
        code, out, err = running.end()
    assert code == 0
    assert err.count("frames in") == 2
    assert [event["source"] for event in of_kind(records(path.read_text()), "ended")] == [server.url]
    assert {record["label"] for record in records(out)} == {"red", "blue"}


def test_sigterm_while_a_camera_is_opened_is_a_regular_end(colour_model):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with Running(colour_model, "--camera", url, "--camera", url + "other", "--json") as running:
            opened = [silent.accept() for _ in range(2)]
            code, out, err = running.end()
            assert len(opened) == 2
    assert (code, out) == (0, "")
    assert err.count("never there") == 2


def test_a_camera_that_comes_later_is_taken_and_none_at_all_is_an_error(run_edgeclf, colour_model, stream_server):
    def late(connection):
        if connection == 0:
            raise LookupError
        return paced([picture("blue")] * 1000, 0.02)

    with stream_server(late) as blue, stream_server(lambda _: paced([picture("red")] * 1000, 0.02)) as red:
        done = run_edgeclf(
            "infer",
            colour_model,
            "--camera",
            blue.url,
            "--camera",
            red.url,
            "--json",
            "--duration",
            2,
            "--reconnects",
            3,
        )
        assert done.returncode == 0, done.stderr
        assert "HTTP 503" in done.stderr
        assert {r["label"] for r in records(done.stdout)} == {"red", "blue"}
    done = run_edgeclf("infer", colour_model, "--camera", blue.url, "--camera", red.url)
    assert done.returncode == 3
    assert "cannot open camera" in done.stderr


def test_a_label_that_changes_is_an_event_and_smoothing_keeps_flicker_out(run_edgeclf, colour_model, tmp_path):
    flicker = ["red"] * 15 + ["green", "red"] * 5 + ["red"] * 5 + ["blue"] * 30
    video = write_video(tmp_path / "v.avi", flicker, fps=25)
    plain = run_edgeclf("infer", colour_model, "--camera", video, "--events", "-")
    smooth = run_edgeclf(
        "infer", colour_model, "--camera", video, "--events", "-", "--smooth", 0.2, "--margin", 0.2, "--hold", 0.1,
        "--out", tmp_path / "records.csv", "--format", "csv",
    )  # fmt: skip
    assert plain.returncode == smooth.returncode == 0, plain.stderr + smooth.stderr
    changes = [(event["previous"], event["label"]) for event in of_kind(records(smooth.stdout), "label")]
    assert changes == [(None, "red"), ("red", "blue")]
    assert len(of_kind(records(plain.stdout), "label")) > len(changes)
    rows = (tmp_path / "records.csv").read_text().splitlines()
    assert rows[0].endswith(",error,rejected,smoothed_label,smoothed_confidence,smoothed_rejected")
    assert len(rows) > 10
    # The record's own label stays that of its frame.
    assert any(",green," in row and ",red," in row for row in rows)


def test_a_frozen_camera_and_a_silent_one_are_said_to_be_and_to_move_again(colour_model, stream_server, tmp_path):
    still = picture("red")

    def parts(_):
        yield from paced((picture("red") for _ in range(10)), 0.02)
        yield from paced([still] * 50, 0.02)  # the same picture for a second
        yield from paced((picture("red") for _ in range(10)), 0.02)
        yield 1.5  # nothing
        yield from paced((picture("red") for _ in range(1000)), 0.02)

    path = tmp_path / "events.jsonl"

    def kinds():
        """What froze and moved, without what a machine too busy for half a second made of the stream before."""
        events = [e for e in records(path.read_text() if path.exists() else "") if e["event"] in {"frozen", "moving"}]
        found = [e["event"] if e["event"] == "moving" else e["reason"].rpartition(" for ")[0] for e in events]
        return found[found.index("the same picture") :] if "the same picture" in found else []

    with (
        stream_server(parts) as server,
        Running(
            colour_model, "--camera", server.url, "--json", "--freeze-after", 0.5, "--events", path, "--out", os.devnull
        ) as running,
    ):
        wait_until(lambda: "no new frame" in kinds() and kinds()[-1] == "moving")
        code, _, err = running.end()
    assert code == 0
    assert kinds()[:4] == ["the same picture", "moving", "no new frame", "moving"]
    assert "is frozen: the same picture" in err
    assert "moves again" in err
    assert f"{len(of_kind(records(path.read_text()), 'frozen'))} freezes" in err


def test_the_log_of_a_service_has_a_line_now_and_then(run_edgeclf, colour_model, tmp_path):
    video = write_video(tmp_path / "v.avi", ["red"] * 30)
    lines = []
    with Running(
        colour_model, "--camera", video, "--loop", "--log-every", 0.3, "--json", "--out", os.devnull
    ) as running:  # fmt: skip
        # The time limit only ends a test that hangs.
        hangs = threading.Timer(120, running.process.kill)
        hangs.start()
        for line in running.process.stderr:
            lines += [line] if line.startswith(f"camera {video}: ") else []
            if len(lines) >= 2 and "frame age p50" in line:
                break
        hangs.cancel()
        assert running.end()[0] == 0
    assert all("frames/s); in all" in line for line in lines)
    quiet = run_edgeclf("infer", colour_model, "--camera", video, "--duration", 0.5)
    assert len(quiet.stderr.splitlines()) == 1


def test_a_replaced_model_is_tried_before_it_is_taken(make_colour_model, tmp_path):
    model = make_colour_model(tmp_path / "m.onnx")
    other = make_colour_model(tmp_path / "other.onnx", spec_changes={"labels": ("rot", "green", "blue")})
    video = write_video(tmp_path / "v.avi", ["red"] * 30)
    path = tmp_path / "events.jsonl"

    def events_of(kind):
        return of_kind(records(path.read_text()), kind) if path.exists() else []

    with Running(
        model, "--camera", video, "--loop", "--watch", "--events", path, "--json", "--out", os.devnull
    ) as running:
        wait_until(lambda: events_of("label"))
        (tmp_path / "broken").write_bytes(model.read_bytes()[:200])
        (tmp_path / "broken").replace(model)
        wait_until(lambda: events_of("model_kept"))
        other.replace(model)
        wait_until(lambda: len(events_of("label")) == 2)
        code, _, err = running.end()
    assert code == 0
    assert "cannot open model" in events_of("model_kept")[0]["reason"]
    assert events_of("model_reloaded")[0]["labels"] == "new: rot; gone: red"
    assert [event["label"] for event in events_of("label")] == ["red", "rot"]
    assert "the old one is kept: cannot open model" in err
    assert "1 times reloaded, 1 times kept" in err


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_full_disk_ends_the_recording_and_not_the_run(colour_model, stream_server, tmp_path, suffix):
    noise = fresh_rng().integers(0, 256, (600, 800, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    limit = (16 << 20) + 1_500_000
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from edgeclf.toolkit.cli import main; sys.argv[0] = 'edgeclf'; main()"
    )
    video = tmp_path / f"drawn{suffix}"
    with stream_server(lambda _: paced([whole] * 2000, 0.04)) as server:
        done = subprocess.run(
            [sys.executable, "-c", code, "infer", str(colour_model), "--camera", server.url, "--json", "--save",
             str(video), "--duration", "4", "--events", str(tmp_path / "events.jsonl")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the disk is nearly full" in done.stderr
    assert "frames not recorded" in done.stderr
    events = records((tmp_path / "events.jsonl").read_text())
    (stopped,) = of_kind(events, "recording_stopped")
    written = int(stopped["reason"].split("after ")[1].split()[0])
    (ended,) = of_kind(events, "ended")
    # How many there are in these seconds is the machine's affair.
    assert ended["frames"] == len(records(done.stdout)) > ended["frames_not_recorded"] > 0
    capture, frames = cv2.VideoCapture(str(video)), 0
    while capture.read()[0]:
        frames += 1
    assert frames == written > 0


def test_a_recording_of_the_run_before_is_kept(run_edgeclf, colour_model, tmp_path):
    video, saved = write_video(tmp_path / "v.avi", ["red"] * 6), tmp_path / "drawn.avi"
    for run in range(2):
        done = run_edgeclf("infer", colour_model, "--camera", video, "--save", saved, "--max-frames", 3)
        assert done.returncode == 0, done.stderr
        assert (f"--save {saved}: the recording that was there is" in done.stderr) == bool(run)
    assert len(list(tmp_path.glob("drawn*.avi"))) == 2


def test_a_killed_run_leaves_a_recording_that_plays(colour_model, stream_server, tmp_path):
    noise = fresh_rng().integers(0, 256, (600, 800, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    saved = tmp_path / "saved.avi"
    with (
        stream_server(lambda _: paced([whole] * 2000, 0.04)) as server,
        Running(colour_model, "--camera", server.url, "--save", saved, "--json") as running,
    ):
        wait_until(lambda: saved.exists() and saved.stat().st_size > 5_000_000)
        running.process.kill()
    capture, frames = cv2.VideoCapture(str(saved)), 0
    while capture.read()[0]:
        frames += 1
    assert frames > 10


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--camera", "0", "--camera", "0"], 2, "named twice"),
        (["--camera", "none.mp4"], 3, "no such file"),
        (["--camera", "VIDEO", "--margin", "1.5"], 2, "bad smoothing"),
        (["--camera", "VIDEO", "--smooth", "nan"], 2, "--smooth"),
        (["--camera", "VIDEO", "--fps", "nan"], 2, "--fps"),
        (["--camera", "VIDEO", "--webhook", "ftp://x"], 2, "cannot post to"),
        (["--camera", "VIDEO", "--on-event", "/nowhere/x"], 3, "no such program"),
        (["--camera", "VIDEO", "--on-event", "/"], 3, "cannot run /: got a folder"),
        (["--camera", "VIDEO", "--on-event", "VIDEO"], 3, "got a file that may not be executed"),
        (["--camera", "VIDEO", "--save", "x.xyz"], 3, "suffix"),
        (["--camera", "VIDEO", "--save", "VIDEO"], 2, "would replace one of the inputs"),
        (["--camera", "VIDEO", "--events", "VIDEO"], 2, "would replace one of the inputs"),
        (["VIDEO", "--smooth", "1"], 2, "--smooth is for cameras"),
        (["VIDEO", "--watch"], 2, "--watch is for cameras"),
    ],
)
def test_bad_requests_get_one_sentence(run_edgeclf, colour_model, tmp_path, arguments, code, words):
    video = write_video(tmp_path / "v.avi", ["red"] * 3)
    done = run_edgeclf("infer", colour_model, *[str(video) if a == "VIDEO" else a for a in arguments])
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert cv2.VideoCapture(str(video)).read()[0]


def test_a_reader_that_stops_early_ends_a_camera_without_an_error(colour_model, tmp_path):
    video = write_video(tmp_path / "v.avi", ["red"] * 30)
    with Running(colour_model, "--camera", video, "--loop", "--json") as running:
        assert running.process.stdout is not None
        running.process.stdout.readline()
        running.process.stdout.close()
        assert running.process.wait(timeout=300) == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_whose_reader_goes_away_costs_records_until_another_comes(colour_model, tmp_path):
    video, pipe = write_video(tmp_path / "v.avi", ["red"] * 30), tmp_path / "pipe"
    os.mkfifo(pipe)
    with Running(colour_model, "--camera", video, "--loop", "--json", "--out", pipe) as running:
        with pipe.open() as reader:
            assert records(reader.readline())[0]["label"] == "red"
        assert running.process.stderr is not None
        while "Records are lost until it can be." not in (line := running.process.stderr.readline()):
            assert line, "the run ended"
        with pipe.open() as reader:
            assert records(reader.readline())[0]["label"] == "red"
        code, _, err = running.end()
    assert code == 3
    assert "records lost" in err


def open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files and threads are counted in /proc")
def test_cuts_and_garbage_leave_neither_files_nor_threads(colour_model, stream_server, tmp_path):
    rng = fresh_rng()
    good = picture("green")
    sent = {"good": 0, "bad": 0}

    def parts(connection):
        if connection >= 6:
            yield from paced([good] * 100_000, 0.02)
        for is_good in rng.permutation([True] * 40 + [False] * 160):
            sent["good" if is_good else "bad"] += 1
            yield good if is_good else rng.bytes(3000)
            yield 0.001

    path = tmp_path / "events.jsonl"
    with (
        stream_server(parts) as server,
        Running(
            colour_model, "--camera", server.url, "--reconnects", 20, "--events", path, "--json", "--out", os.devnull
        ) as running,
    ):
        pid = running.process.pid
        wait_until(lambda: server.connections >= 2)
        before = open_files(pid), threads(pid)
        wait_until(lambda: server.connections >= 7 and len(of_kind(records(path.read_text()), "reconnected")) == 6)
        time.sleep(1)
        after = open_files(pid), threads(pid)
        code, _, _ = running.end()
    assert code == 0
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1] + 1
    (ended,) = of_kind(records(path.read_text()), "ended")
    assert ended["unreadable"] == sent["bad"] == 6 * 160
    assert ended["captured"] >= sent["good"]
    assert ended["captured"] == ended["frames"] + ended["dropped"]
    assert ended["reconnects"] == 6
