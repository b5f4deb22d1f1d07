"""Packed data sets: what is read from Parquet and Arrow files, where images are extracted to, and what is refused."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import DatasetError, MissingPackageError, OutputError, UsageError
from edgeclf.training.data.discovery import discover_dataset, folder_of
from edgeclf.training.data.packed import extraction
from edgeclf.training.data.packed.dataset import restore_images
from edgeclf.training.data.table_files import TableOptions

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECLF_CACHE_SIZE", "1GB")
    monkeypatch.setenv("EDGECLF_CACHE", str(tmp_path / "home" / "edgeclf"))
    yield tmp_path / "home" / "edgeclf"
    # As a process that ends.
    for root in list(extraction._held):
        extraction._let_go(root)


@pytest.fixture
def encode(rng):
    def encode(suffix=".png"):
        return cv2.imencode(suffix, rng.integers(0, 256, (9, 12, 3), np.uint8))[1].tobytes()

    return encode


def features(names=None):
    """The schema metadata of `datasets`."""
    label = {"_type": "ClassLabel", "names": names} if names else {"dtype": "string", "_type": "Value"}
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}


def table_of(images, labels, names=None, paths=None, **more):
    rows = [{"bytes": data, "path": None if paths is None else paths[n]} for n, data in enumerate(images)]
    columns = {"image": pa.array(rows, IMAGE), "label": pa.array(labels), **{k: pa.array(v) for k, v in more.items()}}
    return pa.table(columns).replace_schema_metadata(features(names))


def write_arrow(table, path, kind=pa.ipc.new_stream):
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, kind(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def save_split(table, folder, shards=1):
    """As `Dataset.save_to_disk` does."""
    names = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    for n, name in enumerate(names):
        write_arrow(
            table.slice(n * len(table) // shards, (n + 1) * len(table) // shards - n * len(table) // shards),
            folder / name,
        )
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names], "_split": None})
    )
    (folder / "dataset_info.json").write_text("{}")


def contents(dataset):
    return [(dataset.root / sample.path).read_bytes() for sample in dataset.samples]


def test_a_parquet_file_with_named_classes_is_read(tmp_path, encode, cache):
    images = [encode(), encode(".jpg"), encode(".webp"), encode(".bmp")] * 40
    labels = [n % 3 for n in range(160)]
    paths = [f"some/where/picture {n}.png" for n in range(160)]
    pq.write_table(table_of(images, labels, ["cat", "dog", "ant"], paths), tmp_path / "data.parquet", row_group_size=50)
    dataset = discover_dataset(tmp_path / "data.parquet")
    assert dataset.labels == ("ant", "cat", "dog")
    assert [sample.label for sample in dataset.samples] == [("cat", "dog", "ant")[label] for label in labels]
    assert contents(dataset) == images
    assert {sample.split for sample in dataset.samples} == {None}
    assert [sample.path for sample in dataset.samples[:4]] == [
        "data/000000-picture_0.png",
        "data/000001-picture_1.jpg",
        "data/000002-picture_2.webp",
        "data/000003-picture_3.bmp",
    ]
    assert dataset.root.parent == cache
    assert folder_of(tmp_path / "data.parquet", None) == dataset.root


@pytest.mark.parametrize("kind", ["stream", "file", "parquet"])
def test_text_numbers_and_categories_are_labels_as_in_a_csv(tmp_path, encode, kind):
    for labels, names in (
        (["b", "a", "nan", "b"], ("a", "b", "nan")),
        ([3, 10, 3, 0], ("0", "10", "3")),
        ([True, False, True, False], ("False", "True")),
        (pa.array(["x", "y", "x", "x"]).dictionary_encode(), ("x", "y")),
    ):
        table = table_of([encode() for _ in range(4)], labels).replace_schema_metadata(None)
        path = tmp_path / ("data.parquet" if kind == "parquet" else "data.arrow")
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            write_arrow(table, path, pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)
        assert discover_dataset(path, for_training=False).labels == names


def test_a_folder_that_save_to_disk_wrote_has_its_splits(tmp_path, encode):
    parts = {
        "train": [encode() for _ in range(20)],
        "validation": [encode() for _ in range(6)],
        "test": [encode() for _ in range(4)],
    }
    for name, images in parts.items():
        save_split(table_of(images, [n % 2 for n in range(len(images))], ["no", "yes"]), tmp_path / "saved" / name, 2)
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    dataset = discover_dataset(tmp_path / "saved")
    for name, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        mine = [sample for sample in dataset.samples if sample.split == split]
        assert [(dataset.root / sample.path).read_bytes() for sample in mine] == parts[name]
        assert [sample.label for sample in mine] == [("no", "yes")[n % 2] for n in range(len(mine))]
    # One split alone is a data set that is divided as any other.
    alone = discover_dataset(tmp_path / "saved" / "train")
    assert {sample.split for sample in alone.samples} == {None}
    assert contents(alone) == parts["train"]


def test_parquet_files_name_their_split_or_lie_in_its_folder(tmp_path, encode):
    def write(name, labels):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of([encode() for _ in labels], labels), tmp_path / name)

    for folder, names in (
        (
            "a",
            (
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002-0a1b.parquet",
                "data/test-00000-of-00001.parquet",
            ),
        ),
        ("b", ("default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet")),
        ("c", ("train_1.parquet", "train_2.parquet", "rest.parquet")),
    ):
        for name in names:
            write(f"{folder}/{name}", ["x", "y"])
    for folder in "ab":
        dataset = discover_dataset(tmp_path / folder)
        assert [dataset.count(split) for split in ("train", "val", "test")] == [4, 0, 2]
    assert discover_dataset(tmp_path / "c").count(None) == 6
    write("a/extra.parquet", ["x"])
    with pytest.raises(DatasetError, match=r"only some files of .*got extra.parquet"):
        discover_dataset(tmp_path / "a")
    write("b/other/test/0000.parquet", ["x"])
    with pytest.raises(DatasetError, match="several data sets: got default, other"):
        discover_dataset(tmp_path / "b")


def test_parquet_files_beside_images_are_passed_over(tmp_path, encode):
    pictures = tmp_path / "elsewhere" / "cat"
    pictures.mkdir(parents=True)
    (pictures / "1.png").write_bytes(encode())
    for name in ("plain", "linked"):
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(table_of([encode(), encode()], ["x", "y"]), folder / "features.parquet")
        if name == "plain":
            shutil.copytree(pictures, folder / "cat")
        else:
            (folder / "cat").symlink_to(pictures)
        dataset = discover_dataset(folder, for_training=False)
        assert [(sample.path, sample.label) for sample in dataset.samples] == [("cat/1.png", "cat")]
    # What systems leave behind is no image.
    alone = tmp_path / "alone"
    alone.mkdir()
    pq.write_table(table_of([encode(), encode()], ["x", "y"]), alone / "data.parquet")
    (alone / "._data.jpg").write_bytes(b"")
    assert discover_dataset(alone, for_training=False).labels == ("x", "y")


def test_columns_of_splits_and_groups_are_read(tmp_path, encode):
    table = table_of(
        [encode() for _ in range(4)],
        ["a", "b", "a", "b"],
        split=["train", "train", "valid", "valid"],
        animal=[7, 7, 8, 9],
    )
    pq.write_table(table, tmp_path / "data.parquet")
    dataset = discover_dataset(tmp_path / "data.parquet", group_by="animal")
    assert [sample.split for sample in dataset.samples] == ["train", "train", "val", "val"]
    assert [sample.group for sample in dataset.samples] == ["7", "7", "8", "9"]
    by_path = discover_dataset(tmp_path / "data.parquet", group_by=r"/0000(\d+)")
    assert [sample.group for sample in by_path.samples] == ["00", "01", "02", "03"]
    pq.write_table(table_of([encode()], ["a"], split=["blue"]), tmp_path / "odd.parquet")
    with pytest.raises(DatasetError, match=r"row 0 of .* names an unknown split: got 'blue'"):
        discover_dataset(tmp_path / "odd.parquet")


def test_columns_of_other_names_are_found_or_proposed(tmp_path, encode):
    images = [encode() for _ in range(4)]
    table = pa.table({"picture": images, "mask": images, "breed": list("abab"), "weight": [1.5] * 4})
    path = tmp_path / "data.parquet"
    pq.write_table(table, path)
    with pytest.raises(
        DatasetError, match="several columns of images: got picture, mask, expected one; pass --path-column picture"
    ):
        discover_dataset(path)
    with pytest.raises(DatasetError, match="no column of labels that can be told: got picture, mask, breed, weight"):
        discover_dataset(path, table=TableOptions(path_column="picture"))
    dataset = discover_dataset(path, table=TableOptions(path_column="picture", label_column="breed"))
    assert contents(dataset) == images
    assert dataset.labels == ("a", "b")
    assert folder_of(path, "picture") == dataset.root
    with pytest.raises(DatasetError, match="several columns of images"):
        folder_of(path, None)
    with pytest.raises(DatasetError, match="no column nose"):
        discover_dataset(path, table=TableOptions(path_column="nose"))
    with pytest.raises(DatasetError, match=r"column weight of .* has no labels: got double"):
        discover_dataset(path, table=TableOptions(path_column="mask", label_column="weight"))
    with pytest.raises(UsageError, match="--image-suffix is for a CSV"):
        discover_dataset(path, table=TableOptions(image_suffix=".jpg"))


def test_rows_without_image_or_label(tmp_path, encode):
    path = tmp_path / "data.parquet"
    pq.write_table(table_of([encode(), None, encode()], [0, 1, 0], ["a", "b"]), path)
    dataset = discover_dataset(path)
    # Reading it fails in its own record, as that of any damaged file.
    assert [len(data) > 0 for data in contents(dataset)] == [True, False, True]
    for labels in ([0, -1, 1], [0, None, 1], [0, 2, 1]):
        pq.write_table(table_of([encode() for _ in labels], labels, ["a", "b"]), path)
        with pytest.raises(DatasetError, match=r"row 1 of .* has no label"):
            discover_dataset(path)


def test_images_that_are_named_are_read_from_beside(tmp_path, encode):
    data = encode()
    (tmp_path / "one.png").write_bytes(data)
    path = tmp_path / "data.parquet"
    pq.write_table(table_of([None, encode()], ["a", "b"], paths=["one.png", "two.png"]), path)
    assert contents(discover_dataset(path))[0] == data
    pq.write_table(table_of([None], ["a"], paths=["gone.png"]), path)
    with pytest.raises(DatasetError, match=r"row 0 of .* names a file that cannot be read"):
        discover_dataset(path)


def test_names_of_rows_stay_in_the_folder(tmp_path, encode, cache):
    names = [
        "../../../evil.png",
        "/etc/passwd",
        "..",
        "a\0b.png",
        "日本" * 100 + ".jpg",
        "C:\\x\\y.jpg",
        "",
        ".hidden.png",
    ]
    path = tmp_path / "data.parquet"
    images = [encode() for _ in names]
    pq.write_table(table_of(images, ["a", "b"] * 4, paths=names), path)
    dataset = discover_dataset(path)
    assert contents(dataset) == images
    assert all((dataset.root / sample.path).resolve().parent == dataset.root / "data" for sample in dataset.samples)
    assert {child.name.split(".")[0] for child in cache.iterdir()} == {dataset.root.name, "file-digests"}


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_damaged_files_are_one_sentence(tmp_path, encode, damage, suffix, cache):
    path = tmp_path / f"data{suffix}"
    table = table_of([encode() for _ in range(30)], ["a", "b"] * 15)
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        write_arrow(table, path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"path,label\n", "empty": b""}[damage])
    with pytest.raises(DatasetError) as caught:
        discover_dataset(path)
    assert str(caught.value).count("\n") == 0
    assert str(path) in str(caught.value)
    assert not list(cache.glob("images-*/*"))


def test_an_extraction_is_made_once_and_again_where_it_is_gone(tmp_path, encode, cache):
    path = tmp_path / "data.parquet"
    images = [encode() for _ in range(6)]
    pq.write_table(table_of(images, ["a", "b"] * 3), path)
    first = discover_dataset(path)
    times = {item: item.stat().st_mtime_ns for item in first.root.rglob("*.png")}
    # The same content at another place is the same images.
    (tmp_path / "elsewhere").mkdir()
    again = discover_dataset(shutil.copy(path, tmp_path / "elsewhere"))
    assert again.root == first.root
    assert {item: item.stat().st_mtime_ns for item in first.root.rglob("*.png")} == times
    shutil.rmtree(first.root)
    restore_images(first.root, path)
    assert contents(first) == images
    # Another content is other images, in another folder: a run never finds other images in its own.
    shutil.rmtree(first.root)
    pq.write_table(table_of([encode() for _ in range(6)], ["a", "b"] * 3), path)
    restore_images(first.root, path)
    assert not first.root.exists()
    assert discover_dataset(path).root != first.root


def test_images_in_use_stay_and_others_make_room(tmp_path, encode, cache):
    roots = []
    for name in ("one", "two"):
        pq.write_table(table_of([encode() for _ in range(6)], ["a", "b"] * 3), tmp_path / f"{name}.parquet")
        roots.append(discover_dataset(tmp_path / f"{name}.parquet").root)
    extraction._let_go(roots[0])
    CacheFolder(cache, 0).make_room(0)
    assert [root.exists() for root in roots] == [False, True]
    assert contents(discover_dataset(tmp_path / "one.parquet"))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, encode, cache, monkeypatch):
    path = tmp_path / "data.parquet"
    pq.write_table(table_of([encode() for _ in range(6)], ["a", "b"] * 3), path)
    write, written = Path.write_bytes, []

    def fill(self, data):
        written.append(self)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OutputError, match="no space left on device"):
        discover_dataset(path)
    assert not list(cache.glob("images-*/*"))
    assert len(discover_dataset(path).samples) == 6


EXTRACT = """
import sys, time
from edgeclf.training.data.discovery import discover_dataset
def slowly(stage, done, total):
    if stage.startswith("extract"):
        print(done, flush=True)
        time.sleep(float(sys.argv[2]))
