"""`edgeclf doctor MODEL --data PHOTOGRAPHS`: faults of use are seeded into a trained network's file, and named with their remedy."""

import shlex
import shutil

import cv2
import numpy as np
import pytest

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.progress import no_progress
from edgeclf.toolkit.doctor.facts import Facts
from edgeclf.toolkit.doctor.gather.data import gather_data
from edgeclf.toolkit.doctor.gather.model_file import gather_model_file
from edgeclf.toolkit.doctor.registry import all_checks
from edgeclf.toolkit.doctor.remedies import COMMAND
from edgeclf.toolkit.doctor.use_analysis import judge_use
from edgeclf.toolkit.foreign import foreign_model

from ...randomness import fresh_rng
from .foreign_networks import CLASSES, Network, write_photographs

RIGHT = ("--preprocess", "imagenet", "--fit", "crop", "--crop-fraction", "1", "--interpolation", "area")
OF_USE = {
    "no-numbers", "input-scale", "channel-order", "label-order", "output-activation", "image-fit", "constant-answer", "dead-class",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, label files and models, each used rightly with `RIGHT` and the labels but for what its name says."""
    root, rng = tmp_path_factory.mktemp("use"), fresh_rng()
    write_photographs(root / "data", rng, per_class=30)
    (root / "names.txt").write_text("\n".join(CLASSES))
    (root / "rotated.txt").write_text("\n".join(CLASSES[1:] + CLASSES[:1]))
    networks = {
        "plain": Network(),
        "bgr": Network(is_bgr=True),
        "normalises": Network(normalises=True),
        "unit": Network(mean=(0, 0, 0), std=(255, 255, 255)),
        "twice": Network(ends=("Softmax", "Softmax")),
        "sigmoids": Network(ends=("Sigmoid",)),
        "logits": Network(ends=()),
    }
    for name, network in networks.items():
        network.write(root / f"{name}.onnx", rng)
    return root


@pytest.fixture(scope="module")
def photographs(folder):
    """Facts of the photographs, gathered once."""
    return gather_data(folder / "data", max_features=0, progress=no_progress)


@pytest.fixture
def examine(folder, photographs):
    """Findings of a file's use by their causes, and the facts that they follow from."""

    def run(model, *options, labels="names.txt", data=None):
        said = dict(zip(options[::2], options[1::2], strict=True))
        said |= {} if labels is None else {"--labels": str(folder / labels)}
        values = {option[2:].replace("-", "_"): value for option, value in said.items()}
        if labels is not None:
            values["labels"] = folder / labels
        if "crop_fraction" in values:
            values["crop_fraction"] = float(values["crop_fraction"])
        facts = photographs if data is None else gather_data(data, max_features=0, progress=no_progress)
        examined = gather_model_file(
            folder / f"{model}.onnx",
            facts,
            foreign=foreign_model(**values),
            given=said,
            int8=None,
            max_images=None,
            seed=0,
            progress=no_progress,
        )
        facts = Facts(facts, model=examined.held_out, use=examined.use)
        found = [finding for check in all_checks() if check.theme == "use" for finding in check.find(facts)]
        return {finding.cause: finding for finding in found if finding.severity != "note"}, found, facts

    return run


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("plain", RIGHT),
        ("bgr", (*RIGHT, "--channels", "bgr")),
        ("normalises", (*RIGHT, "--mean", "0", "--std", "1")),
        ("logits", RIGHT),
        ("sigmoids", RIGHT),
    ],
)
def test_a_right_use_is_not_doubted(examine, model, options):
    found, _, facts = examine(model, *options)
    assert found == {}
    assert facts.use.trials[0].changes == {}
    assert facts.use.derived(judge_use).accuracy(0) > 0.9
    assert len(facts.use.trials) > 10
    # With it come the checks of a network.
    assert facts.model.labels == CLASSES
    assert len(facts.model.true) == len(facts.use.true)


