"""`edgeclf infer` on a video or one camera: every frame or the newest, cuts, freezes, and memory that stays flat."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from ...runtime.images.videos import write_matroska
from ..colours import COLOURS_BGR, paced, picture, records, write_video

pytestmark = pytest.mark.slow


def in_turns(frames):
    return [tuple(COLOURS_BGR)[number // 10 % 3] for number in range(frames)]


def green_frames(frames, interval_s=0.005):
    """A connection's frames and pauses, for `stream_server`."""
    return paced([picture("green", (240, 320))] * frames, interval_s)


def test_a_video_gives_every_frame_in_order_and_an_annotated_copy(run_edgeclf, colour_model, tmp_path):
    labels = in_turns(45)
    write_video(tmp_path / "v.avi", labels, fps=20)
    done = run_edgeclf("infer", colour_model, tmp_path / "v.avi", "--json", "--save", tmp_path / "out" / "drawn.avi")
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert [r["frame"] for r in found] == list(range(45))
    assert [r["label"] for r in found] == labels
    capture = cv2.VideoCapture(str(tmp_path / "out" / "drawn.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 45
    assert capture.get(cv2.CAP_PROP_FPS) == 20
    _, frame = capture.read()
    # The bar along the top is darker than the picture below it.
    assert frame[:6].mean() < frame[30:].mean() * 0.8
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["drawn.avi"]


def test_a_video_that_is_cut_short_is_said_to_be(run_edgeclf, colour_model, tmp_path):
    write_video(tmp_path / "v.avi", in_turns(200))
    whole = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    done = run_edgeclf("infer", colour_model, tmp_path / "cut.avi", "--json")
    assert done.returncode == 0, done.stderr
    assert "ended early" in done.stderr
    assert 50 < len(records(done.stdout)) < 150
    (tmp_path / "text.mp4").write_text("no video")
    done = run_edgeclf("infer", colour_model, tmp_path / "text.mp4", "--json")
    assert done.returncode == 3
    assert "cannot read video" in records(done.stdout)[0]["error"]


def test_a_video_ends_after_max_frames(run_edgeclf, colour_model, tmp_path):
    write_video(tmp_path / "v.avi", in_turns(60))
    done = run_edgeclf("infer", colour_model, tmp_path / "v.avi", "--json", "--max-frames", 7)
    assert len(records(done.stdout)) == 7
    wrong = run_edgeclf("infer", colour_model, tmp_path / "v.avi", "--save", tmp_path / "drawn.xyz")
    assert wrong.returncode == 3
    assert "suffix" in wrong.stderr
    windowless = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    shown = run_edgeclf("infer", colour_model, tmp_path / "v.avi", "--show", env=windowless)
    assert shown.returncode == 5
    assert "cannot show a window" in shown.stderr


def test_a_camera_over_http_is_classified(run_edgeclf, colour_model, stream_server, tmp_path):
    out = tmp_path / "camera.jsonl"
    with stream_server(lambda _: green_frames(1000, 0.02)) as server:
        done = run_edgeclf(
            "infer", colour_model, "--camera", server.url, "--json", "--out", out, "--max-frames", 20,
            "--save", tmp_path / "camera.avi",
        )  # fmt: skip
        url = server.url
    assert done.returncode == 0, done.stderr
    found = records(out.read_text())
    assert len(found) == 20
    assert {(r["label"], r["source"]) for r in found} == {("green", url)}
    numbers = [r["frame"] for r in found]
    assert numbers == sorted(set(numbers))
    assert "20 frames in" in done.stderr
    assert "frame age p50" in done.stderr
    assert cv2.VideoCapture(str(tmp_path / "camera.avi")).get(cv2.CAP_PROP_FRAME_COUNT) > 0


def test_a_stream_that_drops_is_opened_again_and_given_up_after_the_limit(run_edgeclf, colour_model, stream_server):
    def twice(connection):
        if connection >= 2:
            raise LookupError
        return green_frames(15)

    with stream_server(twice) as server:
        done = run_edgeclf("infer", colour_model, "--camera", server.url, "--json", "--reconnects", 2)
    assert done.returncode == 3
    assert "opening it anew (1 of 2)" in done.stderr
    assert "delivers again" in done.stderr
    assert "went away" in done.stderr
    assert len(records(done.stdout)) > 1
    assert "Traceback" not in done.stderr


def test_a_camera_that_falls_silent_is_said_to_be_and_opened_again(colour_model, stream_server):
    with stream_server(lambda _: [*green_frames(10), 30.0]) as server:
        command = [
            sys.executable,
            "-m",
            "edgeclf.toolkit",
            "infer",
            str(colour_model),
            "--camera",
            server.url,
            "--json",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            first = json.loads(process.stdout.readline())
            assert first["label"] == "green"
            # After how long is a test of the camera, on a clock of its own.
            assert "opening it anew" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "frames in" in errors


def test_a_server_that_never_answers_is_no_camera(run_edgeclf, colour_model):
    # Listens and accepts, and never says a word.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        done = run_edgeclf("infer", colour_model, "--camera", f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert done.returncode == 3
    assert "cannot open camera" in done.stderr


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("kind", ["camera", "video"])
def test_memory_stays_flat_over_two_thousand_frames(colour_model, stream_server, tmp_path, kind):
    command = [sys.executable, "-m", "edgeclf.toolkit", "infer", str(colour_model), "--json"]
    if kind == "camera":
        source = stream_server(lambda _: green_frames(20_000, 0.0005))
        command += ["--camera", source.url, "--max-frames", "2400"]
    else:
        write_video(tmp_path / "v.avi", in_turns(2400))
        source = contextlib.nullcontext()
        command += [str(tmp_path / "v.avi")]
    with source:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            sizes_mb = {}
            for number, line in enumerate(process.stdout):
                assert "label" in json.loads(line)
                if number in {400, 2390}:
                    sizes_mb[number] = resident_mb(process.pid)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    # One leaked frame of 320 x 240 is 0.23 MB: two thousand of them would be 460 MB.
    assert sizes_mb[2390] - sizes_mb[400] < 20


def test_a_damaged_packet_costs_its_record_alone(run_edgeclf, colour_model, tmp_path):
    packets = [(40 * n, picture(label)) for n, label in enumerate(in_turns(30))]
    packets[12:14] = [(480, bytes(900)), (520, bytes(900))]
    write_matroska(tmp_path / "v.mkv", packets)
    done = run_edgeclf("infer", colour_model, tmp_path / "v.mkv", "--json", "--save", tmp_path / "drawn.avi")
    assert done.returncode == 3, done.stderr
    found = records(done.stdout)
    assert [r["frame"] for r in found] == [n for n in range(30) if n != 13]
    assert [r.get("label") for r in found] == [None if n == 12 else in_turns(30)[n] for n in range(30) if n != 13]
    assert "2 damaged packets" in found[12]["error"]
    assert cv2.VideoCapture(str(tmp_path / "drawn.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 28
    ignored = run_edgeclf("infer", colour_model, tmp_path / "v.mkv", "--ignore-unreadable")
    assert ignored.returncode == 0
    assert "ended early" not in ignored.stderr
