"""The benchmarks of robustness find the faults that they look for, and draw what they say they draw."""

import importlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return lambda name: importlib.import_module(f"benchmarks.robustness.{name}")


def drawn_tables(module, rng, count=400):
    drawn = module("drawn_tables")
    return [drawn.draw_table(rng) for _ in range(count)]


def test_most_tables_are_to_be_read_and_those_that_are_not_have_no_meaning(module, rng):
    drawn = module("drawn_tables")
    tables = drawn_tables(module, rng)
    assert sum(table.kind in drawn.READ for table in tables) > len(tables) / 2
    assert all((table.meant is None) == (table.kind in drawn.REFUSED) for table in tables)


def test_a_table_that_is_read_otherwise_is_found(module, rng):
    judge = module("tables").judge
    table = next(table for table in drawn_tables(module, rng) if table.kind == "plain")
    meant = sorted(table.meant)
    assert judge(table, meant, None, None) is None
    path, _, *rest = meant[0]
    assert judge(table, [(path, "bird", *rest), *meant[1:]], None, None).startswith("read wrong")
    assert judge(table, meant[1:], None, None).startswith("read wrong")
    assert judge(table, None, "no such table.", None).startswith("refused")
    assert judge(table, None, None, "ValueError()").startswith("traceback")
    refused = replace(table, meant=None)
    assert judge(refused, None, "no such table.", None) is None
    assert judge(refused, None, "two\nlines.", None).startswith("no sentence")
    assert judge(refused, meant, None, None) == "read"


def test_a_layout_that_is_read_otherwise_is_found(module, rng, tmp_path):
    from edgeclf.training.data.discovery import discover_dataset

    judge, drawn = module("layouts").judge, module("drawn_layouts")
    layout = drawn.Layout("class folders", tmp_path / "data")
    drawn.READ["class folders"](layout, rng)
    dataset = discover_dataset(layout.root)
    assert judge(layout, dataset, None, None) is None
    assert judge(replace(layout, not_read=1), dataset, None, None).startswith("not read is miscounted")
    assert judge(replace(layout, meant=None), dataset, None, None) == "read"
    assert judge(layout, None, "no images.", None).startswith("refused")
    assert judge(layout, None, None, "OSError()").startswith("traceback")
    moved = replace(dataset, samples=(replace(dataset.samples[0], split="test"), *dataset.samples[1:]))
    assert judge(layout, moved, None, None).startswith("another data set")


def test_pictures_are_of_every_suffix_that_is_read_and_damage_changes_them(module, rng):
    from edgeclf.runtime.images.formats.heif import HEIF_SUFFIXES
    from edgeclf.runtime.images.preprocess import IMAGE_SUFFIXES

    pictures = module("pictures")
    whole = pictures.draw_pictures(rng, 1)
    suffixes = {f".{suffix.lower()}" for picture in whole for suffix in picture.suffixes}
    assert suffixes == IMAGE_SUFFIXES - HEIF_SUFFIXES
    damaged = list(pictures.draw_damage(whole, 2_000, rng))
    kinds = {kind for file in damaged for kind in file.kind.split(" + ")}
    assert pictures.MUST_BE_READ < pictures.HARMLESS < kinds
    assert all(file.data == whole[file.origin].data for file in damaged if file.kind in pictures.MUST_BE_READ)
    changed = [file.data != whole[file.origin].data for file in damaged if file.kind not in pictures.HARMLESS]
    # A block of zeros may be zeroed, a file may have no line end.
    assert np.mean(changed) > 0.8


def test_a_process_and_its_children_are_killed_at_a_point(module, tmp_path):
    killing = module("killing")
    code = (
        "import subprocess, sys, time; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(folder / 'child').write_text(str(child.pid)); (folder / '.0123456789ab.part.csv').write_text('1\\n2\\n')\n"
        "time.sleep(600)"
    )
    point = killing.at_text(tmp_path, ".*.part.csv", 2)
    assert killing.run_and_kill([sys.executable, "-c", code, str(tmp_path)], dict(os.environ), point)
    child = int((tmp_path / "child").read_text())
    deadline_s = time.monotonic() + 60
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline_s, "the child is still there"
        time.sleep(0.01)
    (tmp_path / ".notes.part").touch()
    (tmp_path / ".run.0a1b2c3d.part").mkdir()
    assert killing.leftovers(tmp_path) == [".*.part.csv", ".run.*.part"]
    assert not killing.run_and_kill([sys.executable, "-c", ""], dict(os.environ), killing.at_file(tmp_path, "never"))
    with pytest.raises(SystemExit, match="ended with 3"):
        killing.run_and_kill([sys.executable, "-c", "exit(3)"], dict(os.environ), killing.at_file(tmp_path, "never"))


def test_copies_in_two_parts_and_images_that_moved_are_counted(module):
    judge = module("splits").judge
    pictures = {"a/animal1_1.png": "x", "a/animal1_2.png": "x", "b/animal2_1.png": "y"}
    before = dict.fromkeys(pictures, "train")
    same = judge(before, {**before, "a/animal1_9.png": "train"}, pictures, [], has_groups=True)
    assert (same["copies_in_several_parts"], same["groups_in_several_parts"], same["moved_by_ten_more"]) == (0, 0, 0)
    after = {**before, "b/animal2_1.png": "val", "a/animal1_2.png": "test"}
    moved = judge({**before, "a/animal1_1.png": "val"}, after, pictures, [], has_groups=True)
    assert (moved["copies_in_several_parts"], moved["groups_in_several_parts"], moved["moved_by_ten_more"]) == (1, 1, 3)


