"""Command lines in findings: a POSIX shell gets the folder as one argument, whatever its name."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeclf.runtime.errors import command_line
from edgeclf.toolkit.doctor import remedies
from edgeclf.toolkit.doctor.checks import labels, split_shift
from edgeclf.toolkit.doctor.checks.suspects import Suspects
from edgeclf.toolkit.doctor.examination import Examination
from edgeclf.toolkit.doctor.facts import DataFacts, Facts, Trial, UseFacts
from edgeclf.toolkit.doctor.findings import Finding
from edgeclf.toolkit.doctor.registry import examine
from edgeclf.toolkit.doctor.report.page import page
from edgeclf.toolkit.doctor.report.terminal import print_examination
from edgeclf.training.options import DEFAULT_ARCHITECTURE

from .checks.histories import learned_by_heart, run_facts

NAME = "my photographs, $(touch hacked); `touch hacked` 'n' \"all\""
# A shell function instead of the program: an argument a line.
SHELL = 'edgeclf() {{ for word in "$@"; do printf \'%s\\0\' "$word"; done; }}; {command}'


def arguments_in_a_shell(command, folder):
    # What sh itself need not know is written for bash.
    shell = "sh" if "$'" not in command else "bash"
    done = subprocess.run([shell, "-c", SHELL.format(command=command)], cwd=folder, capture_output=True, check=True)
    assert not (folder / "hacked").exists()
    return done.stdout.decode().split("\0")[:-1]


def commands_of(finding):
    """The commands in a finding's remedy: in backticks, or from the program's name to the end."""
    quoted = re.findall(r"`(edgeclf (?:'[^']*'|\"[^\"]*\"|[^`'\"])*)`", finding.fix)
    return quoted or re.findall(r"edgeclf (?:train|doctor|export) '?[a-z/'].*", finding.fix)


@pytest.fixture
def oddly_named(write_folder):
    root = write_folder({"train/cat": 60, "train/dog": 8, "test/cat": 10, "test/dog": 60}, name=NAME)
    shutil.copy(root / "train/cat/0001.jpg", root / "test/cat/leaked.jpg")
    shutil.copy(root / "train/cat/0002.jpg", root / "train/cat/twice.jpg")
    shutil.copy(root / "train/cat/0003.jpg", root / "train/dog/contradiction.jpg")
    return root


def test_commands_about_a_data_set_survive_a_shell(gather, oddly_named, tmp_path):
    findings = {
        f"{finding.cause} {finding.evidence.get('kind', '')}".strip(): finding
        for finding in examine(gather(oddly_named))
        if commands_of(finding)
    }
    assert set(findings) == {
        "imbalance",
        "prior-shift",
        "leakage",
        "label-noise contradicting-copies",
        "label-noise not-looked-at",
        "duplicates repeated",
    }
    for finding in findings.values():
        for command in commands_of(finding):
            sub_command, *arguments = arguments_in_a_shell(command, tmp_path)
            assert sub_command in {"train", "doctor"}
            assert arguments[0] == str(oddly_named)


def test_commands_about_labels_and_light_survive_a_shell(gather, oddly_named, tmp_path, rng):
    data = gather(oddly_named).data
    pair = Suspects(
        rows=np.arange(2),
        classes=np.arange(2),
        probabilities=np.full((2, 2), 0.5),
        flagged=np.zeros(2, bool),
        undecided=2,
        inseparable=((0, 1),),
        too_small=(),
    )
    brightness = np.where(data.images.splits == 0, 40.0, 160.0) + rng.normal(0, 2, len(data.images))
    images = replace(data.images, properties={**data.images.properties, "brightness": brightness})
    (shifted,) = split_shift.CHECKS[0].find(Facts(replace(data, images=images)))
    for finding in (*labels._inseparable(data, pair), shifted):
        (command,) = commands_of(finding)
        assert arguments_in_a_shell(command, tmp_path)[:2] == ["train", str(oddly_named)]


def test_commands_about_a_run_survive_a_shell(tmp_path):
    run = replace(run_facts(learned_by_heart()), data=NAME, folder=Path("runs", NAME))
    findings = [finding for finding in examine(Facts(run=run)) if commands_of(finding)]
    assert findings
    for finding in findings:
        for command in commands_of(finding):
            words = arguments_in_a_shell(command, tmp_path)
            assert words[:2] == ["train", NAME]
            assert words[-2:] == ["--run", f"runs/{NAME}-again"]


def test_plain_words_are_not_quoted():
    assert command_line("doctor", Path("photographs"), "--json") == "edgeclf doctor photographs --json"


def test_a_quoted_argument_is_on_one_line_of_the_terminal(capsys):
    folder = " ".join(["a folder with a long name"] * 6)
    command = command_line("train", folder, "--run", "RUN")
    finding = Finding("blank", "note", "t", f"Try it again: {command}, or not")
    print_examination(Examination("it", "data", Facts(), (finding,), ()))
    shown = capsys.readouterr().out
    assert f"'{folder}'" in shown
    assert " ".join(command.split()) in " ".join(shown.split())


def test_a_quoted_command_is_set_as_code_on_the_page():
    command = command_line("train", "a; b, c. d", "--run", "RUN")
    finding = Finding("blank", "note", "t", f"Try it again: {command}, or not")
    text = page(Examination("it", "data", Facts(), (finding,), ()))
    assert "again: <code>edgeclf train &#x27;a; b, c. d&#x27; --run RUN</code>, or not" in text


@pytest.mark.parametrize("name", [NAME, "-photographs", "--run", "two\nlines\tof it's"])
def test_every_remedy_survives_a_shell(tmp_path, name):
    # Of a folder that begins with a dash, `Path` drops the ./ that was typed.
    given = f"./{name}" if name.startswith("-") else name
    run = replace(run_facts(learned_by_heart()), data=name, folder=Path(name))
    data = DataFacts(name, tmp_path, (), None, (), None, None, has_splits=False)
    true = np.arange(4) % 2
    probabilities = np.eye(2, dtype=np.float32)[true]
    use = UseFacts(
        model=name, data=name, given={"--labels": name}, is_foreign=True, is_scaling_unsaid=False, scales_itself=False,
        labels=("a", "b"), has_names=True, activation="softmax", is_one_value=False, paths=("1", "2", "3", "4"),
        folders=("a", "b"), true=true, trials=(Trial({}, probabilities),), raw=probabilities,
    )  # fmt: skip
    expected = {
        remedies.list_images(data): ["doctor", given, "--json"],
        remedies.train_data(Facts(data), "--fit", "crop"): ["train", given, "--run", "RUN", "--fit", "crop"],
        remedies.train_again(run): ["train", given, "--arch", "small-cnn", "--run", f"{given}-again"],
        remedies.train_pretrained(run): ["train", given, "--arch", DEFAULT_ARCHITECTURE, "--run", f"{given}-again"],
        remedies.sweep_learning_rate(run): [
            "train", given, "--arch", "small-cnn", "--find-lr", f"{given}-rates.png",
        ],
        remedies.examine_data(run): ["doctor", given],
        remedies.resume(run): ["train", "--resume", given],
        remedies.export_with_max_effort(run): [
            "export", given, "--precision", "int8", "--effort", "max", "--out", "model.onnx",
        ],
        remedies.use_model(use, {"--mean": "0"}): ["evaluate", given, given, "--labels", name, "--mean", "0"],
        remedies.examine_model(use, name): ["doctor", given, "--data", given, "--labels", name],
    }  # fmt: skip
    for command, words in expected.items():
        assert arguments_in_a_shell(command, tmp_path) == words


def test_pairs_stand_side_by_side_on_the_page():
    finding = Finding("duplicates", "note", "t", "f", items=("a", "d"), groups=(("a", "b"), ("c", "d", "e")))
    text = page(Examination("it", "data", Facts(), (finding,), ()))
    assert text.count('<div class="groups">') == 1
    assert re.findall(r'<div class="group (\w+)">', text) == ["pair", "several"]