print(discover_dataset(sys.argv[1], progress=slowly).root)
"""


def extracting(path, delay_s):
    return subprocess.Popen([sys.executable, "-c", EXTRACT, path, str(delay_s)], stdout=subprocess.PIPE, text=True)


def test_an_extraction_that_was_killed_is_begun_again(tmp_path, encode, cache):
    path = tmp_path / "data.parquet"
    images = [encode() for _ in range(20)]
    pq.write_table(table_of(images, ["a", "b"] * 10), path)
    with extracting(path, 0.2) as killed:
        for _ in range(3):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    (root,) = (item for item in cache.glob("images-*") if item.is_dir())
    assert 0 < len(list(root.rglob("*.png"))) < 20
    assert contents(discover_dataset(path)) == images


def test_of_two_processes_at_once_the_second_waits(tmp_path, encode):
    path = tmp_path / "data.parquet"
    pq.write_table(table_of([encode() for _ in range(12)], ["a", "b"] * 6), path)
    with extracting(path, 0.05) as first:
        assert first.stdout.readline() == "1\n"
        with extracting(path, 0.05) as second:
            lines = second.communicate()[0].splitlines()
        # The second extracts nothing.
        assert lines == first.communicate()[0].splitlines()[-1:]
    assert (first.returncode, second.returncode) == (0, 0)


def test_without_pyarrow_the_extra_is_named(tmp_path, encode, monkeypatch):
    pq.write_table(table_of([encode()], ["a"]), tmp_path / "data.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r'pip install "edgeclf\[parquet\]"'):
        discover_dataset(tmp_path / "data.parquet")


def test_named_files_are_read_as_a_csv_reads_them_and_no_other_content_is_copied(tmp_path, encode, cache):
    outside, data = tmp_path / "elsewhere", encode()
    outside.mkdir()
    (outside / "one.png").write_bytes(data)
    (outside / "secret.txt").write_text("hidden words")
    inside = tmp_path / "data"
    inside.mkdir()
    path, good = inside / "data.parquet", encode()
    names = ["../elsewhere/one.png", str(outside / "one.png"), "../elsewhere/secret.txt", None]
    pq.write_table(table_of([None, None, None, good], ["a", "b", "a", "b"], paths=names), path)
    assert contents(discover_dataset(path)) == [data, data, b"", good]
    assert not any(b"hidden" in file.read_bytes() for file in cache.rglob("*") if file.is_file())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_that_a_row_names_is_not_waited_for(tmp_path, encode):
    os.mkfifo(tmp_path / "pipe.png")
    path = tmp_path / "data.parquet"
    pq.write_table(table_of([encode(), None], ["a", "b"], paths=[None, "pipe.png"]), path)
    with pytest.raises(
        DatasetError, match=r"row 1 of .* names a file that cannot be read: got pipe.png: a device or a pipe"
    ):
        discover_dataset(path)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"bytes": "text", "path": None}] * 2),
        pa.array([{"bytes": [1, 2], "path": None}] * 2),
        pa.array([{"bytes": None, "path": 5}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.int64())])),
    ],
)
def test_images_of_other_types_are_one_sentence(tmp_path, column):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"image": column, "label": ["a", "b"]}), path)
    with pytest.raises(DatasetError, match=r"row 0 of .* has no image"):
        discover_dataset(path)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("[]", "instead of a record"),
        ("[" * 99_999, "too deep"),
        ('{"_data_files": 3}', "no list of data files"),
        ('{"_data_files": [{"filename": 3}, "x"]}', "no list of data files"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "'gone.arrow' among its data files, and no such file"),
        ('{"_data_files": [{"filename": "/dev/null"}]}', "'/dev/null' among its data files, and no such file"),
    ],
)
def test_a_state_that_names_other_files_is_one_sentence(tmp_path, encode, state, words):
    save_split(table_of([encode(), encode()], ["a", "b"]), tmp_path / "saved")
    assert len(discover_dataset(tmp_path / "saved").samples) == 2
    (tmp_path / "saved" / "state.json").write_text(state)
    with pytest.raises(DatasetError, match=words):
        discover_dataset(tmp_path / "saved")


@pytest.mark.parametrize(
    "text", ["[" * 99_999, '{"info": []}', '{"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}}']
)
def test_features_of_another_form_say_nothing(tmp_path, encode, text):
    path = tmp_path / "data.parquet"
    table = table_of([encode(), encode()], ["a", "b"]).replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path)
    assert discover_dataset(path).labels == ("a", "b")
