"""What every option of every command refuses with one sentence and exit code 2, before any work: numbers that no machine can do, and idle ones."""

import importlib
import inspect
import math
import typing

import pytest

from edgeclf.runtime.errors import UsageError
from edgeclf.toolkit.cli import load_command
from edgeclf.toolkit.commands import COMMANDS

ABSURD = (math.inf, -math.inf, math.nan, 1e300, -1e300, 10**30, -(10**30), 10**4000)


def numeric_options():
    for name in COMMANDS:
        function = getattr(importlib.import_module(f"edgeclf.toolkit.commands.{name}"), name)
        flags = {item.name: item.opts[0] for item in load_command(name).params}
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            kind = (*typing.get_args(parameter.annotation), parameter.annotation)[0]
            if {int, float} & {kind, *typing.get_args(kind)}:
                yield name, parameter.name, flags[parameter.name]


@pytest.mark.parametrize(("command", "name", "flag"), sorted(numeric_options()))
def test_an_absurd_number_is_refused_by_every_option(command, name, flag):
    loaded = load_command(command)
    for value in ABSURD:
        with pytest.raises(UsageError) as refused:
            loaded.callback(**{name: value})
        assert str(refused.value) == f"bad {flag}: got {value}, expected a number of at most 4294967296."


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", 30 * "9", 5000 * "9"])
def test_an_absurd_number_ends_with_exit_code_2(call_edgeclf, colour_model, value):
    for option in ("--duration", "--min-queries", "--latency-bound-ms"):
        done = call_edgeclf("bench", colour_model, option, value)
        assert (done.code, option in done.err, "Traceback" in done.err) == (2, True, False)


# Numbers inside texts, and those of which a resource is made: the largest of these that any machine could want.
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "--threads", "100000"], "bad number of threads: got 100000, expected 1 to "),
        (["bench", "--threads", "1,100000"], "bad number of threads: got 100000, expected 1 to "),
        (["bench", "--threads", 30 * "9"], "bad number of threads"),
        (["bench", "--threads", 5000 * "9"], "bad --threads"),
        (["bench", "--batch-sizes", "1,1000000000"], "bad batch size: got 1000000000, expected 1 to 65536."),
        (["bench", "--batch-sizes", 30 * "9"], "bad batch size"),
        (["infer", "--threads", "100000", "IMAGE"], "bad number of threads"),
        (["infer", "--workers", "100000", "IMAGE"], "bad number of workers: got 100000, expected 1 to "),
        (["infer", "--batch-size", "100000", "IMAGE"], "bad batch size: got 100000, expected 1 to 65536."),
        (["evaluate", "--threads", "100000", "DATA"], "bad number of threads"),
        (["verify", "--threads", "100000"], "bad number of threads"),
        (["bench", "--image-size", "1000000"], "bad image size: got (1000000, 1000000), expected height and width"),
        (["bench", "--mean", "nan,1,1", "--std", "1"], "bad pixel scaling"),
        (["bench", "--mean", "0", "--std", "inf"], "bad pixel scaling"),
        (["bench", "--crop-fraction", "nan", "--fit", "crop"], "crop"),
        (["bench", "--scenario", "server", "--latency-bound-ms", "nan"], "bad --latency-bound-ms"),
    ],
)
def test_a_number_of_which_no_machine_makes_a_resource_is_one_sentence(
    call_edgeclf, colour_model, arguments, words, tmp_path
):
    (tmp_path / "image.png").write_bytes(b"")
    places = {"IMAGE": tmp_path / "image.png", "DATA": tmp_path}
    command, *rest = arguments
    done = call_edgeclf(command, colour_model, *(places.get(word, word) for word in rest))
    assert done.code == 2, done.err
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--batch-size", "--image-size"])
def test_training_has_the_same_limits(call_edgeclf, tmp_path, option):
    done = call_edgeclf("train", tmp_path, "--run", tmp_path / "run", option, "1000000")
    assert (done.code, option in done.err) == (2, True)


@pytest.mark.parametrize("size", ["1" + 400 * "0" + "GB", "infGB", "nan"])
def test_an_absurd_size_of_the_cache_is_one_sentence(call_edgeclf, tmp_path, size):
    done = call_edgeclf("train", tmp_path, "--run", tmp_path / "run", "--cache-size", size)
    assert done.code == 2
    assert done.err.startswith("edgeclf: bad --cache-size: got ")


@pytest.mark.parametrize("text", ["48x", "x48", "48x192x3", "48-192", "4 8", "", "48x1e3", "\u0661\u0662x\u0663"])
def test_a_size_that_is_none_is_refused_with_the_order_of_its_sides(call_edgeclf, colour_model, text):
    done = call_edgeclf("info", colour_model, f"--image-size={text}")
    assert done.code == 2
    assert done.err.startswith(
        f"edgeclf: bad --image-size: got {text!r}, expected 224, or HEIGHTxWIDTH, the height first"
    )


