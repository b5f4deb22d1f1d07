"""Large JPEGs decoded at a reduced size: nearly the same input, the same errors, and only where it is asked for."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photographs

from edgeclf.runtime import Classifier
from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.header import ImageHeader
from edgeclf.runtime.images.preprocess import decode_image, load_image, preprocess_bgr
from edgeclf.runtime.images.reduced_jpeg import jpeg_reduction
from edgeclf.runtime.spec import Preprocess

PHOTO_RGB = photographs.astronaut()


def jpeg(size_hw, *, orientation=1, mode="RGB", quality=92, **options):
    """The photograph enlarged; upright once `orientation` is applied only for 1."""
    height, width = size_hw
    image = Image.fromarray(cv2.resize(PHOTO_RGB, (width, height), interpolation=cv2.INTER_CUBIC)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, exif=exif, **options)
    return stream.getvalue()


def difference(data, preprocess):
    """Mean difference of the input next to that of all pixels, and whether fewer were decoded."""
    full, reduced = decode_image(data), decode_image(data, reduce_for=preprocess)
    exact, close = (preprocess_bgr(image, preprocess).astype(int) for image in (full, reduced))
    return np.abs(exact - close).mean(), reduced.size < full.size * 0.6


@settings(max_examples=25)
@given(
    st.integers(200, 900),
    st.integers(200, 900),
    st.integers(1, 8),
    st.sampled_from(["stretch", "crop", "letterbox"]),
    st.tuples(st.integers(8, 80), st.integers(8, 80)),
    st.sampled_from([1.0, 0.875, 0.6]),
)
def test_a_reduced_photograph_gives_nearly_the_same_input(height, width, orientation, fit, size_hw, fraction):
    preprocess = Preprocess(size_hw, fit, crop_fraction=fraction if fit == "crop" else 1.0)
    data = jpeg((height, width), orientation=orientation)
    mean, _ = difference(data, preprocess)
    image = decode_image(data)
    # Next to what half a pixel of the input makes, as a crop at the wrong place would.
    half = max(1, round(max(image.shape[0] / size_hw[0], image.shape[1] / size_hw[1]) / 2))
    pair = (preprocess_bgr(np.roll(image, by, axis=(0, 1)), preprocess).astype(int) for by in (0, half))
    assert mean < 0.4 * np.abs(np.subtract(*pair)).mean()


@pytest.mark.parametrize("options", [{}, {"mode": "L"}, {"mode": "CMYK"}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("orientation", [1, 6])
def test_every_kind_of_jpeg_is_reduced(options, orientation):
    mean, is_smaller = difference(jpeg((801, 603), orientation=orientation, **options), Preprocess((50, 50), "crop"))
    assert is_smaller
    assert mean < 1


@pytest.mark.parametrize(
    ("width", "height", "preprocess", "reduction"),
    [
        (4096, 3072, Preprocess((48, 64)), 8),
        (4095, 3071, Preprocess((48, 64)), 4),
        (1024, 1024, Preprocess((64, 64)), 4),
        (1023, 1024, Preprocess((64, 64)), 2),
        (256, 256, Preprocess((64, 64)), 2),
        (255, 256, Preprocess((64, 64)), 1),
        # One axis decides, whichever shrinks less.
        (4000, 128, Preprocess((64, 64)), 1),
        (4000, 128, Preprocess((64, 64), "letterbox"), 4),
        (4000, 1024, Preprocess((64, 64), "crop"), 4),
        (4000, 1024, Preprocess((64, 64), "crop", crop_fraction=0.5), 2),
    ],
)
def test_enough_pixels_must_be_left_for_each_of_the_input(width, height, preprocess, reduction):
    assert jpeg_reduction(ImageHeader("jpeg", width, height), preprocess) == reduction
    assert jpeg_reduction(ImageHeader("png", width, height), preprocess) == 1
    # On its side, the stored width is the height.
    sideways = ImageHeader("jpeg", height, width, orientation=6)
    assert jpeg_reduction(sideways, preprocess) == reduction


def test_other_formats_and_small_photographs_keep_every_pixel():
    preprocess = Preprocess((64, 64), "crop")
    png = cv2.imencode(".png", PHOTO_RGB)[1].tobytes()
    for data, same_as in ((png, png), (jpeg((120, 120)), jpeg((120, 120)))):
        assert np.array_equal(decode_image(data, reduce_for=preprocess), decode_image(same_as))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_interpolations_of_other_trainers_keep_every_pixel(interpolation):
    data = jpeg((900, 700))
    assert decode_image(data, reduce_for=Preprocess((32, 32), "crop")).shape[0] < 900
    everything = Preprocess((32, 32), "crop", interpolation=interpolation)
    assert np.array_equal(decode_image(data, reduce_for=everything), decode_image(data))


def test_without_being_asked_nothing_is_reduced(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg((800, 600)))
    assert load_image(tmp_path / "x.jpg").shape == (800, 600, 3)
    assert load_image(tmp_path / "x.jpg", reduce_for=Preprocess((32, 32))).shape[0] < 200


def test_damaged_files_end_in_the_same_errors(tmp_path):
    whole = jpeg((800, 600))
    for data in (whole[: len(whole) // 2], whole[:-2], b"", b"<html>", whole[:40]):
        errors = []
        for reduce_for in (None, Preprocess((32, 32))):
            with pytest.raises(ImageError) as caught:
                decode_image(data, source="x.jpg", reduce_for=reduce_for)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
    with pytest.raises(ImageError, match="at most 400,000 pixels"):
        decode_image(whole, max_pixels=400_000, reduce_for=Preprocess((32, 32)))


def test_a_classifier_reduces_unless_it_is_to_be_exact(colour_model, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg((900, 700)))
    quick, exact = Classifier(colour_model), Classifier(colour_model, exact=True)
    from_pixels = exact.predict(load_image(path)).probabilities
    np.testing.assert_array_equal(exact.predict(path).probabilities, from_pixels)
    reduced = quick.predict(path).probabilities
    assert 0 < np.abs(reduced - from_pixels).max() < 0.02
    for classifier, wanted in ((quick, reduced), (exact, from_pixels)):
        ((_, streamed),) = classifier.stream([path])
        np.testing.assert_allclose(streamed.probabilities, wanted, atol=1e-6)
        np.testing.assert_allclose(classifier.predict_batch([path])[0].probabilities, wanted, atol=1e-6)


def test_a_classifier_of_another_interpolation_decodes_every_pixel(make_colour_model, tmp_path):
    preprocess = Preprocess((32, 32), "crop", interpolation="bicubic")
    model = make_colour_model(tmp_path / "m.onnx", spec_changes={"preprocess": preprocess})
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg((900, 700)))
    classifier = Classifier(model)
    from_pixels = classifier.predict(load_image(path)).probabilities
    np.testing.assert_array_equal(classifier.predict(path).probabilities, from_pixels)
    ((_, streamed),) = classifier.stream([path])
    np.testing.assert_allclose(streamed.probabilities, from_pixels, atol=1e-6)
