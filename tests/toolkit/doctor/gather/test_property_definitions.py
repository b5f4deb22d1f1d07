"""Measured properties against their plain definitions."""

import cv2
import numpy as np
import pytest

from edgeclf.runtime.images.header import read_image_header
from edgeclf.runtime.images.preprocess import decode_image
from edgeclf.toolkit.doctor.gather.properties import PROPERTIES, jpeg_quality, measure_properties


def measured(image_bgr, suffix=".png", *options):
    data = cv2.imencode(suffix, image_bgr, list(options))[1].tobytes()
    return measure_properties(decode_image(data), read_image_header(data), data)


def plain_high_frequency(luma):
    window = np.outer(np.hanning(luma.shape[0]), np.hanning(luma.shape[1]))
    energy = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) ** 2
    rows = np.abs(np.fft.fftfreq(luma.shape[0]))[:, None]
    return energy[np.maximum(rows, np.fft.rfftfreq(luma.shape[1])[None, :]) > 0.25].sum() / energy.sum()


@pytest.mark.parametrize("size_hw", [(96, 128), (97, 128), (96, 131), (33, 251), (200, 201)])
def test_properties_are_what_they_say(crop, size_hw):
    image = crop(*size_hw)
    luma = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float64)
    found = measured(image)
    assert list(found) == list(PROPERTIES)
    assert found["brightness"] == pytest.approx(luma.mean())
    assert found["contrast"] == pytest.approx(luma.std())
    assert found["dark_share"] == pytest.approx((luma < 10).mean())
    assert found["bright_share"] == pytest.approx((luma > 245).mean())
    assert found["channel_spread"] == pytest.approx(np.ptp(image.astype(int), axis=2).mean())
    laplacian = cv2.Laplacian(luma, cv2.CV_64F).var()
    assert found["sharpness"] == pytest.approx(np.log10(laplacian + 1))
    assert found["fine_sharpness"] == pytest.approx(np.log10((laplacian + 1e-3) / (luma.var() + 1)))
    # Single precision against double.
    assert found["high_frequency"] == pytest.approx(plain_high_frequency(luma), rel=1e-5)


def test_noise_alone_reaches_the_highest_frequencies(rng):
    noise = measured(rng.integers(0, 256, (101, 90, 3), np.uint8))["high_frequency"]
    waves = np.zeros((101, 90, 3), np.uint8) + (128 + 100 * np.sin(np.arange(90) / 6)).astype(np.uint8)[None, :, None]
    # Frequencies above half the highest are three quarters of the plane.
    assert noise == pytest.approx(0.75, abs=0.05)
    assert measured(waves)["high_frequency"] < 0.01


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 60), (60, 1), (2, 3), (15, 16), (16, 15)])
def test_tiny_images_have_properties_too(rng, size_hw):
    for image in (rng.integers(0, 256, (*size_hw, 3), np.uint8), np.full((*size_hw, 3), 77, np.uint8)):
        found = measured(image)
        assert np.isnan(found["high_frequency"])
        assert all(
            np.isfinite(value)
            for name, value in found.items()
            # These need a few blocks of pixels, or a JPEG file.
            if name not in {"high_frequency", "blockiness", "edge_sharpness", "noise", "jpeg_quality"}
        )


@pytest.mark.parametrize("quality", [35, 50, 75, 92])
def test_the_quality_setting_is_read_from_the_tables(crop, quality):
    data = cv2.imencode(".jpg", crop(), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert jpeg_quality(data) == pytest.approx(quality, abs=2)


def test_a_frame_is_border_and_a_photograph_has_none(crop):
    image = crop().copy()
    assert measured(image)["border"] < 0.05
    image[:10], image[-10:] = 255, 255
    assert measured(image)["border"] == pytest.approx(20 / 96, abs=0.05)
