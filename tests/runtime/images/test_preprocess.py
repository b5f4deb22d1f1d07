"""Fitting a decoded image into the model's input: golden vectors, properties, and what must not be accepted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as photographs

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.preprocess import preprocess_bgr, resize
from edgeclf.runtime.spec import FIT_MODES, Preprocess


def gradient_bgr(height=20, width=30):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 8, y * 12, (x * y) % 256], axis=-1).astype(np.uint8)


# RGB results for `gradient_bgr()`. They were the same with OpenCV 4.12, 4.13 and 5.0; another resize, another
# rounding of the crop or a swapped channel changes them.
GOLDEN = {
    Preprocess((3, 4)): [
        [[9, 34, 26], [31, 34, 86], [52, 34, 146], [73, 34, 206]],
        [[31, 114, 26], [102, 114, 86], [167, 114, 146], [137, 114, 206]],
        [[53, 194, 26], [168, 194, 86], [102, 194, 146], [139, 194, 206]],
    ],
    Preprocess((3, 4), fit="crop", crop_fraction=0.8): [
        [[26, 50, 49], [48, 50, 91], [70, 50, 133], [92, 50, 175]],
        [[58, 114, 49], [108, 114, 91], [158, 114, 133], [180, 114, 175]],
        [[91, 178, 49], [169, 178, 91], [155, 178, 133], [77, 178, 175]],
    ],
    Preprocess((4, 3), fit="letterbox", pad_value=7): [
        [[7, 7, 7], [7, 7, 7], [7, 7, 7]],
        [[20, 54, 36], [65, 54, 116], [108, 54, 196]],
        [[65, 174, 36], [154, 174, 116], [120, 174, 196]],
        [[7, 7, 7], [7, 7, 7], [7, 7, 7]],
    ],
}


@pytest.mark.parametrize("preprocess", GOLDEN, ids=lambda preprocess: preprocess.key)
def test_golden_vectors(preprocess):
    assert preprocess_bgr(gradient_bgr(), preprocess).tolist() == GOLDEN[preprocess]


def test_an_axis_that_grows_is_interpolated_while_the_other_shrinks():
    # 20 x 30 to 4 x 40: rows are averaged in fives, columns interpolated linearly between pixel centres.
    result_rgb = preprocess_bgr(gradient_bgr(), Preprocess((4, 40)))
    assert result_rgb[:, ::13].tolist() == [
        [[0, 24, 0], [19, 24, 77], [39, 24, 155], [58, 24, 232]],
        [[0, 84, 0], [67, 84, 77], [136, 84, 155], [152, 84, 232]],
        [[0, 144, 0], [116, 144, 77], [162, 144, 155], [92, 144, 232]],
        [[0, 204, 0], [164, 204, 77], [73, 204, 155], [135, 204, 232]],
    ]


@pytest.mark.parametrize("fit", FIT_MODES)
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_a_fine_checkerboard_shrinks_to_grey(fit, factor):
    board = (np.indices((24 * factor, 24 * factor)).sum(axis=0) % 2 * 255).astype(np.uint8)
    board_bgr = np.repeat(board[..., None], 3, axis=-1)
    result = preprocess_bgr(board_bgr, Preprocess((24, 24), fit=fit))
    # Without antialiasing some pixels would come out black or white; an odd factor leaves one pixel over.
    assert np.abs(result.astype(int) - 128).max() <= 128 / factor**2 + 1


def test_a_shrunk_photograph_keeps_its_mean_colour_and_channel_order():
    image_bgr = np.ascontiguousarray(photographs.astronaut()[..., ::-1])
    result_rgb = preprocess_bgr(image_bgr, Preprocess((32, 32)))
    assert np.abs(result_rgb.mean(axis=(0, 1)) - photographs.astronaut().mean(axis=(0, 1))).max() < 0.5


sides = st.integers(1, 70)
preprocesses = st.builds(
    Preprocess, size_hw=st.tuples(sides, sides), fit=st.sampled_from(FIT_MODES), crop_fraction=st.floats(0.05, 1.0)
)


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, preprocess=preprocesses, colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_one_colour_stays_one_colour_at_any_size(height, width, preprocess, colour):
    image_bgr = np.full((height, width, 3), colour, np.uint8)
    result_rgb = preprocess_bgr(image_bgr, preprocess)
    assert result_rgb.shape == (*preprocess.size_hw, 3)
    assert result_rgb.dtype == np.uint8
    is_padding = (result_rgb == preprocess.pad_value).all(axis=-1)
    is_colour = (result_rgb == colour[::-1]).all(axis=-1)
    assert (is_colour | is_padding if preprocess.fit == "letterbox" else is_colour).all()
    assert is_colour.any()


@settings(max_examples=100, deadline=None)
@given(height=sides, width=sides, size_hw=st.tuples(sides, sides))
def test_a_letterbox_keeps_the_aspect_ratio_and_centres(height, width, size_hw):
    image_bgr = np.full((height, width, 3), 255, np.uint8)
    inner = (preprocess_bgr(image_bgr, Preprocess(size_hw, fit="letterbox", pad_value=0)) == 255).all(axis=-1)
    rows, columns = np.flatnonzero(inner.any(axis=1)), np.flatnonzero(inner.any(axis=0))
    inner_height, inner_width = len(rows), len(columns)
    assert inner.sum() == inner_height * inner_width
    assert inner_height == size_hw[0] or inner_width == size_hw[1]
    scale = min(size_hw[0] / height, size_hw[1] / width)
    assert abs(inner_height - max(1, height * scale)) <= 0.5
    assert abs(inner_width - max(1, width * scale)) <= 0.5
    assert abs(rows[0] - (size_hw[0] - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (size_hw[1] - 1 - columns[-1])) <= 1


def test_a_crop_takes_the_centre():
    image_bgr = np.zeros((40, 80, 3), np.uint8)
    image_bgr[10:30, 30:50] = 200
    assert (preprocess_bgr(image_bgr, Preprocess((10, 10), fit="crop", crop_fraction=0.5)) == 200).all()
    assert not (preprocess_bgr(image_bgr, Preprocess((10, 10), fit="crop", crop_fraction=0.6)) == 200).all()


def test_cropping_the_whole_of_an_image_with_the_inputs_shape_is_stretching_it():
    image_bgr = np.ascontiguousarray(photographs.chelsea()[:200, :300])
    crop, stretch = (preprocess_bgr(image_bgr, Preprocess((20, 30), fit=fit)) for fit in ("crop", "stretch"))
    assert np.array_equal(crop, stretch)


@pytest.mark.parametrize("fit", FIT_MODES)
def test_the_row_of_a_batch_is_written_in_place(fit):
    image_bgr = gradient_bgr()
    preprocess = Preprocess((16, 16), fit=fit)
    batch = np.full((3, 16, 16, 3), 99, np.uint8)
    returned = preprocess_bgr(image_bgr, preprocess, out=batch[1])
    assert np.shares_memory(returned, batch[1])
    assert np.array_equal(batch[1], preprocess_bgr(image_bgr, preprocess))
    assert (batch[0] == 99).all()
    assert (batch[2] == 99).all()


@pytest.mark.parametrize("fit", FIT_MODES)
@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::2, ::3],
        lambda image: image[::-1, ::-1],
        lambda image: image[..., ::-1],
        lambda image: image.transpose(1, 0, 2),
        lambda image: image[3:17, 5:25],
    ],
    ids=["strided", "mirrored", "channels reversed", "transposed", "cut out"],
)
def test_views_give_what_their_copies_give(fit, view):
    image_bgr = gradient_bgr()
    before = image_bgr.copy()
    for size_hw in ((16, 16), view(image_bgr).shape[:2]):
        preprocess = Preprocess(size_hw, fit=fit)
        expected = preprocess_bgr(np.ascontiguousarray(view(image_bgr)), preprocess)
        assert np.array_equal(preprocess_bgr(view(image_bgr), preprocess), expected)
    assert np.array_equal(image_bgr, before)


def test_the_right_size_is_only_turned_to_rgb_and_is_a_copy():
    image_bgr = gradient_bgr()
    result_rgb = preprocess_bgr(image_bgr, Preprocess((20, 30)))
    assert np.array_equal(result_rgb, image_bgr[..., ::-1])
    assert not np.shares_memory(result_rgb, image_bgr)


def test_resizing_to_the_same_size_gives_the_image_itself():
    image = gradient_bgr()
    assert resize(image, (20, 30)) is image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "NoneType"),
        ([[1, 2, 3]], "list"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\) uint8"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.int8), "int8"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
    ],
)
def test_what_is_no_bgr_image_is_refused(image, words):
    with pytest.raises(ImageError, match=rf"got (shape )?.*{words}.*BGR"):
        preprocess_bgr(image, Preprocess((4, 4)))
