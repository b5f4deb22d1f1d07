"""A training on a Parquet file, and what follows it, also where the cache has lost the images or the file has changed."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeclf.training.data.packed import extraction
from edgeclf.training.run.folder import load_run

from ...conftest import SEED_CNN

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packed(photographs, tmp_path_factory):
    """The photographs in a Parquet file, a run of it, and the cache that it was made with."""
    folder = tmp_path_factory.mktemp("packed")
    files = sorted(photographs.rglob("*.*"))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = pa.table({"image": rows, "label": [file.parent.name for file in files]})
    pq.write_table(table, folder / "data.parquet")
    return folder


@pytest.fixture
def call(call_edgeclf, packed, monkeypatch):
    monkeypatch.setenv("EDGECLF_CACHE", str(packed / "cache"))

    def call(*arguments, code=0):
        done = call_edgeclf(*arguments)
        # As a process that ends.
        for root in list(extraction._held):
            extraction._let_go(root)
        # A doctor that finds a problem ends with 4.
        assert done.code == code or (code is None and done.code in {0, 4}), done.err
        return done

    return call


@pytest.fixture(scope="module")
def run(run_edgeclf, packed):
    command = ("train", packed / "data.parquet", "--run", packed / "run", *SEED_CNN, "--epochs", 1, "--json")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("EDGECLF_CACHE", str(packed / "cache"))
        done = run_edgeclf(*command)
    assert done.returncode == 0, done.stderr
    return packed / "run"


def images_of(run):
    return Path(json.loads((run / "run.json").read_text())["data_root"])


def test_a_training_on_parquet_divides_as_one_on_the_same_files(run, trained_run, photographs):
    loaded = load_run(run)
    by_content = {sample.digest: (sample.label, sample.split) for sample in loaded.split}
    assert by_content == {sample.digest: (sample.label, sample.split) for sample in load_run(trained_run.folder).split}
    assert loaded.data_root.parent == run.parent / "cache"
    assert loaded.source == run.parent / "data.parquet"


def test_images_that_the_cache_has_lost_come_back(call, run, tmp_path):
    root = images_of(run)
    shutil.rmtree(root, ignore_errors=True)
    exported = call("export", run, "--out", tmp_path / "model.onnx")
    assert "Ship fp32" in exported.out
    assert root.is_dir()
    for path in root.parent.glob("images-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert call("compare", run, tmp_path / "model.onnx", "--json").json()["images"] == 9
    shutil.rmtree(root)
    assert call("doctor", run, "--fast", "--json", code=None).json()["data"]["looked_at"] == 60
    shutil.rmtree(root)
    assert call("evaluate", tmp_path / "model.onnx", run / "split.csv", "--json").json()["count"] == 9


def test_the_file_itself_is_evaluated_examined_and_exported_with(call, run, packed, tmp_path):
    moved = Path(shutil.copy(packed / "data.parquet", tmp_path))
    assert call("evaluate", run, moved, "--json").json()["count"] == 9
    assert call("doctor", moved, "--fast", "--json", code=None).json()["data"]["looked_at"] == 60
    shutil.rmtree(images_of(run), ignore_errors=True)
    call("export", run, "--data", moved, "--out", tmp_path / "model.onnx")


def test_the_column_of_images_is_the_one_that_is_named_or_that_the_training_had(call, run, packed, tmp_path):
    table = pq.read_table(packed / "data.parquet")
    moved = tmp_path / "data.parquet"
    pq.write_table(pa.table({"picture": table["image"], "mask": table["image"], "label": table["label"]}), moved)
    arguments = ("doctor", run, "--data", moved, "--fast", "--json")
    assert "--path-column picture" in call(*arguments, code=3).err
    examined = call(*arguments, "--path-column", "picture", code=None).json()
    assert examined["data"]["looked_at"] == 60
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    document = json.loads((copied / "run.json").read_text())
    document["options"]["path_column"] = "picture"
    (copied / "run.json").write_text(json.dumps(document))
    assert call("doctor", copied, *arguments[2:], code=None).json()["data"]["looked_at"] == 60
    call("export", copied, "--data", moved, "--out", tmp_path / "model.onnx")


def test_a_file_that_has_changed_is_said_where_images_are_gone(call, run, packed, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    document = json.loads((copied / "run.json").read_text())
    other = tmp_path / "data.parquet"
    pq.write_table(pq.read_table(packed / "data.parquet").slice(1), other)
    (copied / "run.json").write_text(json.dumps(document | {"data": str(other)}))
    root = images_of(run)
    shutil.rmtree(root, ignore_errors=True)
    done = call("export", copied, "--out", tmp_path / "model.onnx", code=3)
    assert f"got no folder {root}" in done.err
    assert not root.exists()
