"""Bilinear and bicubic preprocessing against Pillow: the resize, and the evaluation transforms of torchvision and timm."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage import data as photographs

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.fit_modes import Region, resized_window
from edgeclf.runtime.images.preprocess import preprocess_bgr
from edgeclf.runtime.images.resample import resample
from edgeclf.runtime.spec import FIT_MODES, Preprocess

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PHOTO_RGB = photographs.astronaut()
interpolations = pytest.mark.parametrize("interpolation", FILTERS)
sides = st.integers(1, 90)


def pillow_resize(image, size_hw, interpolation):
    """Columns, then rows, as every Pillow does for most images; Pillow 13 takes rows first for tall images."""
    height, width = size_hw
    columns = image.resize((width, image.height), FILTERS[interpolation])
    return columns.resize((width, height), FILTERS[interpolation])


def evaluation_transform(image, size, short, interpolation):
    """torchvision's Resize(short) and CenterCrop(size), with Pillow alone."""
    width, height = image.size
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    image = pillow_resize(image, (height, width), interpolation)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def random_image(height, width, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "photograph":
        top, left = rng.integers(0, 512 - height + 1), rng.integers(0, 512 - width + 1)
        return np.ascontiguousarray(PHOTO_RGB[top : top + height, left : left + width])
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(noise > 127, np.uint8(255), np.uint8(0)) if kind == "black and white" else noise


images = st.builds(
    random_image, sides, sides, st.sampled_from(["photograph", "noise", "black and white"]), st.integers(0, 2**32 - 1)
)


def largest_difference(got, expected):
    assert got.shape == expected.shape
    assert got.dtype == np.uint8
    return int(np.abs(got.astype(int) - expected.astype(int)).max())


@interpolations
@settings(max_examples=200, deadline=None)
@given(image=images, size_hw=st.tuples(sides, sides))
def test_every_pixel_is_that_of_pillow(interpolation, image, size_hw):
    expected = np.asarray(pillow_resize(Image.fromarray(image), size_hw, interpolation))
    assert largest_difference(resample(image, size_hw, interpolation, Region(0, 0, *size_hw)), expected) == 0


@interpolations
@settings(max_examples=100, deadline=None)
@given(image=images, size_hw=st.tuples(sides, sides), draw=st.data())
def test_a_window_has_the_pixels_of_the_whole(interpolation, image, size_hw, draw):
    top, left = (draw.draw(st.integers(0, side - 1)) for side in size_hw)
    height, width = draw.draw(st.integers(1, size_hw[0] - top)), draw.draw(st.integers(1, size_hw[1] - left))
    whole = resample(image, size_hw, interpolation, Region(0, 0, *size_hw))
    window = resample(image, size_hw, interpolation, Region(top, left, height, width))
    assert np.array_equal(window, whole[top : top + height, left : left + width])


@interpolations
@pytest.mark.parametrize("size_hw", [(224, 224), (97, 301), (512, 600), (700, 512), (1200, 1100), (1, 1), (60, 100)])
def test_a_photograph_is_as_pillow_itself_resizes_it(interpolation, size_hw):
    for image in (PHOTO_RGB, photographs.chelsea(), photographs.coffee()):
        expected = np.asarray(Image.fromarray(image).resize(size_hw[::-1], FILTERS[interpolation]))
        assert largest_difference(resample(image, size_hw, interpolation, Region(0, 0, *size_hw)), expected) == 0


@interpolations
def test_a_photograph_of_twelve_megapixels_is_as_pillow_resizes_it(interpolation, rng):
    image = np.tile(photographs.coffee(), (8, 7, 1))[:3000, :4000]
    image = image ^ rng.integers(0, 8, image.shape, dtype=np.uint8)
    got = preprocess_bgr(image[..., ::-1], Preprocess((224, 224), "crop", 0.875, interpolation=interpolation))
    assert largest_difference(got, evaluation_transform(Image.fromarray(image), 224, 256, interpolation)) == 0


@interpolations
@settings(max_examples=150, deadline=None)
@given(image=images, size=st.integers(1, 70), more=st.integers(0, 40))
def test_crop_is_resizing_the_short_side_and_cutting_the_centre(interpolation, image, size, more):
    # Else Pillow's resized image would have millions of pixels.
    assume(max(image.shape[:2]) < 40 * min(image.shape[:2]))
    preprocess = Preprocess((size, size), "crop", size / (size + more), interpolation=interpolation)
    expected = evaluation_transform(Image.fromarray(image), size, size + more, interpolation)
    assert largest_difference(preprocess_bgr(image[..., ::-1], preprocess), expected) == 0


@interpolations
@settings(max_examples=50, deadline=None)
@given(image=images, size_hw=st.tuples(sides, sides))
def test_stretch_is_a_plain_resize(interpolation, image, size_hw):
    got = preprocess_bgr(image[..., ::-1], Preprocess(size_hw, interpolation=interpolation))
    assert largest_difference(got, np.asarray(pillow_resize(Image.fromarray(image), size_hw, interpolation))) == 0


@interpolations
@settings(max_examples=50, deadline=None)
@given(image=images, size_hw=st.tuples(sides, sides))
def test_letterbox_is_a_resize_in_the_middle_of_grey(interpolation, image, size_hw):
    height, width = size_hw
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_hw = tuple(
        max(1, min(whole, round(side * scale))) for whole, side in zip(size_hw, image.shape[:2], strict=True)
    )
    inner = pillow_resize(Image.fromarray(image), inner_hw, interpolation)
    top, left = (height - inner_hw[0]) // 2, (width - inner_hw[1]) // 2
    border = (left, top, width - inner_hw[1] - left, height - inner_hw[0] - top)
    expected = np.asarray(ImageOps.expand(inner, border, fill=(9, 9, 9)))
    got = preprocess_bgr(image[..., ::-1], Preprocess(size_hw, "letterbox", pad_value=9, interpolation=interpolation))
    assert largest_difference(got, expected) == 0


@settings(max_examples=200, deadline=None)
@given(
    image_hw=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    size_hw=st.tuples(sides, sides),
    share=st.floats(0.3, 1.0),
)
def test_the_window_of_a_crop_lies_centred_in_an_image_that_covers_it(image_hw, size_hw, share):
    resized_hw, window = resized_window(image_hw, Preprocess(size_hw, "crop", share, interpolation="bicubic"))
    for resized, begin, size, wanted in zip(resized_hw, window[:2], window[2:], size_hw, strict=True):
        assert size == wanted
        assert 0 <= begin <= resized - size
        assert abs(begin - (resized - size - begin)) <= 1
    # The shorter side, in units of the input's, is what crop_fraction says; the other follows the aspect ratio.
    target_hw = [math.floor(side / share + 1e-6) for side in size_hw]
    assert any(resized == target for resized, target in zip(resized_hw, target_hw, strict=True))
    scale = max(target / side for target, side in zip(target_hw, image_hw, strict=True))
    assert all(abs(resized - side * scale) <= 1 for resized, side in zip(resized_hw, image_hw, strict=True))


@pytest.mark.parametrize(
    ("image_hw", "size", "share", "resized_hw", "corner"),
    [
        ((375, 500), 224, 0.875, (256, 341), (16, 58)),
        ((500, 375), 224, 224 / 232, (309, 232), (42, 4)),
        # 160 / (160 / 232) is 231.99999999999997.
        ((480, 640), 160, 160 / 232, (232, 309), (36, 74)),
        # timm's crop_pct 0.9 and 0.95: 248.9 and 235.8 are rounded down.
        ((480, 480), 224, 0.9, (248, 248), (12, 12)),
        ((480, 480), 224, 0.95, (235, 235), (6, 6)),
        ((224, 227), 224, 1.0, (224, 227), (0, 2)),
        ((225, 224), 224, 1.0, (225, 224), (0, 0)),
    ],
)
def test_sizes_and_corners_as_torchvision_and_timm_compute_them(image_hw, size, share, resized_hw, corner):
    preprocess = Preprocess((size, size), "crop", share, interpolation="bilinear")
    assert resized_window(image_hw, preprocess) == (resized_hw, (*corner, size, size))


@interpolations
@pytest.mark.parametrize("fit", FIT_MODES)
@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::2, ::3],
        lambda image: image[::-1, ::-1],
        lambda image: image.transpose(1, 0, 2),
        lambda image: image[3:70, 5:90],
    ],
    ids=["strided", "mirrored", "transposed", "cut out"],
)
def test_views_give_what_their_copies_give_and_stay_as_they_are(interpolation, fit, view):
    image_bgr = PHOTO_RGB[:100, :120].copy()
    for size_hw in (
        (16, 24),
        view(image_bgr).shape[:2],
        (view(image_bgr).shape[0], 20),
        (20, view(image_bgr).shape[1]),
    ):
        preprocess = Preprocess(size_hw, fit=fit, interpolation=interpolation)
        batch = np.full((2, *size_hw, 3), 99, np.uint8)
        returned = preprocess_bgr(view(image_bgr), preprocess, out=batch[1])
        assert np.shares_memory(returned, batch[1])
        assert np.array_equal(batch[1], preprocess_bgr(np.ascontiguousarray(view(image_bgr)), preprocess))
        assert (batch[0] == 99).all()
    assert np.array_equal(image_bgr, PHOTO_RGB[:100, :120])


