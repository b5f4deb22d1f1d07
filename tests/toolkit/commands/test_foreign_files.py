"""Files that others made, through the commands: the same options everywhere, what was found and assumed, exit codes."""

import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SCALING = ("--mean", "0", "--std", "255")
ULTRALYTICS = {"task": "classify", "names": "{0: 'red', 1: 'green', 2: 'blue'}", "imgsz": "[32, 32]"}


def write(path, *, size=32, metadata=None, tail=None, classes=3, opset=13, channels=3, extra=None):
    """A float classifier of the mean colour, (N, 3, H, W), whose softmax is `y`."""
    values = {"w": (20 * np.eye(3, classes)).astype(np.float32)} | (extra or {})
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["z"]),
        *(tail or [helper.make_node("Softmax", ["z"], ["y"], axis=1)]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return path


def picture(path, bgr):
    cv2.imwrite(str(path), np.full((48, 64, 3), bgr, np.uint8))
    return path


@pytest.fixture
def red(tmp_path):
    return picture(tmp_path / "red.png", (0, 0, 255))


@pytest.fixture
def data(tmp_path):
    for label, bgr in {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}.items():
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(3):
            picture(tmp_path / "data" / label / f"{number}.png", bgr)
    return tmp_path / "data"


def test_a_file_that_says_everything_needs_no_option(run_edgeclf, tmp_path, red):
    done = run_edgeclf("infer", write(tmp_path / "m.onnx", metadata=ULTRALYTICS), red, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] == "red"
    assert "fit crop, of which 1 is kept (found in the metadata)" in done.stderr
    assert "labels" not in done.stdout


def test_what_is_missing_ends_with_3_and_names_the_option(run_edgeclf, tmp_path, red):
    done = run_edgeclf("infer", write(tmp_path / "m.onnx"), red)
    assert done.returncode == 3
    assert "--mean and --std" in done.stderr
    assert run_edgeclf("infer", tmp_path / "m.onnx", red, "--preprocess", "timm").returncode == 2
    assert run_edgeclf("infer", tmp_path / "m.onnx", red, "--preprocess", "torch").returncode == 2
    assert run_edgeclf("infer", tmp_path / "m.onnx", red, "--mean", "0").returncode == 2
    assert run_edgeclf("infer", tmp_path / "m.onnx", red, "--mean", "0,1", "--std", "1").returncode == 2
    assert run_edgeclf("infer", tmp_path / "m.onnx", red, *SCALING, "--image-size", "x").returncode == 2
    assert run_edgeclf("infer", tmp_path / "m.onnx", red, *SCALING, "--image-size", "64").returncode == 2


def test_info_needs_no_option_and_opens_no_session(call_edgeclf, tmp_path):
    # ONNX Runtime opens no file of this operator set.
    path = write(tmp_path / "m.onnx", opset=9999)
    done = call_edgeclf("info", path)
    assert done.code == 0
    for words in ("float32 (N, 3, 32, 32)", "softmax inside", "assumed", "missing: ", "--mean and --std"):
        assert words in done.out
    document = call_edgeclf("info", path, "--json", *SCALING).json()
    assert (document["has_spec"], document["opset"], document["used_as"]["missing"]) == (False, 9999, [])
    assert document["used_as"]["scaling"] == {"mean": [0.0], "std": [255.0], "origin": "given"}
    assert document["spec"]["labels"] == ["0", "1", "2"]


def test_info_measures_what_the_graph_does_not_show(call_edgeclf, tmp_path):
    tail = [helper.make_node("Softmax", ["z"], ["p"], axis=1), helper.make_node("Clip", ["p"], ["y"])]
    path = write(tmp_path / "m.onnx", tail=tail)
    assert call_edgeclf("info", path, "--json").json()["used_as"]["activation"] == {"value": None, "origin": None}
    found = call_edgeclf("info", path, "--json", *SCALING).json()["used_as"]["activation"]
    assert found == {"value": "softmax", "origin": "measured on probe images"}


@pytest.mark.parametrize("arguments", [["infer", "m.onnx", "red.png"], ["info", "m.onnx"], ["bench", "m.onnx"]])
def test_a_detector_ends_with_3_and_one_sentence(run_edgeclf, tmp_path, red, arguments):
    write(tmp_path / "m.onnx", metadata={**ULTRALYTICS, "task": "detect"})
    done = run_edgeclf(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "for the task 'detect', expected the task 'classify'" in done.stderr


def test_weights_that_are_missing_or_outside_and_versions_that_are_too_new(run_edgeclf, tmp_path, red):
    def fails(path, *words):
        done = run_edgeclf("infer", path, red, *SCALING)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
        assert all(word in done.stderr for word in words), done.stderr

    fails(write(tmp_path / "o.onnx", opset=9999), "newer than the installed ONNX Runtime", "opset 9999")
    model = onnx.load(write(tmp_path / "i.onnx"))
    model.ir_version = 9999
    (tmp_path / "i.onnx").write_bytes(model.SerializeToString())
    fails(tmp_path / "i.onnx", "IR version 9999")
    model = onnx.load(write(tmp_path / "e.onnx"))
    (weights,) = model.graph.initializer
    onnx.external_data_helper.set_external_data(weights, "weights.bin")
    weights.ClearField("raw_data")
    (tmp_path / "e.onnx").write_bytes(model.SerializeToString())
    fails(tmp_path / "e.onnx", "no weights.bin beside it")
    # A length that the model says, and a file that is shorter: a pointer of Git LFS, or a download that ended early.
    weights.external_data.add(key="length", value=str(1 << 20))
    (tmp_path / "e.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    fails(tmp_path / "e.onnx", "a Git LFS pointer", "1,048,576 bytes", "git lfs pull")
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    fails(tmp_path / "e.onnx", "weights.bin of 100 bytes", "copy or download it again")
    weights.external_data[0].value = "../weights.bin"
    (tmp_path / "e.onnx").write_bytes(model.SerializeToString())
    fails(tmp_path / "e.onnx", "outside of its folder")


def test_links_into_one_folder_of_blobs_are_followed(call_edgeclf, tmp_path, red):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    model = onnx.load(write(tmp_path / "m.onnx"))
    onnx.save(model, tmp_path / "blobs" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "blobs" / "m.onnx").rename(tmp_path / "blobs" / "1")
    (tmp_path / "blobs" / "w.bin").rename(tmp_path / "blobs" / "2")
    path = tmp_path / "snapshot" / "m.onnx"
    path.symlink_to("../blobs/1")
    (tmp_path / "snapshot" / "w.bin").symlink_to("../blobs/2")
    assert call_edgeclf("infer", path, red, *SCALING, "--format", "jsonl").json()["index"] == 0
    out = tmp_path / "out.onnx"
    assert call_edgeclf("export", path, *SCALING, "--out", out).code == 0
    assert call_edgeclf("infer", out, red, "--format", "jsonl").json()["index"] == 0
    # A link to another place is outside.
    (tmp_path / "snapshot" / "w.bin").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "blobs" / "2").rename(tmp_path / "elsewhere" / "2")
    (tmp_path / "snapshot" / "w.bin").symlink_to("../elsewhere/2")
    done = call_edgeclf("export", path, *SCALING, "--out", tmp_path / "no.onnx")
    assert done.code == 3
    assert "outside of its folder" in done.err
    assert not (tmp_path / "no.onnx").exists()


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ([helper.make_node("Blur", ["z"], ["y"], domain="com.acme")], "got Blur of the domain com.acme"),
        ([helper.make_node("Blur", ["z"], ["y"])], "got Blur of opset 13"),
        (None, "got Missing opset in the model"),
    ],
)
def test_what_onnx_runtime_does_not_open_is_told_without_its_source_code(call_edgeclf, tmp_path, red, tail, words):
    path = write(tmp_path / "m.onnx", tail=tail)
    model = onnx.load(path)
    if tail is None:
        del model.opset_import[:]
    else:
        model.opset_import.append(helper.make_opsetid("com.acme", 1))
    path.write_bytes(model.SerializeToString())
    done = call_edgeclf("infer", path, red, *SCALING)
    assert done.code == 3
    assert words in done.err
    assert ".cc:" not in done.err
    assert "ONNXRuntimeError" not in done.err


