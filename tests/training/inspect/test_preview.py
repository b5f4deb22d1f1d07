"""The sweep over a whole data set: networks whose training begins with smaller images are swept at their own size."""

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.training.data.discovery import discover_dataset
from edgeclf.training.inspect.preview import sweep_learning_rate
from edgeclf.training.options import TrainOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """A folder of 48 crops, 80 x 80 px, of two textures."""
    folder = tmp_path_factory.mktemp("textures")
    rng = np.random.default_rng(2)
    for name, image in (("brick", photographs.brick()), ("coffee", photographs.coffee()[..., ::-1])):
        (folder / name).mkdir()
        for index in range(24):
            top, left = rng.integers(0, image.shape[0] - 80), rng.integers(0, image.shape[1] - 80)
            cv2.imwrite(str(folder / name / f"{index}.png"), image[top : top + 80, left : left + 80])
    return folder


def test_a_progressively_trained_network_is_swept_at_its_full_size(textures, tmp_path):
    options = TrainOptions(architecture="small-cnn", image_size=64, batch_size=8, progressive=True)
    picture = tmp_path / "sweep.png"
    sweep = sweep_learning_rate(
        discover_dataset(textures), options, picture, cache_folder=CacheFolder(tmp_path / "cache")
    )
    assert len(sweep.losses) > 30
    assert 1e-5 < sweep.suggestion < 1
    assert min(cv2.imread(str(picture)).shape[:2]) > 200