def test_the_interpolations_differ_from_each_other_and_from_area():
    results = [
        preprocess_bgr(PHOTO_RGB, Preprocess((64, 64), interpolation=interpolation))
        for interpolation in ("area-down-linear-up", *FILTERS)
    ]
    for index, result in enumerate(results):
        assert all(largest_difference(result, other) > 5 for other in results[:index])


@interpolations
def test_a_side_longer_than_any_camera_makes_is_refused_in_a_sentence(interpolation):
    strip = np.zeros((1, 2**16 + 1, 3), np.uint8)
    with pytest.raises(ImageError, match=r"got 65537 x 1 pixels, expected at most 65,536 pixels along each side"):
        preprocess_bgr(strip, Preprocess((8, 8), interpolation=interpolation))
    assert preprocess_bgr(strip, Preprocess((8, 8))).shape == (8, 8, 3)
    assert preprocess_bgr(strip[:, 1:], Preprocess((8, 8), interpolation=interpolation)).shape == (8, 8, 3)


@interpolations
def test_a_crop_of_a_very_long_image_computes_its_window_only(interpolation):
    # The whole would be 224 x 14,680,064 pixels.
    strip = np.full((1, 2**16, 3), (1, 2, 3), np.uint8)
    result = preprocess_bgr(strip, Preprocess((224, 224), "crop", interpolation=interpolation))
    assert (result == (3, 2, 1)).all()