def test_a_graph_without_outputs_is_no_classifier(call_edgeclf, tmp_path, red):
    model = onnx.load(write(tmp_path / "m.onnx"))
    del model.graph.output[:]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = call_edgeclf("infer", tmp_path / "m.onnx", red, *SCALING)
    assert done.code == 3
    assert "got outputs none" in done.err


def test_evaluate_compare_verify_and_bench_take_the_same_options(call_edgeclf, tmp_path, data, make_colour_model):
    ours = make_colour_model(tmp_path / "ours.onnx")
    path = write(tmp_path / "m.onnx")
    (tmp_path / "names.txt").write_text("0 red\n1 green\n2 blue\n")
    options = ("--labels", tmp_path / "names.txt", *SCALING, "--fit", "crop", "--json")
    done = call_edgeclf("evaluate", path, data, *options)
    assert (done.code, done.json()["accuracy"]) == (0, 1.0)
    assert done.json()["used_as"]["fit"] == {
        "value": "crop",
        "crop_fraction": 1.0,
        "pad_value": None,
        "origin": "given",
    }
    assert "are numbered" in done.err
    other = write(tmp_path / "other.onnx")
    done = call_edgeclf("verify", path, data, "--against", other, *options)
    assert (done.code, done.json()["agreement"]) == (0, 1.0)
    assert set(done.json()["used_as"]) == {str(path), str(other)}
    done = call_edgeclf("verify", path, data, "--against", ours, *options)
    assert set(done.json()["used_as"]) == {str(path)}
    done = call_edgeclf("compare", ours, path, data, *options)
    assert (done.code, done.json()["agreement"]) == (0, 1.0)
    done = call_edgeclf("bench", ours, path, *options, "--duration", "0", "--min-queries", "8")
    assert done.code == 0
    assert [item["used_as"] is None for item in done.json()["models"]] == [True, False]
    for arguments in (("evaluate", ours, data), ("verify", ours, data, "--against", ours), ("infer", ours, data)):
        refused = call_edgeclf(*arguments, *SCALING)
        assert (refused.code, "themselves" in refused.err or "itself" in refused.err) == (2, True)


