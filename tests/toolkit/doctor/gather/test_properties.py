import cv2
import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.runtime.images.header import read_image_header
from edgeclf.toolkit.doctor.gather.properties import PROPERTIES, measure_properties


def measured(image: np.ndarray, suffix: str = ".png", quality: int = 95) -> dict[str, float]:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    data = cv2.imencode(suffix, image, options)[1].tobytes()
    header = read_image_header(data)
    assert header is not None
    return measure_properties(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), header, data)


@pytest.fixture(params=["chelsea", "coffee", "rocket"])
def image(request) -> np.ndarray:
    return np.ascontiguousarray(getattr(photographs, request.param)()[..., ::-1])


def test_all_properties_are_measured(image):
    assert list(measured(image, ".jpg")) == list(PROPERTIES)


def test_edges_lose_sharpness_by_blur_alone(image):
    before = measured(image)["edge_sharpness"]
    assert measured(cv2.GaussianBlur(image, (0, 0), 2.0))["edge_sharpness"] < before - 0.05
    for changed in (image * 0.6, (image - image.mean()) * 0.6 + image.mean()):
        assert measured(changed.astype(np.uint8))["edge_sharpness"] == pytest.approx(before, abs=0.06)


@pytest.mark.parametrize("sigma", [4.0, 10.0])
def test_noise_is_measured_in_units_of_the_luma(sigma):
    noise = np.random.default_rng(0).normal(0, sigma, (256, 256, 1)).repeat(3, axis=2)
    assert measured(np.clip(128 + noise, 0, 255).astype(np.uint8))["noise"] == pytest.approx(sigma, rel=0.3)
    assert measured(np.full((64, 64, 3), 90, np.uint8))["noise"] == 0.0


def test_blocks_show_by_strong_compression_but_not_by_a_frame(image):
    plain = measured(image)["blockiness"]
    assert measured(image, ".jpg", 15)["blockiness"] > plain + 0.3
    framed = cv2.copyMakeBorder(image[8:-8, 8:-8], 8, 8, 8, 8, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    assert measured(framed)["blockiness"] == pytest.approx(plain, abs=0.1)


def test_a_frame_is_measured_in_a_jpeg_as_well(image):
    assert measured(image)["border"] < 0.02
    height, width = image.shape[:2]
    lines = round(0.05 * min(height, width))
    framed = cv2.copyMakeBorder(
        image[lines:-lines, lines:-lines], *(lines,) * 4, cv2.BORDER_CONSTANT, value=(40, 20, 90)
    )
    expected = 1 - (height - 2 * lines) * (width - 2 * lines) / (height * width)
    assert measured(framed, ".jpg", 85)["border"] == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 40), (15, 15), (24, 17)])
def test_tiny_images_have_what_can_be_measured(size_hw):
    found = measured(np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8))
    assert found["width"] == size_hw[1]
    assert set(found) == set(PROPERTIES)
