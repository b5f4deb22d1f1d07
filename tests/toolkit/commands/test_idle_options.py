"""Options that would do nothing beside others are refused with exit code 2 and one sentence, before any work."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
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
