"""Small photographs in class folders, fresh for each test, and facts of them without the pretrained network."""

import cv2
import numpy as np
import pytest
from skimage import data

from edgeclf.runtime.progress import no_progress


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def crop(rng):
    """A photograph's random crop, BGR; never blank."""
    photographs = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in (data.coffee(), data.chelsea())]

    def make(height=96, width=128):
        image = photographs[rng.integers(len(photographs))]
        while True:
            top = int(rng.integers(0, image.shape[0] - height))
            left = int(rng.integers(0, image.shape[1] - width))
            cut = image[top : top + height, left : left + width]
            # Neither blank nor mostly dark nor soft, which the doctor would rightly say.
            luma = cv2.cvtColor(cut, cv2.COLOR_BGR2GRAY)
            edges = np.log10(cv2.Laplacian(luma, cv2.CV_64F).var() + 1) - np.log10(luma.var() + 1)
            if luma.std() > 25 and (luma < 30).mean() < 0.2 and edges > -0.7:
                return cut

    return make


@pytest.fixture
def write_folder(tmp_path, crop):
    """Writes `{"train/cat": 20, ...}` below a new folder."""

    def write(counts, suffix=".jpg", name="data"):
        root = tmp_path / name
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                assert cv2.imwrite(str(root / folder / f"{number:04d}{suffix}"), crop())
        return root

    return write


@pytest.fixture
def gather():
    """Facts of a folder, the pretrained network not asked."""
    from edgeclf.toolkit.doctor.facts import Facts
    from edgeclf.toolkit.doctor.gather.data import gather_data

    def make(data, **options):
        options = {"max_features": 0, "progress": no_progress, **options}
        return Facts(gather_data(data, **options))

    return make
