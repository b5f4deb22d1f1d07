"""The example applications, run as a user runs them."""

import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeclf.runtime import Frozen, Recovered

ROOT = Path(__file__).resolve().parent.parent
NOT_INSTALLED = ("typer", "rich", "tensorflow", "keras", "onnx", "tf2onnx", "matplotlib")
RUN_WITHOUT = """
import runpy, sys
blocked = sys.argv[1].split(",")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def sort_photos(*arguments, blocked=NOT_INSTALLED):
    script = ROOT / "examples" / "sort_photos.py"
    command = [sys.executable, "-c", RUN_WITHOUT, ",".join(blocked), str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def write_image(path, colour_rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((40, 50, 3), colour_rgb[::-1], np.uint8))


@pytest.fixture
def photos(tmp_path):
    for number in range(11):
        write_image(tmp_path / "photos" / f"{number:02}.png", (250, 20, 20))
    write_image(tmp_path / "photos" / "deeper" / "00.PNG", (20, 250, 20))
    write_image(tmp_path / "photos" / "deeper" / "03.png", (250, 20, 20))
    write_image(tmp_path / "photos" / "grey.jpg", (128, 128, 128))
    (tmp_path / "photos" / "notes.txt").write_text("not a photograph")
    return tmp_path / "photos"


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_photographs_are_sorted_by_class_and_confidence(colour_model, photos, tmp_path):
    before = names_in(photos)
    done = sort_photos(colour_model, photos, tmp_path / "sorted")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["green: 1", "red: 12", "unsure: 1"]
    red = [f"red/{number:02}.png" for number in range(11)]
    assert names_in(tmp_path / "sorted") == sorted(["green/00.PNG", *red, "red/03-2.png", "unsure/grey.jpg"])
    assert names_in(photos) == before


def test_without_a_threshold_nothing_is_unsure(colour_model, photos, tmp_path):
    done = sort_photos(colour_model, photos, tmp_path / "sorted", "--min-confidence", "0")
    assert done.returncode == 0
    assert "unsure" not in done.stdout


def test_moved_photographs_are_gone_and_unreadable_ones_stay(colour_model, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"")
    (photos / "page.png").write_text("<html>")
    done = sort_photos(colour_model, photos, tmp_path / "sorted", "--move")
    assert done.returncode == 3
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        f"cannot read {photos / 'broken.jpg'}",
        f"cannot read {photos / 'page.png'}",
    ]
    assert names_in(photos) == ["broken.jpg", "notes.txt", "page.png"]
    assert len(names_in(tmp_path / "sorted")) == 14


def test_a_missing_model_is_one_sentence(photos, tmp_path):
    done = sort_photos(tmp_path / "no.onnx", photos, tmp_path / "sorted")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("cannot open model")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sorted").exists()


@pytest.fixture
def colour_jpeg():
    def make(colour_rgb):
        return cv2.imencode(".jpg", np.full((48, 64, 3), colour_rgb[::-1], np.uint8))[1].tobytes()

    return make


def test_a_door_follows_a_camera_that_is_cut_and_comes_back(colour_model, stream_server, colour_jpeg):
    red, green = colour_jpeg((200, 0, 0)), colour_jpeg((0, 200, 0))

    def parts(connection):
        if connection == 1:
            raise LookupError  # not back yet
        pictures = [red] * 20 + [green] * 20 + [red] * (40 if connection == 0 else 100_000)
        return (item for picture in pictures for item in (picture, 0.03))

    script = str(ROOT / "examples" / "live_door.py")
    # Where the tests themselves run in the background, a shell has Ctrl-C ignored, and children inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-c", RUN_WITHOUT, ",".join(NOT_INSTALLED), script]
    with stream_server(parts) as server:
        command += [str(colour_model), server.url, "green"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        hung = threading.Timer(120, process.kill)
        hung.start()
        try:
            # Opened and closed before the cut, and again after it.
            moves = [process.stdout.readline().strip() for _ in range(4)]
            process.send_signal(signal.SIGINT)
            _, log = process.communicate(timeout=60)
        finally:
            hung.cancel()
            process.kill()
    assert moves == ["open", "closed"] * 2
    assert process.returncode == 0, log
    kinds = [line.partition("(")[0] for line in log.splitlines()]
    assert kinds[0] == "Connected"
    assert kinds[-1] == "Ended"
    assert kinds.count("Disconnected") == 2
    assert kinds.count("Reconnected") == 1
    assert "HTTP 503" in log


def test_a_door_stays_closed_while_the_same_image_comes_again_and_again(capsys):
    script = runpy.run_path(str(ROOT / "examples" / "live_door.py"))
    door, on_event = script["Door"](), script["on_event"]
    door.move(open_it=True)
    on_event(door, Frozen("camera", "still", 10.0))
    assert not door.is_open
    # Results go on, and the image still shows the class.
    door.move(open_it=True)
    assert not door.is_open
    on_event(door, Recovered("camera"))
    door.move(open_it=True)
    assert door.is_open
    assert capsys.readouterr().out.split() == ["open", "closed", "open"]


def test_a_door_without_a_camera_is_one_sentence(colour_model):
    script = str(ROOT / "examples" / "live_door.py")
    command = [sys.executable, script, str(colour_model), "http://127.0.0.1:9/", "green"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("cannot open camera http://127.0.0.1:9/")
    assert done.stderr.count("\n") == 1


UNIT = ROOT / "examples" / "edgeclf-camera.service"


def test_the_service_runs_a_command_that_the_program_understands(run_edgeclf, colour_model, tmp_path):
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    program, *arguments = shlex.split(line.removeprefix("ExecStart="))
    assert program == "/opt/edgeclf/bin/edgeclf"
    video = tmp_path / "camera.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), (0, 0, 200), np.uint8))
    writer.release()
    places = {"${CAMERA}": str(video), "/etc/edgeclf/model.onnx": str(colour_model)}
    arguments = [places.get(word, word).replace("${STATE_DIRECTORY}", str(tmp_path)) for word in arguments]
    done = run_edgeclf(*arguments)
    assert done.returncode == 0, done.stderr
    assert '"event": "label"' in (tmp_path / "events.jsonl").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_service_is_a_unit_that_systemd_accepts(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/edgeclf/bin/edgeclf", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert UNIT.name not in done.stderr, done.stderr


def test_a_web_service_classifies_uploads(colour_model, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient", reason="needs the serve extra")
    monkeypatch.setenv("EDGECLF_MODEL", str(colour_model))
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
    module = runpy.run_path(str(ROOT / "examples" / "classify_uploads.py"))
    upload = cv2.imencode(".png", np.full((40, 50, 3), (20, 20, 250), np.uint8))[1].tobytes()
    with testclient.TestClient(module["app"]()) as client:
        done = client.post("/classify", content=upload)
        assert (done.status_code, done.json()["label"]) == (200, "red")
        for broken in (b"", b"no picture", upload[:60]):
            refused = client.post("/classify", content=broken)
            assert refused.status_code == 422
            assert "cannot" in refused.json()["error"]
        assert client.post("/classify", content=bytes(module["MOST_BYTES"] + 1)).status_code == 413
        assert client.get("/classify").status_code == 405
        assert client.post("/classify", content=upload).status_code == 200