def test_a_chunk_with_faults_is_judged(module, rng, tmp_path):
    damaged, pictures = module("damaged_pictures"), module("pictures")
    from benchmarks.synthetic import write_model

    whole = [picture for picture in pictures.draw_pictures(rng, 1) if picture.name == "PNG RGB"]
    model = write_model(tmp_path / "model.onnx", 1, size_px=32)
    files = {f"{n}.png": pictures.Damaged(0, "none", ".png", whole[0].data) for n in range(3)}
    judge = damaged.Judge(model, whole)
    first = damaged.confidences(model, whole)[0]
    right = '{{"source": "{}", "index": 0, "confidence": {:.6f}}}'
    lines = [right.format("0.png", first), right.format("1.png", first + 0.01), '{"source": "1.png", "error": "no"}']
    judge.chunk(files, subprocess.CompletedProcess([], -11, "\n".join(lines), "Traceback (most recent call last)"))
    assert judge.faults == {
        "processes that died": 1,
        "tracebacks": 1,
        "unharmed pictures given something else": 1,
        "unharmed pictures refused": 1,
        "refusals that are not one sentence about their file": 1,
        "2 records": 1,
        "0 records": 1,
    }


@pytest.fixture
def box(module, tmp_path):
    sandbox = module("hostile_files.sandbox").Sandbox
    made = sandbox(
        tmp_path / "outside", tmp_path / "box" / "files", tmp_path / "box" / "data", tmp_path / "box" / "out"
    )
    for folder in (made.outside / "saved", made.inside, made.data, made.out):
        folder.mkdir(parents=True)
    (made.outside / "secret.onnx").write_bytes(b"no model")
    (made.inside / "own.onnx").write_bytes(b"no model")
    return made


def test_what_a_command_opens_outside_is_found_and_what_it_refuses_is_none(module, box):
    worker = module("hostile_files.process").Worker(box.inside.parent, box.outside)
    faults_of = module("hostile").faults_of
    try:
        refused = worker.run(["info", str(box.inside / "own.onnx")])
        assert (refused.code, faults_of(refused, box)) == (3, [])
        reached = worker.run(["info", str(box.outside / "secret.onnx")])
        assert faults_of(reached, box) == ["touched outside: secret.onnx"]
    finally:
        worker.close()


def test_code_tracebacks_and_processes_that_die_are_found(module, box):
    done, faults_of = module("hostile_files.process").Done, module("hostile").faults_of

    def kinds(*given):
        return [fault.split(":")[0] for fault in faults_of(done(*given), box)]

    assert kinds(0, "") == kinds(4, "") == []
    assert kinds(1, "Traceback") == ["traceback"]
    assert kinds(None, "the process ended with -11") == ["died"]
    assert kinds(3, "", ("executed",)) == ["executed"]
    assert kinds(3, "", (), ("/tmp/written",)) == ["made outside"]
    box.canary.touch()
    assert kinds(3, "") == ["executed"]


def test_kinds_of_hostile_files_are_drawn_alike_for_the_same_seed(module, box, tmp_path):
    drawing, bases = (getattr(module("hostile_files.sandbox"), name) for name in ("Drawing", "Bases"))
    good = bases(*(b"PK\x05\x06" + bytes(200),) * 6)
    others, runs = module("hostile_files.other_files").OTHERS, module("hostile_files.run_folders").RUNS
    for name, kind in {**others, **runs}.items():
        drawn = []
        for _ in range(2):
            folder = tmp_path / "drawn"
            folder.mkdir()
            kind(drawing(folder, good, box, np.random.default_rng(1)))
            files = [path for path in folder.rglob("*") if path.is_file()]
            drawn.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
            shutil.rmtree(folder)
        assert drawn[0] == drawn[1], name
    assert not box.canary.exists()


def test_documents_changed_at_random_are_read_with_their_types_or_refused(module, tmp_path):
    judge, documents = module("documents").judge, module("hostile_files.document_kinds").make_documents()
    faults = []
    for kind, document in enumerate(documents):
        for number in range(8):
            place = tmp_path / f"{kind}-{number}"
            place.mkdir()
            text = document.draw(np.random.default_rng((2, kind, number))) if number else document.text
            what, fault = judge(document, place, text)
            if fault is not None or (not number and what != "read"):
                faults.append((document.name, text[:500], what, fault))
    assert not faults


@dataclass
class Pair:
    """What a reader might give."""

    count: int
    names: tuple[str, ...] = ()
    rate: float | None = None


def test_a_reader_that_lets_something_through_is_found(module, tmp_path):
    from edgeclf.runtime.errors import InputError

    documents = module("hostile_files.documents")
    judge = module("documents").judge

    def became(read):
        return judge(documents.Document("kind", "{}", read), tmp_path, "text")

    def refuse(*_):
        raise InputError("cannot read it", got="nothing")

    def fail(*_):
        raise KeyError("a")

    assert became(lambda *_: [Pair(1, ("a",), 2)]) == ("read", None)
    assert became(refuse) == ("refused", None)
    assert became(fail)[1].startswith("traceback KeyError at test_robustness.py:")
    for wrong in (Pair("1"), Pair(count=True), Pair(1, ["a"]), Pair(1, (2,)), Pair(1, (), "x"), Pair(None)):
        assert became(lambda *_, wrong=wrong: [wrong])[1].startswith("wrong type: Pair."), wrong


def test_changed_documents_differ_and_are_the_same_for_the_same_seed(module):
    kinds = module("hostile_files.document_kinds").make_documents()
    for document in kinds:
        drawn = [document.draw(np.random.default_rng((3, number))) for number in range(20)]
        assert drawn == [document.draw(np.random.default_rng((3, number))) for number in range(20)]
        assert len(set(drawn)) > 5
        assert sum(text == document.text for text in drawn) < 5