@pytest.mark.parametrize("text", ["48x192", "48X192", "48,192", " 48 x 192 ", "48, 192"])
def test_a_size_is_the_height_first_whatever_stands_between(text):
    from edgeclf.toolkit.foreign import foreign_model

    assert foreign_model(image_size=text).image_size == (48, 192)
    assert foreign_model(image_size="48").image_size == (48, 48)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctor", "--list", "--fast"], "--fast does nothing beside --list, which lists the checks"),
        (["doctor", "DATA", "--list"], "DATA_RUN_OR_MODEL does nothing beside --list"),
        (["doctor", "--list", "--labels", "l.txt"], "--labels does nothing beside --list"),
        (["doctor", "RUN", "--label-column", "x"], "--label-column does nothing for a run"),
        (["doctor", "RUN", "--path-column", "x"], "--path-column does nothing for a run"),
        (["doctor", "RUN", "--data", "DATA", "--image-suffix", "jpg"], "--image-suffix does nothing for a run"),
        (["infer", "MODEL", "--camera", "CLIP", "--reconnects", "3"], "--reconnects is for cameras that can come back"),
        (
            ["infer", "MODEL", "--camera", "CLIP", "--events", "-", "--top-k", "1"],
            "--top-k does nothing with --events -",
        ),
        (["infer", "MODEL", "--camera", "CLIP", "--events", "-", "--format", "csv"], "--format does nothing with --ev"),
        (["infer", "MODEL", "IMAGE", "--format", "table", "--json"], "--format table and --json name two formats"),
        (["bench", "MODEL", "--scenario", "offline", "--plot", "x.png"], "--plot does nothing with --scenario offline"),
        (["export", "MODEL", "--out", "x.onnx", "--cache-folder", "c"], "--cache-folder does nothing without --data"),
        (["export", "MODEL", "--out", "x.onnx", "--cache-size", "1GB"], "--cache-size does nothing without --data"),
        (["export", "MODEL", "--out", "x.onnx", "--ignore-unreadable"], "--ignore-unreadable does nothing without"),
        (["train", "--list", "--epochs", "3"], "--epochs does nothing beside --list, which lists the networks"),
        (["train", "DATA", "--list"], "DATA does nothing beside --list"),
        (["train", "DATA", "--find-lr", "x.png", "--overwrite"], "--overwrite does nothing with --find-lr"),
        (["train", "DATA", "--show-augmentation", "x.png", "--tensorboard"], "--tensorboard does nothing with --show"),
        (["train", "DATA", "--find-lr", "x.png", "--ignore-unreadable"], "--ignore-unreadable does nothing with"),
        (["verify", "MODEL", "--fit", "crop"], "all models describe themselves"),
        (["export", "json:loads", "--out", "x.onnx", "--unsafe-load"], "--unsafe-load is for files"),
        (["export", "json:loads", "--out", "x.onnx", "--custom-objects", "json"], "--custom-objects is for files"),
        (["evaluate", "MODEL", "DATA", "--mean", "0", "--std", "1"], "describes itself"),
        (["evaluate", "MODEL", "DATA", "--unsafe-load"], "no Keras file"),
        (["evaluate", "MODEL", "DATA", "--label-column", "x"], "--label-column is for a CSV"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    call_edgeclf, colour_model, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"data_root": "/nowhere", "options": {}}')
    (tmp_path / "data" / "red").mkdir(parents=True)
    (tmp_path / "clip.avi").write_bytes(b"RIFF")
    (tmp_path / "l.txt").write_text("a\nb\n")
    places = {"RUN": "run", "DATA": "data", "MODEL": str(colour_model), "CLIP": "clip.avi", "IMAGE": "x.jpg"}
    done = call_edgeclf(*(places.get(word, word) for word in arguments))
    assert (done.code, words in " ".join(done.err.split()), done.out) == (2, True, ""), done.err


def test_limits_between_two_fp32_files_are_refused(call_edgeclf, colour_model, tmp_path):
    (tmp_path / "data").mkdir()
    options = ("verify", colour_model, tmp_path / "data", "--against", colour_model, "--min-agreement", "0.5")
    done = call_edgeclf(*options)
    assert (done.code, "are for int8 and fp16 files: got two fp32 models" in " ".join(done.err.split())) == (2, True)


def test_a_list_is_printed_with_json_beside_it(call_edgeclf):
    assert call_edgeclf("train", "--list", "--json").json()