def test_a_row_of_nan_is_its_images_error_and_the_others_go_on(run_edgeclf, tmp_path):
    # The logits are divided by the blue of the image.
    tail = [
        helper.make_node("Gather", ["z", "two"], ["b"], axis=1),
        helper.make_node("Div", ["b", "b"], ["one"]),
        helper.make_node("Mul", ["z", "one"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]
    path = write(tmp_path / "m.onnx", tail=tail, extra={"two": np.array([2], np.int64)})
    names = [picture(tmp_path / f"{n}.png", bgr) for n, bgr in enumerate([(9, 0, 200), (0, 0, 200), (9, 0, 200)])]
    done = run_edgeclf("infer", path, *names, *SCALING, "--format", "jsonl")
    assert done.returncode == 3
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in record for record in records] == [False, True, False]
    assert "NaN" in records[1]["error"]
    assert "1 of the images could not be read or classified" in done.stderr
    assert run_edgeclf("infer", path, *names, *SCALING, "--ignore-unreadable").returncode == 0
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for name in names * 2:
        video.write(cv2.imread(str(name)))
    video.release()
    done = run_edgeclf("infer", path, "--camera", "v.avi", *SCALING, "--format", "jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"error" in json.loads(line) for line in done.stdout.splitlines()} <= {True, False}


def test_a_classifier_takes_a_foreign_model(tmp_path, red):
    from edgeclf.runtime import Classifier, ForeignModel

    classifier = Classifier(write(tmp_path / "m.onnx"), foreign=ForeignModel(("r", "g", "b"), preset="ultralytics"))
    assert classifier.predict(red).label == "r"
    assert classifier.session.use.origins["scaling"] == "preset ultralytics"
    assert classifier.open_session().spec == classifier.spec


def test_a_row_of_nan_is_no_image_for_compare_and_no_pass_for_verify(call_edgeclf, tmp_path, data):
    # The green images have no red, by which the logits are divided.
    tail = [
        helper.make_node("Gather", ["z", "zero"], ["r"], axis=1),
        helper.make_node("Div", ["r", "r"], ["one"]),
        helper.make_node("Mul", ["z", "one"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]
    path = write(tmp_path / "m.onnx", tail=tail, extra={"zero": np.array([0], np.int64)})
    other = write(tmp_path / "other.onnx")
    for image in (data / "blue").iterdir():
        picture(image, (255, 0, 9))
    options = ("--labels", tmp_path / "names.txt", *SCALING)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    done = call_edgeclf("compare", path, other, data, *options, "--json")
    assert (done.code, len(done.json()["unreadable"]), done.json()["agreement"]) == (3, 3, 1.0)
    done = call_edgeclf("verify", path, data, "--against", other, *options)
    assert done.code == 3
    assert "one of the two models gives no probabilities for" in done.err
    done = call_edgeclf("evaluate", path, data, *options, "--json")
    assert (done.code, len(done.json()["unreadable"])) == (3, 3)


def test_a_file_that_nothing_names_takes_the_names_of_the_other(call_edgeclf, tmp_path, data, make_colour_model):
    ours, path = make_colour_model(tmp_path / "ours.onnx"), write(tmp_path / "m.onnx")
    done = call_edgeclf("compare", path, ours, data, *SCALING, "--json")
    assert (done.code, done.json()["agreement"]) == (0, 1.0)
    assert done.json()["a"]["used_as"]["labels"]["value"] == ["red", "green", "blue"]
    assert "the names of" in done.err
    for pair in ((path, ours), (ours, path)):
        done = call_edgeclf("verify", pair[0], data, "--against", pair[1], *SCALING, "--json")
        assert "same labels" not in done.err
        assert done.json()["agreement"] == 1.0
    # Another number of classes is another classifier.
    few = write(tmp_path / "few.onnx", classes=2)
    assert call_edgeclf("verify", few, data, "--against", ours, *SCALING).code == 3


def test_folders_that_are_no_labels_are_answered_with_the_option(call_edgeclf, tmp_path, data, make_colour_model):
    path = write(tmp_path / "m.onnx")
    done = call_edgeclf("evaluate", path, data, *SCALING)
    assert done.code == 3
    assert "pass --labels with the classes' names in the order of the outputs" in done.err
    (tmp_path / "other.txt").write_text("rot\nblau\ngrau\n")
    done = call_edgeclf("evaluate", path, data, *SCALING, "--labels", tmp_path / "other.txt")
    assert "pass --labels with names as the folders have them" in done.err
    ours = make_colour_model(tmp_path / "ours.onnx", spec_changes={"labels": ("a", "b", "c")})
    done = call_edgeclf("evaluate", ours, data)
    assert "rename the folders" in done.err
    assert "--labels" not in done.err


LIGHT = """
import sys
for name in ("onnx", "tensorflow", "keras", "tf2onnx", "sklearn", "cleanlab"):
    sys.modules[name] = None
from edgeclf.toolkit.cli import main
if __name__ == "__main__":
    main()
"""


def test_a_light_install_takes_foreign_files_everywhere(tmp_path, data, red, make_colour_model):
    (tmp_path / "light.py").write_text(LIGHT)
    path, ours = write(tmp_path / "m.onnx"), make_colour_model(tmp_path / "ours.onnx")
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    options = ["--labels", tmp_path / "names.txt", *SCALING]
    for words in (
        ["infer", path, red],
        ["evaluate", path, data],
        ["compare", path, ours, data],
        ["verify", path, data, "--against", path],
        ["bench", path, ours, "--duration", "0", "--min-queries", "8"],
        ["info", path],
        ["doctor", path, "--data", data, "--fast"],
    ):
        command = [sys.executable, tmp_path / "light.py", *words, *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (words, done.stderr)


def test_live_cameras_take_a_foreign_model_and_frames_without_numbers_are_errors(tmp_path):
    from edgeclf.runtime import Classifier, ForeignModel, LiveClassifier, PixelScaling

    # The logits are divided by the blue of the image.
    tail = [
        helper.make_node("Gather", ["z", "two"], ["b"], axis=1),
        helper.make_node("Div", ["b", "b"], ["one"]),
        helper.make_node("Mul", ["z", "one"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]
    path = write(tmp_path / "m.onnx", tail=tail, extra={"two": np.array([2], np.int64)})
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for number in range(6):
        video.write(np.full((48, 64, 3), 0 if number == 2 else 200, np.uint8))
    video.release()
    classifier = Classifier(path, foreign=ForeignModel(("r", "g", "b"), PixelScaling((0,), (255,))))
    results = list(LiveClassifier(classifier, tmp_path / "v.avi"))
    # The black frame has no numbers; a busy machine may drop it.
    assert {result.outcome.error is None for result in results if result.frame.image_bgr.max() < 50} <= {False}
    shown = [result for result in results if result.frame.image_bgr.max() > 50]
    assert {result.outcome.prediction.label for result in shown} <= {"r", "g", "b"}
    assert shown
    batch = classifier.predict_batch([np.full((9, 9, 3), 99, np.uint8)] * 3)
    assert len(batch) == 3


def no_classifier(path, kind):
    """A file of a kind that cannot be used as a classifier, and options that are right apart from that."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])
    means = helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)
    if kind == "text":
        image = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", "tokens"])
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "tokens"])]
    elif kind == "argmax":
        nodes = [means, helper.make_node("ArgMax", ["m"], ["y"], axis=1, keepdims=0)]
        outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, ["N"])]
    elif kind == "sequence":
        nodes = [means, helper.make_node("SplitToSequence", ["m"], ["y"], axis=1)]
        outputs = [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)]
    elif kind == "segmenter":
        nodes = [helper.make_node("Relu", ["x"], ["y"])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 32, 32])]
    else:
        nodes = [
            helper.make_node("Reshape", ["x", "boxes"], ["y"]),
            means,
        ]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 768])]
    values = [numpy_helper.from_array(np.array([-1, 4, 768], np.int64), "boxes")] if kind == "detector" else []
    graph = helper.make_graph(nodes, kind, [image], outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("kind", ["text", "argmax", "sequence", "segmenter", "detector"])
def test_files_that_are_no_classifiers_end_every_command_with_one_sentence(call_edgeclf, tmp_path, data, red, kind):
    path = no_classifier(tmp_path / "m.onnx", kind)
    for words in (
        ["infer", path, red],
        ["evaluate", path, data],
        ["bench", path],
        ["info", path],
        ["doctor", path, "--data", data],
    ):
        done = call_edgeclf(*words, *SCALING)
        assert (done.code, done.out, done.err.count("\n")) == (3, "", 1), (words, done.err)
        assert "is not an image classifier that edgeclf can run" in done.err


def test_labels_and_options_that_contradict_the_file_end_every_command_with_one_sentence(
    call_edgeclf, tmp_path, data, red
):
    path = write(tmp_path / "m.onnx")
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    for options, code, said in [
        (("--labels", tmp_path / "names.txt"), 3, "got 2 labels, expected 3"),
        (("--image-size", "64"), 2, "takes images of another size"),
        (("--output", "z9"), 2, "has no output"),
    ]:
        for words in (["infer", path, red], ["evaluate", path, data], ["bench", path], ["info", path]):
            done = call_edgeclf(*words, *SCALING, *options)
            assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), (words, done.err)
            assert said in done.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.pth", b"\x80\x02}q\0.", ("got a PyTorch checkpoint", "torch.onnx.export")),
        ("m.safetensors", b"\x02" + bytes(7) + b"{}", ("got a safetensors file", "it has weights alone")),
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(20), ("got a TensorFlow Lite model", "tf2onnx.convert --tflite")),
        ("m.engine", bytes(99), ("got a TensorRT engine", "export the network that it was made of")),
        ("m.onnx", b"PK\3\4" + bytes(99), ("got a zip archive", "unpack it")),
        ("m.onnx", bytes(99), ("damaged or other binary data", "copy or export the file again")),
    ],
)
@pytest.mark.parametrize("command", ["infer", "info"])
def test_files_of_other_runtimes_are_named_with_the_way_to_onnx(
    call_edgeclf, tmp_path, red, command, name, content, words
):
    (tmp_path / name).write_bytes(content)
    done = call_edgeclf(command, tmp_path / name, *([red, *SCALING] if command == "infer" else []))
    assert done.code == 3
    assert all(word in done.err for word in words), done.err
