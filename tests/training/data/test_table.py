"""Tables as spreadsheets, pandas and competitions write them: what is read, and what is refused with which line."""

import contextlib
import csv
import io
from pathlib import Path

import pytest

from edgeclf.runtime.errors import DatasetError, EdgeclfError, UsageError
from edgeclf.training.data.discovery import discover_dataset
from edgeclf.training.data.table_files import TableOptions


def write(folder, text, name="data.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def found(data, table=None):
    samples = discover_dataset(data, for_training=False, table=table).samples
    return [(s.path, s.label, s.split) for s in samples]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


EXPECTED = [("cats/1.jpg", "cat", None), ("dogs/2.jpg", "dog", None)]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\r\ncats\\1.jpg,cat\r\ndogs\\2.jpg,dog\r\n,\r\n",
        "path;label\ncats/1.jpg;cat\ndogs/2.jpg;dog\n;\n;\n",
        "path\tlabel\ncats/1.jpg\tcat\ndogs/2.jpg\tdog\n",
        "label|path\ncat|cats/1.jpg\ndog|dogs/2.jpg\n",
        "sep=;\r\npath;label\r\ncats/1.jpg;cat\r\ndogs/2.jpg;dog\r\n",
        "Path, LABEL\rcats/1.jpg, cat\rdogs/2.jpg, dog\r",
        "path,label,\ncats/1.jpg,cat,\ndogs/2.jpg,dog,,\n\n   \n , \n",
        '"path";"label"\n"cats/1.jpg";"cat"\n"dogs/2.jpg";"dog"',
        ",path,label\n0,cats/1.jpg,cat\n1,dogs/2.jpg,dog\n",
        "\r\n \t\r\npath,label\r\ncats/1.jpg,cat\r\ndogs/2.jpg,dog\r\n",
        "path,label,batch\ncats/1.jpg,cat,train\ndogs/2.jpg,dog,2\n",
    ],
)
def test_the_same_table_from_any_program(tmp_path, text):
    assert found(write(tmp_path, text)) == EXPECTED


def test_separators_inside_quotes_belong_to_the_values(tmp_path):
    text = 'path;label\n"a;b.jpg";"cat; wild"\nc,d.jpg;dog, tame\n'
    assert found(write(tmp_path, text)) == [("a;b.jpg", "cat; wild", None), ("c,d.jpg", "dog, tame", None)]


def test_labels_are_text_whatever_they_look_like(tmp_path):
    labels = ["0", "01", "1.0", "nan", "True", "null", "1e5", "-"]
    text = "path,label\n" + "".join(f"{n}.jpg,{label}\n" for n, label in enumerate(labels))
    assert [label for _, label, _ in found(write(tmp_path, text))] == labels


def test_names_may_differ_in_case_and_accents_are_one_however_they_are_spelled(tmp_path):
    text = "path,label\n1.jpg,cardigan\n2.jpg,Cardigan\n3.jpg,caf\u00e9\n4.jpg,cafe\u0301\n"
    assert discover_dataset(write(tmp_path, text)).labels == ("Cardigan", "caf\u00e9", "cardigan")
    with pytest.raises(DatasetError, match="differ by more than spaces"):
        discover_dataset(write(tmp_path, "path,label\n1.jpg,big cat\n2.jpg,big  cat\n"))


def test_a_backslash_in_a_name_that_exists_is_no_folder(tmp_path):
    (tmp_path / "a\\b.jpg").write_bytes(b"")
    assert found(write(tmp_path, "path,label\na\\b.jpg,cat\nc\\d.jpg,dog\n")) == [
        ("a\\b.jpg", "cat", None),
        ("c/d.jpg", "dog", None),
    ]


def test_columns_of_other_names_and_bare_ids(tmp_path):
    touch(tmp_path, "train/a1.jpg", "train/b2.jpg")
    path = write(tmp_path, "id,breed\na1,cat\nb2.JPG,dog\n")
    options = TableOptions("id", "breed", "train", "jpg")
    assert found(path, options) == [("train/a1.jpg", "cat", None), ("train/b2.JPG", "dog", None)]
    elsewhere = tmp_path / "elsewhere"
    assert found(write(tmp_path, "id,breed\na1,cat\n"), TableOptions("ID", "breed", str(tmp_path / "train"), ".jpg"))
    with pytest.raises(UsageError, match="cannot find the folder of the images"):
        discover_dataset(path, table=TableOptions("id", "breed", str(elsewhere)))


