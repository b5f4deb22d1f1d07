"""`edgeclf infer` as a user meets it: records, exit codes, damaged files."""

import csv
import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from edgeclf.runtime import Classifier, Prediction, SourceError
from edgeclf.runtime.batch.jobs import Outcome
from edgeclf.toolkit.infer.file_list import read_file_list
from edgeclf.toolkit.infer.records import SinkOptions, make_writer, record_output

from ..colours import COLOURS_BGR, colour_image, records

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for label in COLOURS_BGR:
        (folder / label).mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(folder / label / f"{number}.jpg"), colour_image(label))
    (folder / "notes.txt").write_text("not an image, and not named like one")
    (folder / ".hidden").mkdir()
    cv2.imwrite(str(folder / ".hidden" / "x.jpg"), colour_image("red"))
    return folder


def test_files_in_folders_that_are_not_read_are_counted_and_those_that_are_named_are_tried(
    run_edgeclf, colour_model, images
):
    (images / "red/0.jpg").rename(images / "red/0.jfif")
    (images / "red/phone.cr2").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    done = run_edgeclf("infer", colour_model, images, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert len(records(done.stdout)) == 9
    assert "warning: 2 files in the folders are not read: 1 .txt, 1 .cr2" in done.stderr
    named = run_edgeclf("infer", colour_model, images / "red/phone.cr2", "--format", "jsonl")
    assert named.returncode == 3
    assert "not read" not in named.stderr


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def add_damaged(folder: Path) -> set[str]:
    """The eight kinds of file that people have among their images."""
    photo = data.astronaut()[..., ::-1]
    jpeg, png = (cv2.imencode(suffix, photo)[1].tobytes() for suffix in (".jpg", ".png"))
    (folder / "empty.jpg").touch()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "truncated.png").write_bytes(png[: len(png) // 2])
    (folder / "text.jpg").write_text("hello")
    (folder / "page.png").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to("/nowhere/at/all.jpg")
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")
    (folder / "enormous.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    return {path.name for path in folder.iterdir()}


def test_a_folder_gives_one_record_an_image_in_order(run_edgeclf, colour_model, images):
    done = run_edgeclf("infer", colour_model, images, "--format", "jsonl", "--top-k", 2, "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    sources = [record["source"] for record in found]
    assert sources == sorted(str(p) for p in images.glob("[!.]*/*.jpg"))
    for record in found:
        assert record["label"] == Path(record["source"]).parent.name
        assert record["label"] == ("red", "green", "blue")[record["index"]]
        assert record["top_k"][0] == [record["label"], record["confidence"]]
        assert len(record["top_k"]) == 2
        assert record["latency_ms"] > 0
        assert "frame" not in record


def test_each_damaged_file_costs_exactly_its_own_record(run_edgeclf, colour_model, images):
    damaged = images / "damaged"
    damaged.mkdir()
    names = add_damaged(damaged)
    assert len(names) == 8
    done = run_edgeclf("infer", colour_model, images, "--format", "jsonl")
    assert done.returncode == 3
    assert "8 of the images could not be read or classified" in done.stderr
    assert "Traceback" not in done.stderr
    found = records(done.stdout)
    assert Counter("error" in record for record in found) == {True: 8, False: 9}
    assert {Path(r["source"]).name for r in found if "error" in r} == names
    assert all(set(r) == {"source", "error"} for r in found if "error" in r)
    # Nothing but our own words on stderr: no libpng, no FFmpeg, no OpenCV.
    ours = ("edgeclf: ", "warning: 1 file in the folders is not read: 1 .txt")
    assert all(line.startswith(ours) or " images in " in line for line in done.stderr.splitlines()), done.stderr
    ignored = run_edgeclf("infer", colour_model, images, "--format", "jsonl", "--ignore-unreadable")
    assert ignored.returncode == 0
    strip = lambda text: [{k: v for k, v in r.items() if k != "latency_ms"} for r in records(text)]  # noqa: E731
    assert strip(ignored.stdout) == strip(done.stdout)


def test_a_class_called_unknown_is_told_apart_from_a_rejection(run_edgeclf, make_colour_model, images, tmp_path):
    changes = {"rejection_threshold": 0.9, "labels": ("unknown", "green", "blue")}
    model = make_colour_model(tmp_path / "unknown.onnx", spec_changes=changes)
    cv2.imwrite(str(images / "grey.png"), np.full((32, 32, 3), 90, np.uint8))
    sources = (images / "grey.png", images / "red/0.jpg", images / "blue/0.jpg")
    found = records(run_edgeclf("infer", model, *sources, "--format", "jsonl").stdout)
    assert [(r["label"], r["rejected"]) for r in found] == [("unknown", True), ("unknown", False), ("blue", False)]
    rows = csv.DictReader(run_edgeclf("infer", model, *sources, "--format", "csv").stdout.splitlines())
    assert [row["rejected"] for row in rows] == ["true", "false", "false"]


def test_csv_and_table_say_the_same_as_json_lines(run_edgeclf, colour_model, images):
    add_damaged(images)
    lines = records(run_edgeclf("infer", colour_model, images, "--json").stdout)
    rows = list(csv.DictReader(run_edgeclf("infer", colour_model, images, "--format", "csv").stdout.splitlines()))
    assert [r["source"] for r in rows] == [r["source"] for r in lines]
    assert [r["label"] for r in rows] == [r.get("label", "") for r in lines]
    assert [r["error"] for r in rows] == [r.get("error", "") for r in lines]
    assert [r["rejected"] for r in rows] == ["" if "error" in r else "false" for r in lines]
    table = run_edgeclf("infer", colour_model, images).stdout.splitlines()
    assert len(table) == 1 + len(lines)
    assert [row.split()[-1] for row, record in zip(table[1:], lines, strict=True) if "label" in record] == [
        record["label"] for record in lines if "label" in record
    ]


def test_the_summary_says_how_the_cpus_were_shared(run_edgeclf, colour_model, images):
    for options, words in (
        (("--threads", 1, "--workers", 3), "3 data-parallel workers, one thread each"),
        (("--threads", 2, "--workers", 1), "1 worker decoding for one inference of 2 threads"),
    ):
        done = run_edgeclf("infer", colour_model, images, "--json", *options)
        assert done.returncode == 0
        assert done.stderr.rstrip().endswith(words)


def test_exact_decodes_every_pixel_of_a_large_photograph(run_edgeclf, colour_model, tmp_path):
    photo = cv2.resize(data.astronaut()[..., ::-1], (1600, 1200), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "x.jpg"), photo)
    exact, quick = (
        records(run_edgeclf("infer", colour_model, tmp_path / "x.jpg", "--json", "--top-k", 3, *options).stdout)[0]
        for options in (("--exact",), ())
    )
    wanted = Classifier(colour_model, exact=True).predict(cv2.imread(str(tmp_path / "x.jpg")))
    assert exact["confidence"] == pytest.approx(wanted.confidence, abs=1e-6)
    assert quick["label"] == exact["label"]
    assert 0 < abs(quick["confidence"] - exact["confidence"]) < 0.02


def test_globs_files_and_several_sources(run_edgeclf, colour_model, images):
    done = run_edgeclf("infer", colour_model, f"{images}/**/1.jpg", images / "red" / "0.jpg", "--json")
    assert done.returncode == 0
    assert [Path(r["source"]).relative_to(images).as_posix() for r in records(done.stdout)] == [
        "blue/1.jpg", "green/1.jpg", "red/1.jpg", "red/0.jpg",
    ]  # fmt: skip


def test_out_is_written_whole_or_not_at_all(run_edgeclf, colour_model, images, tmp_path):
    out = tmp_path / "deep" / "records.jsonl"
    assert run_edgeclf("infer", colour_model, images, "--json", "--out", out).returncode == 0
    assert len(records(out.read_text())) == 9
    assert [p.name for p in out.parent.iterdir()] == ["records.jsonl"]
    full = run_edgeclf("infer", colour_model, images, "--json", "--out", images / "red" / "0.jpg" / "x.jsonl")
    assert full.returncode == 3
    assert "cannot write" in full.stderr


def test_a_full_disk_leaves_nothing_behind(colour_model, images, tmp_path):
    out = tmp_path / "records.jsonl"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from edgeclf.toolkit.cli import main; sys.argv[0] = 'edgeclf'; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "infer", str(colour_model), str(images), "--json", "--out", str(out)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "cannot write" in done.stderr
    assert not list(tmp_path.glob("*.jsonl"))
    assert not list(tmp_path.glob(".*"))


def test_a_reader_that_stops_early_is_no_error(colour_model, images):
    command = (
        f"{sys.executable} -m edgeclf.toolkit infer {colour_model} {images} --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 3, "no such file or folder"),
        (["*.nothing"], 3, "no images or videos that match"),
        (["EMPTY"], 3, "no images or videos in"),
        ([], 2, "nothing to classify"),
        (["rtsp://eve:hunter2@192.0.2.1/live"], 2, "cannot read rtsp://eve:***@192.0.2.1/live: got an address"),
        (["rtsp:/eve:hunter2@192.0.2.1/live"], 2, "cannot read rtsp:/***/live: got an address"),
        (["--files-from", "LIST"], 2, "cannot read rtsp://eve:***@192.0.2.1/live: got an address"),
        (
            ["--camera", "ftp://eve:hunter2@192.0.2.1/clip.mp4"],
            3,
            "cannot open camera ftp://eve:***@192.0.2.1/clip.mp4: got no such",
        ),
        (["IMAGES", "--camera", "0"], 2, "both a camera and sources"),
        (["IMAGES", "--format", "xml"], 2, "table or jsonl or csv"),
        (["IMAGES", "--device", "tpu"], 2, "unknown device"),
        (["IMAGES", "--save", "x.mp4"], 2, "still images"),
        (["IMAGES", "--labels", "labels.txt"], 3, "cannot read labels"),
        (["--camera", "front door"], 2, "cannot use 'front door' as a camera"),
        (["--camera", "63"], 3, "cannot open camera 63"),
        (["--camera", "63", "--exact"], 2, "--exact is for files"),
        (["--camera", "63", "--ignore-unreadable"], 2, "--ignore-unreadable is for files"),
        (["--camera", "63", "--loop"], 2, "--loop is for cameras that are files"),
        (["IMAGES", "--json", "--format", "csv"], 2, "--format csv and --json name two formats"),
    ],
)
def test_bad_requests_get_one_sentence(run_edgeclf, colour_model, images, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("rtsp://eve:hunter2@192.0.2.1/live\n")
    places = {"IMAGES": str(images), "EMPTY": str(tmp_path / "empty"), "LIST": str(tmp_path / "list.txt")}
    done = run_edgeclf("infer", colour_model, *[places.get(a, a) for a in arguments])
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_gpu_that_is_not_there_is_exit_5(run_edgeclf, colour_model, images):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed: the device may be there")
    done = run_edgeclf("infer", colour_model, images, "--device", "cuda")
    assert done.returncode == 5
    assert "onnxruntime-gpu" in done.stderr
    assert done.stdout == ""


def test_a_model_verified_on_another_cpu_is_said_to_be(run_edgeclf, make_colour_model, images, tmp_path):
    from edgeclf.runtime.cpus import cpu_info

    here = cpu_info().to_json()
    other = {**here, "model": "Another CPU", "isa_flags": [*here["isa_flags"], "avx512_vnni_next"]}
    for name, cpu, warned in (("here", here, False), ("other", other, True)):
        model = make_colour_model(tmp_path / f"{name}.onnx", spec_changes={"parity": {"cpu": cpu}})
        done = run_edgeclf("infer", model, images, "--json")
        assert done.returncode == 0
        assert ("avx512_vnni_next" in done.stderr) == warned, done.stderr


def test_files_load_no_camera_code_and_nothing_that_is_on_unix_only(colour_model, images):
    program = (
        "import sys\nsys.modules['resource'] = None\nfrom edgeclf.toolkit.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "infer", str(colour_model), str(images), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert records(done.stdout)
    assert "'edgeclf.toolkit.infer.files'" in done.stderr
    for module in ("edgeclf.runtime.live", "edgeclf.toolkit.infer.cameras", "edgeclf.toolkit.events"):
        assert f"'{module}" not in done.stderr


@pytest.mark.parametrize(("between", "end"), [("\n", "\n"), ("\n", ""), ("\r\n", "\r\n"), ("\0", "\0"), ("\n\n", "\n")])
@pytest.mark.parametrize("is_stdin", [False, True])
def test_a_list_names_the_files(tmp_path, images, monkeypatch, between, end, is_stdin):
    odd = images / "a [odd] name\r" if between == "\0" else images / "a [odd] name"
    names = [images / "red" / "0.jpg", odd, images / "none.jpg"]
    data = (between.join(map(str, names)) + end).encode()
    (tmp_path / "list").write_bytes(data)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_file_list("-" if is_stdin else str(tmp_path / "list")) == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *((content, "no names") for content in (b"", b"\n\n", b"\0")),
        (None, "no such file"),
        ("a.jpg\r\n".encode("utf-16"), "UTF-16 text.*save it as UTF-8"),
    ],
)
def test_a_list_that_names_nothing_is_an_error(tmp_path, content, words):
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_file_list(str(tmp_path / "list"))


def test_files_of_a_list_come_behind_the_sources_and_cost_their_own_records(run_edgeclf, colour_model, images):
    done = run_edgeclf(
        "infer", colour_model, images / "green", "--files-from", "-", "--json",
        input=f"{images / 'red' / '1.jpg'}\0{images / 'none.jpg'}\0",
    )  # fmt: skip
    assert done.returncode == 3
    found = records(done.stdout)
    assert [record.get("label") for record in found] == ["green"] * 3 + ["red", None]
    assert "no such file" in found[-1]["error"]
    both = run_edgeclf("infer", colour_model, "--files-from", "-", "--camera", "0", input="")
    assert both.returncode == 2
    assert "--files-from, or --camera" in both.stderr


def test_an_interrupted_run_keeps_its_records(colour_model, images, tmp_path):
    # The last file is a pipe that nobody writes into: the run waits there.
    os.mkfifo(images / "z.jpg")
    out = tmp_path / "records.jsonl"
    (tmp_path / "list").write_text(
        "".join(f"{path}\n" for path in [*sorted(images.rglob("*/[0-9].jpg")), images / "z.jpg"])
    )
    command = [
        sys.executable,
        "-m",
        "edgeclf.toolkit",
        "infer",
        str(colour_model),
        "--files-from",
        str(tmp_path / "list"),
    ]
    with subprocess.Popen(
        [*command, "--json", "--out", str(out), "--workers", "1", "--batch-size", "1"],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background leaves the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nothing else happens there
    ) as process:
        for _ in range(600):
            with suppress(OSError):
                pipe = os.open(images / "z.jpg", os.O_WRONLY | os.O_NONBLOCK)
                break
            time.sleep(0.1)
        # Its neighbours ahead of it are classified by then or soon.
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        os.close(pipe)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    kept = records(out.read_text())
    assert f"interrupted after {len(kept)} images; {out} has the records of these" in errors
    assert 1 <= len(kept) <= 9
    assert all("label" in record for record in kept)


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_stood_there_is_replaced_by_records_alone(tmp_path, is_kept):
    out = tmp_path / "records.jsonl"
    out.write_text("old")
    targets = SinkOptions("jsonl", 1, out, show=False, save=None, max_frames=None, duration_s=None)

    def write(text, error, *, keep):
        with record_output(targets, is_kept=lambda: keep) as emit:
            emit(text)
            raise error

    with pytest.raises(KeyboardInterrupt):
        write("new\n", KeyboardInterrupt(), keep=is_kept)
    assert out.read_text() == ("new\n" if is_kept else "old")
    # A failure that nobody asked for keeps nothing.
    with pytest.raises(ZeroDivisionError):
        write("newer\n", ZeroDivisionError(), keep=True)
    assert out.read_text() == ("new\n" if is_kept else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


@pytest.mark.parametrize("labels", [("a;b", "c=d", "e\\f"), ("plain", "two words", "ümläut"), ("\\", ";", "=")])
def test_labels_in_a_csv_can_be_told_apart(labels):
    prediction = Prediction(labels[0], 0, 0.5, np.array([0.5, 0.25, 0.25], np.float32), labels)
    lines = []
    targets = SinkOptions("csv", 3, None, show=False, save=None, max_frames=None, duration_s=None)
    make_writer(targets, lines.append, 5).write(Outcome("x.jpg", None, prediction, None, 1.0))
    (row,) = csv.DictReader(io.StringIO("".join(lines)))
    pairs = re.findall(r"((?:\\.|[^\\;=])+)=([^;]+)", row["top_k"])
    assert [(re.sub(r"\\(.)", r"\1", label), float(share)) for label, share in pairs] == [
        (labels[0], 0.5), (labels[1], 0.25), (labels[2], 0.25),
    ]  # fmt: skip
