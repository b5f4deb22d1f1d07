"""Ten ways to use a classifier inside another program."""

import asyncio
import gc
import io
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeclf.runtime import Classifier, ForeignModel, ImageError, ModelFileError, ModelSession, UsageError
from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess

from ..randomness import fresh_rng

COLOURS_BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
# Python 3.12 warns of forks of programs with threads, which is what these are about.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def picture(label, size_hw=(40, 56)):
    """(H, W, 3) uint8 BGR, mostly of one colour."""
    noise = fresh_rng().integers(0, 60, (*size_hw, 3))
    return np.clip(np.array(COLOURS_BGR[label]) * 0.5 + noise, 0, 255).astype(np.uint8)


def encoded(image_bgr, suffix=".png"):
    return cv2.imencode(suffix, image_bgr)[1].tobytes()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network that keeps two threads busy, so that one without its threads never ends."""
    rng = fresh_rng()
    weights = numpy_helper.from_array(rng.normal(size=(32, 3, 7, 7)).astype(np.float32) * 0.01, "weights")
    head = numpy_helper.from_array(rng.normal(size=(32, 3)).astype(np.float32), "head")
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["features"], pads=[3, 3, 3, 3]),
        helper.make_node("GlobalAveragePool", ["features"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 160, 160, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [weights, head],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    spec = ModelSpec(labels=tuple(COLOURS_BGR), preprocess=Preprocess((160, 160)), architecture="test")
    entry.key, entry.value = SPEC_KEY, spec.to_json()
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    onnx.save(model, path)
    return path


# 1. Bytes, as a web upload or a queue brings them.
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_an_encoded_image(colour_model, kind):
    clf = Classifier(colour_model)
    image_bgr = picture("green")
    for suffix in (".png", ".bmp", ".tiff"):
        got = clf.predict(kind(encoded(image_bgr, suffix)))
        np.testing.assert_array_equal(got.probabilities, clf.predict(image_bgr).probabilities)
    batch = clf.predict_batch([encoded(picture(label)) for label in COLOURS_BGR])
    assert [prediction.label for prediction in batch] == list(COLOURS_BGR)
    for broken in (b"", b"no image", encoded(image_bgr)[:100]):
        with pytest.raises(ImageError):
            clf.predict(kind(broken))


# 2. Pillow images.
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "I;16"])
def test_a_pillow_image_is_what_its_file_is(colour_model, tmp_path, mode):
    clf = Classifier(colour_model)
    rgb = Image.fromarray(np.ascontiguousarray(picture("blue")[..., ::-1]))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    elif mode in {"RGBA", "LA"}:
        image = rgb.convert(mode)
        image.putalpha(Image.fromarray(fresh_rng().integers(0, 256, (40, 56), dtype=np.uint8)))
    else:
        image = rgb.convert(mode)
    path = tmp_path / ("image.tiff" if mode in {"CMYK", "YCbCr"} else "image.png")
    (image.convert("RGB") if mode in {"HSV", "YCbCr"} else image).save(path)
    given, from_file = clf.predict(image), clf.predict(path)
    np.testing.assert_allclose(given.probabilities, from_file.probabilities, atol=0.05 if mode == "CMYK" else 0.01)
    np.testing.assert_array_equal(
        clf.predict(Image.open(path)).probabilities, given.probabilities
    ) if mode == "RGB" else None


def test_a_pillow_image_is_turned_upright(colour_model):
    # The left half is blue; upright, by its orientation, the upper half. A crop shows the upper half alone.
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40, 2], pixels[:, 40:, 0] = 255, 255
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    clf = Classifier(colour_model)
    np.testing.assert_array_equal(
        clf.predict(Image.open(stream)).probabilities, clf.predict(stream.getvalue()).probabilities
    )


def test_pillow_images_that_cannot_be_used_say_why(colour_model):
    clf = Classifier(colour_model)
    with pytest.raises(ImageError, match="mode F"):
        clf.predict(Image.fromarray(np.zeros((8, 8), np.float32)))
    truncated = Image.open(io.BytesIO(encoded(picture("red", (200, 200)), ".jpg")[:-4000]))
    with pytest.raises(ImageError, match="truncated"):
        clf.predict(truncated)
    with pytest.raises(ImageError, match=r"\(H, W, 3\) uint8"):
        clf.predict([1, 2, 3])


def test_what_is_no_image_says_what_would_be(colour_model, tmp_path):
    clf = Classifier(colour_model)
    (tmp_path / "red.png").write_bytes(encoded(picture("red")))
    with (
        (tmp_path / "red.png").open("rb") as file,
        pytest.raises(ImageError, match=r"got a Buffered\w+, .*; pass what its read"),
    ):
        clf.predict(file)  # type: ignore[arg-type] # that is the mistake
    with pytest.raises(
        ImageError, match=r"got a list, expected a NumPy array .*, the path of a file, .*; pass the images"
    ):
        clf.predict([picture("red")])  # type: ignore[arg-type] # that is the mistake
    with pytest.raises(ImageError, match=r"got a NoneType, expected .*, or a Pillow image\."):
        clf.predict(None)  # type: ignore[arg-type] # that is the mistake
    # One path is no list of its letters.
    for one in (str(tmp_path / "red.png"), tmp_path, b"bytes"):
        for method in (clf.predict_batch, clf.stream):
            with pytest.raises(UsageError, match=r"takes several images: got one: .*image_paths"):
                method(one)  # type: ignore[operator] # that is the mistake


def test_any_iterable_of_images_is_a_batch(colour_model):
    clf = Classifier(colour_model, threads=1)
    pictures = [picture(label) for label in ("red", "green", "blue")]
    labels = ["red", "green", "blue"]
    assert [prediction.label for prediction in clf.predict_batch(image for image in pictures)] == labels
    assert [prediction.label for prediction in clf.predict_batch(np.stack(pictures))] == labels
    assert clf.predict_batch(iter(())) == []


# 3. RGB arrays.
def test_the_order_of_an_arrays_channels_is_said(colour_model):
    clf = Classifier(colour_model)
    image_bgr = picture("red")
    image_rgb = np.ascontiguousarray(image_bgr[..., ::-1])
    expected = clf.predict(image_bgr).probabilities
    np.testing.assert_array_equal(clf.predict(image_rgb, channels="rgb").probabilities, expected)
    # A view is as good as a copy, and stays what it was.
    np.testing.assert_array_equal(clf.predict(image_bgr[..., ::-1], channels="rgb").probabilities, expected)
    np.testing.assert_array_equal(clf.predict_batch([image_rgb], channels="rgb")[0].probabilities, expected)
    assert clf.predict(image_rgb).label == "blue"
    # What says its order itself is read by that.
    np.testing.assert_array_equal(clf.predict(encoded(image_bgr), channels="rgb").probabilities, expected)
    with pytest.raises(UsageError, match="'bgr' or 'rgb'"):
        clf.predict(image_rgb, channels="RGBA")
    with pytest.raises(UsageError, match="'bgr' or 'rgb'"):
        clf.predict_batch([], channels="grey")


# 4. Threads.
def test_threads_share_one_classifier(colour_model):
    with Classifier(colour_model) as clf:
        wrong = []

        def work(label):
            data = encoded(picture(label))
            wrong.extend(label for _ in range(20) if clf.predict(data).label != label)

        threads = [threading.Thread(target=work, args=(label,)) for label in [*COLOURS_BGR] * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


# 5. Fork.
def in_fork(work):
    """Exit status of a forked process that does it, -9 where it did not end."""
    # Sessions that other tests left in cycles: freed in the child, each would wait for threads that are not there.
    gc.collect()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except EXPECTED as error:
            status = EXPECTED.index(type(error)) + 2
        finally:
            os._exit(status)
    watch = threading.Timer(300, os.kill, (child, 9))
    watch.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        watch.cancel()


EXPECTED = (ModelFileError, UsageError)


@needs_fork
@forks
def test_a_forked_process_goes_on_with_a_session_of_its_own(network):
    clf = Classifier(network, threads=2)
    image_bgr = picture("red", (160, 160))
    expected = clf.predict(image_bgr).probabilities

    def predict():
        np.testing.assert_allclose(clf.predict(image_bgr).probabilities, expected, rtol=1e-5)
        np.testing.assert_allclose(clf.predict_batch([image_bgr] * 3)[2].probabilities, expected, rtol=1e-5)

    assert in_fork(predict) == 0

    def predict_and_close():
        predict()
        clf.close()
        gc.collect()

    # What is left of the parent's session there would wait for its threads.
    assert in_fork(predict_and_close) == 0
    # A fork of a fork, and the parent afterwards.
    assert in_fork(lambda: [predict(), os._exit(in_fork(predict))]) == 0
    predict()


@needs_fork
@forks
def test_a_file_that_changed_before_the_fork_is_said_to_have(network, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(network.read_bytes())
    clf = Classifier(path)
    path.write_bytes(network.read_bytes())
    assert in_fork(lambda: clf.predict(picture("red"))) == 2 + EXPECTED.index(ModelFileError)
    assert clf.predict(picture("red"))


@needs_fork
@forks
def test_a_pool_of_forked_processes_classifies(network, tmp_path):
    clf = Classifier(network, threads=2)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        cv2.imwrite(str(path), picture("green", (160, 160)))
    expected = [clf.predict(path).confidence for path in paths]
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(confidence_of, [clf] * 6, paths)) == pytest.approx(expected, rel=1e-5)


def confidence_of(clf: Classifier, path: Path) -> float:
    return clf.predict(path).confidence


# 6. Spawn.
def test_a_pool_of_spawned_processes_gets_the_classifier(colour_model, tmp_path, monkeypatch):
    monkeypatch.chdir(colour_model.parent)
    clf = Classifier(colour_model.name)
    cv2.imwrite(str(tmp_path / "red.png"), picture("red"))
    expected = clf.predict(tmp_path / "red.png")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        # The method takes its classifier along.
        got = pool.submit(clf.predict, tmp_path / "red.png").result()
        np.testing.assert_array_equal(got.probabilities, expected.probabilities)
        # So does an error its parts.
        with pytest.raises(ImageError) as caught:
            pool.submit(clf.predict, tmp_path / "none.png").result()
    assert (caught.value.got, caught.value.hint) == ("no such file or directory", "check the path and its permissions")


# 7. Pickle.
def test_a_classifier_survives_pickling_with_its_options(colour_model, make_colour_model, tmp_path, monkeypatch):
    monkeypatch.chdir(colour_model.parent)
    clf = Classifier(colour_model.name, threads=1, exact=True)
    data = pickle.dumps(clf)
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(data)
    image_bgr = picture("green")
    np.testing.assert_array_equal(again.predict(image_bgr).probabilities, clf.predict(image_bgr).probabilities)
    assert (again.session.threads, again.session.threads_were_chosen) == (1, True)
    assert again.open_session().spec == clf.spec
    # A file of others with what is known of it, and a session used otherwise than the file says.
    plain = make_colour_model(tmp_path / "plain.onnx", with_spec=False)
    foreign = ForeignModel(labels=("a", "b", "c"), channels="bgr")
    session = ModelSession(plain, foreign=foreign)
    assert pickle.loads(pickle.dumps(session)).spec == session.spec
    assert session.use is not None
    other = session.used_as(replace(session.use, channels="rgb"))
    image_rgb = picture("red", (32, 32))[None]
    again = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(again.run(image_rgb), other.run(image_rgb))
    assert not np.array_equal(again.run(image_rgb), session.run(image_rgb))
    (tmp_path / "plain.onnx").unlink()
    with pytest.raises(ModelFileError, match="plain"):
        pickle.loads(pickle.dumps(session))


# 8. asyncio.
def test_a_coroutine_waits_in_a_thread(colour_model):
    clf = Classifier(colour_model)

    async def classify():
        uploads = [encoded(picture(label)) for label in COLOURS_BGR]
        return await asyncio.gather(*(asyncio.to_thread(clf.predict, upload) for upload in uploads))

    assert [prediction.label for prediction in asyncio.run(classify())] == list(COLOURS_BGR)


# 9. A context manager.
def test_a_closed_classifier_says_so(colour_model):
    with Classifier(colour_model) as clf:
        clf.predict(picture("red"))
    for use in (clf.predict, lambda image: clf.predict_batch([image])):
        with pytest.raises(UsageError, match="a closed model"):
            use(picture("red"))
    clf.close()
    assert clf.spec.labels == tuple(COLOURS_BGR)
    # The file is still there.
    assert pickle.loads(pickle.dumps(clf)).predict(picture("red")).label == "red"


# 10. A web handler: tests/test_examples.py runs examples/classify_uploads.py.