@pytest.mark.parametrize(
    ("text", "files", "words"),
    [
        ("id,breed\na1,cat\n", [], r"first line 'id,breed', .*; pass --path-column id --label-column breed"),
        ("file_name,label\n1.jpg,cat\n", [], "pass --path-column file_name"),
        ("path,whatever\n1.jpg,cat\n", [], "name the columns so, or with --path-column and --label-column"),
        ("path,label\na1,cat\n", ["train/a1.jpg"], "pass --image-folder train --image-suffix .jpg"),
        ("path,label\na1,cat\n", ["a1.png"], "pass --image-suffix .png"),
        ("path,label\na1.jpg,cat\n", ["images/a1.jpg"], "pass --image-folder images"),
        ("path,label\na1,cat\n", ["train/other.jpg"], "no file name.*--image-folder and --image-suffix"),
        ("path,label\n1.jpg,cat, black\n2.jpg,dog\n", [], r"line 2 has more fields .*: got 3, with 'black' beyond"),
        ("path,label,split\n1.jpg,cat,train\n\n2.jpg,dog,somewhere\n", [], "line 4 names an unknown split"),
        ("path,path,label\n1.jpg,2.jpg,cat\n", [], "has 2 columns of one name: got 'path'"),
        ("path,label\nC:\\pets\\1.jpg,cat\n", [], "line 2 has a path of another computer"),
        ("path,label\nC:/pets/1.jpg,cat\n", [], "line 2 has a path of another computer: got C:/pets/1.jpg"),
        ("\n\npath,label\n~/1.jpg,cat\n", [], "line 4 has a path of another computer: got ~/1.jpg"),
        ("path,label\nhttps://a.org/1.jpg,cat\n", [], "line 2 names an address, not a file.*; download the images"),
        ("path,label\nfile:///a/1.jpg,cat\n", [], "line 2 names an address, not a file.*; remove file://"),
        ("path,label\na/../1.jpg,cat\n1.jpg,dog\n", ["a/2.jpg", "1.jpg"], "line 3 repeats an image"),
        ("path,label,set\n1.jpg,cat,train\n2.jpg,dog,test\n", [], "no column split: got .* in 'set': 'test', 'train'"),
        ("path,label,Usage\n1.jpg,a,Training\n2.jpg,b,PublicTest\n", [], "no column split: got .* in 'Usage'"),
        ("path,label,is_test\n1.jpg,a,0\n2.jpg,b,1\n", [], "no column split: got .* in 'is_test': '0', '1'"),
        ("sep=;\npath;label\n1.jpg;\n", [], "line 3 is incomplete"),
        ("path,label\n1.jpg,cat\n1.jpg,dog\n", [], "line 3 repeats an image"),
    ],
)
def test_what_is_refused_says_what_to_do(tmp_path, text, files, words):
    touch(tmp_path, *files)
    with pytest.raises(DatasetError, match=words):
        discover_dataset(write(tmp_path, text), for_training=False)