@pytest.mark.parametrize(
    ("model", "options", "cause", "changes"),
    [
        ("bgr", RIGHT, "channel-order", {"--channels": "bgr"}),
        ("plain", (*RIGHT, "--channels", "bgr"), "channel-order", {"--channels": "rgb"}),
        ("normalises", RIGHT, "input-scale", {"--mean": "0", "--std": "1"}),
        ("unit", RIGHT, "input-scale", {"--mean": "0", "--std": "255"}),
        ("plain", ("--preprocess", "imagenet", "--fit", "stretch"), "image-fit", {"--fit": "crop"}),
        ("plain", ("--fit", "crop"), "input-scale", {"--mean": "123.675,116.28,103.53"}),
    ],
)
def test_wrong_preprocessing_is_named_with_its_figures_and_options(
    examine, call_edgeclf, model, options, cause, changes
):
    found, _, facts = examine(model, *options)
    finding = found[cause]
    assert finding.severity == "problem"
    assert changes.items() <= finding.evidence["options"].items()
    assert finding.evidence["accuracy"] < 0.75
    assert finding.evidence["best_accuracy"] > 0.9
    assert f"{finding.evidence['best_accuracy']:.1%}" in finding.title
    assert ("scaled twice" in finding.title) == (model == "normalises")
    # The command that is advised does what the finding promises.
    words = shlex.split(COMMAND.search(finding.fix)[0])[1:]
    done = call_edgeclf(*words, "--json")
    assert done.code == 0, done.err
    assert done.json()["accuracy"] == pytest.approx(finding.evidence["best_accuracy"])
    # Recall, calibration and robustness would be those of the wrong use.
    assert facts.model is None


def test_labels_in_another_order_are_named_in_theirs(examine):
    found, _, _ = examine("plain", *RIGHT, labels="rotated.txt")
    assert set(found) == {"label-order"}
    assert found["label-order"].severity == "problem"
    assert found["label-order"].evidence["labels_by_answers"] == list(CLASSES)
    assert found["label-order"].evidence["labels_now"] == [*CLASSES[1:], CLASSES[0]]
    assert "brick, clay, slate, straw (which is their alphabetical order)" in found["label-order"].fix


def test_labels_are_found_where_nothing_names_them(examine):
    found, _, facts = examine("plain", *RIGHT, labels=None)
    assert set(found) == {"label-order"}
    assert found["label-order"].severity == "warning"
    assert found["label-order"].evidence["labels_by_answers"] == list(CLASSES)
    assert facts.model.labels == CLASSES


def test_wrong_scaling_and_wrong_labels_are_found_together(examine):
    found, _, _ = examine("normalises", "--preprocess", "imagenet", labels="rotated.txt")
    assert {"input-scale", "label-order"} <= set(found)
    assert found["label-order"].evidence["labels_by_answers"] == list(CLASSES)
    assert "--mean 0 --std 1" in found["label-order"].fix


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("twice", (), "applies a softmax to probabilities"),
        ("plain", ("--output-activation", "none"), "--output-activation softmax"),
        ("sigmoids", ("--output-activation", "none"), "--output-activation sigmoid"),
        ("sigmoids", ("--output-activation", "softmax"), "--output-activation sigmoid"),
    ],
)
def test_probabilities_that_are_none_are_named(examine, model, options, words):
    found, _, _ = examine(model, *RIGHT, *options)
    assert set(found) == {"output-activation"}
    assert words in found["output-activation"].title + found["output-activation"].fix


def test_folders_that_are_no_labels_are_left_out_and_named(examine, folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "more")
    (tmp_path / "more" / "clay").rename(tmp_path / "more" / "Clay")
    shutil.copytree(tmp_path / "more" / "brick", tmp_path / "more" / "granite")
    found, _, facts = examine("plain", *RIGHT, data=tmp_path / "more")
    assert set(found) == {"label-order"}
    assert found["label-order"].severity == "warning"
    assert found["label-order"].evidence["unknown"] == ["granite"]
    # Spelling is no other name.
    assert facts.use.derived(judge_use).by_name.tolist().count(-1) == 1


def test_without_labels_nothing_is_claimed_that_only_labels_can_tell(examine, folder, tmp_path):
    for number, path in enumerate(sorted((folder / "data").rglob("*.png"))[::3]):
        shutil.copyfile(path, tmp_path / f"{number}.png")
    found, notes, facts = examine("bgr", *RIGHT, data=tmp_path)
    assert found == {}
    (note,) = notes
    assert "channels, fit and labels" in note.title
    assert facts.use.derived(judge_use) is None
    found, _, _ = examine("normalises", *RIGHT, data=tmp_path)
    assert found["constant-answer"].severity == "warning"
    assert "--mean" in found["constant-answer"].fix
    # Nothing tells the scaling.
    with pytest.raises(ModelFileError, match="does not say how they are scaled"):
        examine("plain", data=tmp_path)


