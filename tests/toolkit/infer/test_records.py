"""Labels and names of files in records: nothing that moves a terminal's cursor or turns text around, in any format."""

import csv
import io
import json

import numpy as np
import pytest

from edgeclf.runtime.batch.jobs import Outcome
from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.prediction import Prediction
from edgeclf.toolkit.infer.records import OUTPUT_FORMATS, SinkOptions, SmoothedLabel, make_writer

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202egpj\u2066\nnext\r\u2028"
LABELS = (f"a{HOSTILE}", "b\\;=c", "grün 猫 a\u00a0b")


def written(output_format):
    text = io.StringIO()
    targets = SinkOptions(output_format, top_k=3, out=None, show=False, save=None, max_frames=None, duration_s=None)
    writer = make_writer(targets, text.write, 20, has_smoothed=True)
    prediction = Prediction(LABELS[0], 0, 0.7, np.array([0.7, 0.2, 0.1], np.float32), LABELS)
    writer.write(Outcome(f"{HOSTILE}.jpg", 3, prediction, None, 1.5), SmoothedLabel(LABELS[0], 0.6, rejected=False))
    writer.write(Outcome(f"{HOSTILE}.jpg", None, None, ImageError(f"cannot read {HOSTILE}"), 0.0))
    return text.getvalue()


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_nothing_in_a_record_commands_a_terminal(output_format):
    text = written(output_format)
    moving = {character for line in text.split("\n") for character in line if not character.isprintable()}
    assert moving <= ({"\u00a0"} if output_format == "csv" else set())
    assert "grün 猫" in text
    assert len(text.splitlines()) == (2 if output_format == "jsonl" else 3)


def test_json_has_the_labels_as_they_are():
    first, second = map(json.loads, written("jsonl").splitlines())
    assert [label for label, _ in first["top_k"]] == list(LABELS)
    assert (first["label"], first["smoothed_label"]) == (LABELS[0], LABELS[0])
    assert (first["source"], second["source"]) == (f"{HOSTILE}.jpg", f"{HOSTILE}.jpg")


def test_csv_escapes_control_characters_alone():
    header, first, second = csv.reader(io.StringIO(written("csv")))
    row = dict(zip(header, first, strict=True))
    assert row["label"] == "a\\x1b]0;owned\\x07\\x9b2J\\u202egpj\\u2066\\nnext\\r\\u2028" == row["smoothed_label"]
    assert row["top_k"].endswith("b\\\\\\;\\=c=0.2;grün 猫 a\u00a0b=0.1")
    assert dict(zip(header, second, strict=True))["error"].startswith("cannot read \\x1b]0;owned")
