"""The example applications, run as a user runs them."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

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