def test_few_photographs_tell_little_and_that_is_said(examine, folder, tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for path in sorted((folder / "data" / name).iterdir())[:3]:
            shutil.copyfile(path, tmp_path / name / path.name)
    found, notes, _ = examine("bgr", *RIGHT, data=tmp_path)
    assert found == {}
    assert [note.title.startswith("12 photographs with labels") for note in notes] == [True]


def test_the_command_reports_a_fault_with_everything_that_belongs_to_it(call_edgeclf, folder):
    options = ("--labels", folder / "names.txt", *RIGHT, "--fast")
    done = call_edgeclf("doctor", folder / "bgr.onnx", "--data", folder / "data", *options, "--json")
    document = done.json()
    assert (done.code, document["kind"], document["findings"][0]["cause"]) == (4, "model", "channel-order")
    assert document["used_as"]["scaling"]["origin"] == "preset imagenet"
    assert document["tried"][0] == {
        "options": {},
        "images": 120,
        "accuracy": document["findings"][0]["evidence"]["accuracy"],
    }
    assert any("were not judged" in item["title"] for item in document["findings"])
    page = folder / "page.html"
    done = call_edgeclf("doctor", folder / "twice.onnx", "--data", folder / "data", *options, "--html", page)
    assert done.code == 0
    assert "the model and 120 images" in done.out
    assert "warning output-activation" in done.out
    assert "calibration" not in done.out
    assert "output-activation" in page.read_text()


def test_a_file_with_a_spec_needs_no_options_and_swapped_photographs_are_noticed(call_edgeclf, colour_model, tmp_path):
    rng = fresh_rng()
    # OpenCV writes B, G, R: a program that hands it R, G, B writes these.
    for number, name in enumerate(("red", "green", "blue")):
        (tmp_path / "swapped" / name).mkdir(parents=True)
        (tmp_path / "right" / name).mkdir(parents=True)
        for count in range(30):
            image = rng.integers(0, 120, (40, 40, 3)).astype(np.uint8)
            image[..., number] += 100
            cv2.imwrite(str(tmp_path / "swapped" / name / f"{count}.png"), image)
            cv2.imwrite(str(tmp_path / "right" / name / f"{count}.png"), image[..., ::-1])
    done = call_edgeclf("doctor", colour_model, "--data", tmp_path / "swapped", "--fast", "--json")
    first = done.json()["findings"][0]
    assert (done.code, first["cause"]) == (4, "channel-order")
    assert "red and blue swapped" in first["fix"]
    assert "--channels" not in first["fix"]
    done = call_edgeclf("doctor", colour_model, "--data", tmp_path / "right", "--fast", "--json")
    assert OF_USE.isdisjoint(item["cause"] for item in done.json()["findings"])
    assert done.json()["used_as"] is None


def test_an_int8_file_is_compared(call_edgeclf, folder):
    model = folder / "plain.onnx"
    done = call_edgeclf(
        "doctor", model, "--data", folder / "data", "--labels", folder / "names.txt", *RIGHT,
        "--int8", folder / "bgr.onnx", "--fast", "--json",
    )  # fmt: skip
    (gap,) = [item for item in done.json()["findings"] if item["cause"] == "int8-gap"]
    assert gap["evidence"]["accuracy_drop"] > 0.5
    assert done.code == 4


def test_what_cannot_be_examined_ends_with_one_sentence(run_edgeclf, folder, colour_model):
    model, data = folder / "plain.onnx", folder / "data"
    for code, words, said in [
        (2, (model,), "pass --data"),
        (2, (data, "--labels", folder / "names.txt"), "--labels is for model files"),
        (2, (colour_model, "--data", data, "--channels", "bgr"), "describes itself"),
        (3, (folder / "none.onnx", "--data", data), "cannot open model"),
        (3, (model, "--data", folder / "nowhere"), "nowhere"),
    ]:
        done = run_edgeclf("doctor", *words, "--fast")
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
