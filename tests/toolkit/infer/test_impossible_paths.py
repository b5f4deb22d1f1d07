"""Paths at which nothing can be looked at: names that are too long, or impossible, in every command and position."""

import cv2
import numpy as np
import pytest

from edgeclf.runtime import Classifier
from edgeclf.runtime.errors import ImageError

from ..colours import records

LONG = "x" * 5000
# MODEL is a model file, DATA a folder with an image in two class folders; the others are the path in question.
COMMANDS = [
    "infer PATH DATA", "infer MODEL PATH", "infer MODEL --files-from PATH", "infer MODEL DATA --out PATH", "infer MODEL --camera PATH",
    "infer MODEL DATA --labels PATH", "info PATH", "evaluate PATH DATA", "evaluate MODEL PATH", "verify PATH", "verify MODEL PATH --against MODEL",
    "verify MODEL DATA --against PATH", "compare PATH MODEL DATA", "compare MODEL PATH DATA", "compare MODEL MODEL PATH", "bench PATH",
    "bench MODEL --images PATH", "export PATH --out OUT", "export MODEL --out PATH", "export MODEL --data PATH --out OUT", "doctor PATH",
    "doctor MODEL --data PATH", "train PATH --run OUT", "train DATA --run PATH", "train --resume PATH", "train DATA --from PATH --run OUT",
    "train DATA --backbone PATH --run OUT", "train DATA --weights PATH --arch small-cnn --run OUT", "train DATA --run OUT --cache-folder PATH",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for label, colour in (("red", (0, 0, 200)), ("green", (0, 200, 0))):
        (folder / label).mkdir()
        cv2.imwrite(str(folder / label / "1.png"), np.full((32, 32, 3), colour, np.uint8))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [LONG, f"{LONG}.onnx", f"{LONG}.keras", "a\udcffb"], ids=["long", "onnx", "keras", "bytes"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_looked_at_is_one_sentence(
    call_edgeclf, colour_model, data, tmp_path, monkeypatch, command, name
):
    monkeypatch.chdir(tmp_path)
    places = {"PATH": name, "MODEL": colour_model, "DATA": data, "OUT": tmp_path / "out"}
    done = call_edgeclf(*(places.get(word, word) for word in command.split()))
    # A name of odd bytes can be made: then whatever the command says of the rest.
    assert done.code in {2, 3, 4, 5} or "\udcff" in name, (done.code, done.err)
    assert "this is a bug" not in done.err
    assert "Traceback" not in done.err
    assert "temporary files" not in done.err


@pytest.mark.parametrize("name", [LONG, "a\0b", "x/" * 3000])
def test_an_image_that_cannot_be_looked_at_is_its_own_record(run_edgeclf, colour_model, data, tmp_path, name):
    with pytest.raises(ImageError, match="cannot read"):
        Classifier(colour_model).predict(name)
    good = data / "red" / "1.png"
    if "\0" not in name:
        (tmp_path / "list").write_text(f"{good}\n{name}\n{good}\n")
        done = run_edgeclf("infer", colour_model, "--files-from", tmp_path / "list", "--json")
        assert done.returncode == 3, done.stderr
        assert ["label" in record for record in records(done.stdout)] == [True, False, True]
