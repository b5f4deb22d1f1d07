"""What the benchmarks share: order of the sides, ratios, sampling, output, failures of processes."""

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.common")


def test_sides_take_turns_backwards_and_forwards(common):
    calls = []
    results = common.run_in_turns(
        {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, 2, warm_up=1
    )
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert results == {"a": [3, 6], "b": [4, 5]}


def test_a_ratio_is_that_of_the_rounds(common):
    ratio = common.round_ratio([2.0, 30.0, 4.0, 5.0, 6.0], [1.0, 10.0, 1.0, 1.0, 1.0])
    assert (ratio.low, ratio.median, ratio.high) == (3.0, 4.0, 5.0)


def test_samples_are_those_of_the_seed(common, tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    first = common.sample_images(tmp_path, 5)
    assert common.sample_images(tmp_path, 5) == first != common.sample_images(tmp_path, 5, seed=1)
    assert sorted(common.sample_images(tmp_path)) == common.image_files(tmp_path)
    assert len(common.image_files(tmp_path)) == 20
    with pytest.raises(SystemExit, match="no images under"):
        common.image_files(tmp_path / "none")


def test_a_process_that_fails_shows_its_errors(common):
    with pytest.raises(SystemExit, match=r"(?s)what went wrong.*ended with 3"):
        common.run_process([sys.executable, "-c", "import sys; print('what went wrong', file=sys.stderr); sys.exit(3)"])


def test_a_report_is_a_table_or_a_document(common, capsys):
    for is_json in (False, True):
        report = common.Report(Namespace(json=is_json, quick=False))
        report.columns({"name": "<6", "ms": ">8.2f"})
        report.row("one", 1.234)
        report.row("two", None)
        report.close({"ms": [1.234, None]})
        shown = capsys.readouterr()
        if is_json:
            assert json.loads(shown.out) == {"ms": [1.234, None]}
        else:
            assert shown.out.splitlines() == ["name        ms", "one       1.23", "two          -"]


def test_quick_values_give_way_to_given_ones(common, monkeypatch):
    def parse(*given: str) -> Namespace:
        monkeypatch.setattr(sys, "argv", ["benchmark", *given])
        arguments = common.Arguments("A benchmark.", quick={"rounds": 1}, seeds=(0, 1), train_options=["--epochs", "9"])
        arguments.add_input("data", "a folder")
        arguments.add_argument("--rounds", type=int, default=5)
        return arguments.parse()

    assert (parse("d").rounds, parse("--quick").rounds, parse("--quick", "--rounds", "3").rounds) == (5, 1, 3)
    assert parse("--quick").data is None
    assert parse("d").train_options == ["--epochs", "9"]
    given = parse("d", "--seeds", "4", "5", "--", "--arch", "seed-cnn")
    assert (given.data, given.seeds, given.train_options) == (Path("d"), [4, 5], ["--arch", "seed-cnn"])
    with pytest.raises(SystemExit):
        parse()