@pytest.mark.parametrize("column", ["path", "label", "note"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("later", ["", '"4.jpg",ant,big', '4.jpg,"ant",big', '4.jpg,ant,"7"" x 5"""'])
def test_a_quote_that_does_not_end_takes_no_rows_along(tmp_path, column, end, later):
    rows = [
        {"path": f"{n}.jpg", "label": label, "note": "small"} for n, label in enumerate(["cat", "dog", "cat", "dog"])
    ]
    rows[1][column] = '"' + rows[1][column]
    lines = ["path,label,note", *(",".join(row.values()) for row in rows), later]
    with pytest.raises(DatasetError, match=r"line 3 has a double quote that does not end.*write it twice"):
        discover_dataset(write(tmp_path, end.join(lines)), for_training=False)


def test_values_of_several_lines_and_quotes_inside_a_line_are_read(tmp_path):
    text = 'path,label,note\n1.jpg,cat,"of ""two""\nlines"\n2.jpg,dog,6" x 4"\n3.jpg,"cow" ,"12" wide\n"4, a.jpg" ,"an, ""t" , ""\n5.jpg,"ant'
    samples = discover_dataset(write(tmp_path, text), for_training=False).samples
    assert [(sample.path, sample.label) for sample in samples] == [
        ("1.jpg", "cat"),
        ("2.jpg", "dog"),
        ("3.jpg", "cow"),
        ("4, a.jpg", 'an, "t'),
        ("5.jpg", "ant"),
    ]


def test_a_quote_that_does_not_end_takes_no_field_along(tmp_path):
    text = 'path,label,note\n1.jpg,cat,"a, b"\n2.jpg,"dog,"a, b"\n'
    with pytest.raises(DatasetError, match="line 3 has a double quote that does not end"):
        discover_dataset(write(tmp_path, text), for_training=False)


def test_one_file_has_one_name(tmp_path):
    """Absolute or relative, by way of another folder, its accents spelled as they are on the disk."""
    touch(tmp_path, "a/1.jpg", "caf\u00e9.jpg", "the\u0301.jpg")
    text = f"path,label\n{tmp_path}/a/1.jpg,cat\na/../cafe\u0301.jpg,dog\nth\u00e9.jpg,emu\n/else/where.jpg,cat\n"
    assert found(write(tmp_path, text)) == [
        ("/else/where.jpg", "cat", None),
        ("a/1.jpg", "cat", None),
        ("caf\u00e9.jpg", "dog", None),
        ("the\u0301.jpg", "emu", None),
    ]
    with pytest.raises(DatasetError, match=r"line 3 repeats an image: got a/1\.jpg, also in line 2"):
        found(write(tmp_path, f"path,label\n{tmp_path}/a/1.jpg,cat\na/1.jpg,dog\n"))
    # Behind a link, `..` is not the folder before it.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    assert found(write(tmp_path, "path,label\nb/link/../caf\u00e9.jpg,dog\n")) == [
        ("b/link/../caf\u00e9.jpg", "dog", None)
    ]


def test_names_that_differ_in_what_is_not_seen_are_refused(tmp_path):
    for other in ("cat\u200b", "\u2066cat", "cat\ufeff", "cat\ufe0f"):
        with pytest.raises(DatasetError, match="have the same name"):
            discover_dataset(write(tmp_path, f"path,label\n1.jpg,cat\n2.jpg,{other}\n"))


@pytest.mark.parametrize(
    ("expression", "words"), [("", "--group-by '' finds nothing"), ("x*", "only empty matches"), ("7", "no match")]
)
def test_an_expression_that_catches_nothing_groups_nothing(tmp_path, expression, words):
    path = write(tmp_path, "path,label\n1.jpg,cat\n2.jpg,dog\n")
    with pytest.raises(UsageError, match=words):
        discover_dataset(path, group_by=expression)
    assert [sample.group for sample in discover_dataset(path, group_by="[0-9]|x*").samples] == ["1", "2"]


def test_text_that_is_not_utf8_and_tables_that_are_no_text(tmp_path):
    text = "path,label\n1.jpg,cat\n2.jpg,köter\n"
    with pytest.raises(DatasetError, match="not UTF-8, in line 3"):
        discover_dataset(write(tmp_path, text, encoding="cp1252"))
    with pytest.raises(DatasetError, match=r"UTF-16 text.*save it as UTF-8"):
        discover_dataset(write(tmp_path, text, encoding="utf-16"))
    with pytest.raises(DatasetError, match=r"UTF-32 text.*save it as UTF-8"):
        discover_dataset(write(tmp_path, text, encoding="utf-32"))
    with pytest.raises(DatasetError, match=r"cannot read .*train\.parquet: .*copy or download it again"):
        discover_dataset(write(tmp_path, b"PAR1" + bytes(80), "train.parquet"))


def test_a_hugging_face_data_set_that_is_not_whole_is_told_what_it_is(tmp_path):
    touch(tmp_path, "one/dataset_info.json", "one/state.json", "one/data-00000-of-00001.arrow")
    touch(tmp_path, "two/dataset_dict.json", "two/train/data-00000.arrow", "two/test/data-00000.arrow")
    for name in ("one", "two"):
        with pytest.raises(DatasetError, match=r"what save_to_disk of datasets wrote; save the data set again"):
            discover_dataset(tmp_path / name)


def test_options_of_a_table_are_refused_for_folders(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(UsageError, match="--image-suffix is for a CSV: got the folder"):
        discover_dataset(tmp_path, table=TableOptions(image_suffix=".jpg"))


def test_any_table_is_read_as_csv_has_it_or_refused_with_a_sentence(tmp_path, rng):
    pieces = [
        "path",
        "label",
        "split",
        ",",
        ";",
        "\t",
        '"',
        "\n",
        "\r\n",
        "\\",
        "a.jpg",
        "b/c.png",
        "cat",
        "ö",
        " ",
        "\x00",
    ]
    pieces += ["train", "sep=", "|", "\ufeff", "..", "/", "C:\\", "x" * 300]
    for _ in range(300):
        text = "".join(rng.choice(pieces, rng.integers(1, 40)))
        head = rng.choice(["", "path,label\n", "path;label\r\n", "label\tpath\tsplit\n"])
        with contextlib.suppress(EdgeclfError):
            discover_dataset(write(tmp_path, str(head) + text), for_training=bool(rng.integers(2)))


def test_whatever_the_csv_module_writes_is_read_back(tmp_path, rng):
    letters = list("abcäß ,;\"'|\t.-_")
    for separator in (",", ";", "\t", "|"):
        rows = {}
        while len(rows) < 40:
            name = "".join(rng.choice(letters, rng.integers(1, 12))).strip()
            label = "".join(rng.choice(letters, rng.integers(1, 12))).replace("\t", "_").strip()
            if name and label:
                rows[Path(f"{name}.jpg").as_posix()] = label
        text = io.StringIO()
        csv.writer(text, delimiter=separator).writerows([("path", "label"), *rows.items()])
        got = {path: label for path, label, _ in found(write(tmp_path, text.getvalue()))}
        assert got == rows
