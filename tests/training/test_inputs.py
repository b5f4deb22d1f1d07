"""What a training begins with: features that Keras confirms."""

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.progress import no_progress
from edgeclf.training import inputs
from edgeclf.training.data.discovery import discover_dataset
from edgeclf.training.fit.resolve import resolve_options
from edgeclf.training.options import TrainOptions


@pytest.fixture
def folder(tmp_path):
    for label, image in (("cup", photographs.coffee()), ("cat", photographs.chelsea())):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(6):
            part = image[number * 10 : number * 10 + 100, 50:150]
            cv2.imwrite(str(tmp_path / "data" / label / f"{number}.png"), cv2.cvtColor(part, cv2.COLOR_RGB2BGR))
    return tmp_path / "data"


@pytest.mark.parametrize("wrong", [False, True])
def test_features_that_onnx_runtime_computes_wrongly_are_computed_by_keras(folder, tmp_path, monkeypatch, wrong):
    write = inputs.freeze_written

    def write_wrongly(name, size_hw, weights, write_backbone):
        first, *rest = weights
        changed = {
            first: [values * np.float32(1.2) for values in weights[first]],
            **{key: weights[key] for key in rest},
        }
        return write(name, size_hw, changed, write_backbone)

    if wrong:
        monkeypatch.setattr(inputs, "freeze_written", write_wrongly)
    options = TrainOptions(image_size=64)
    data, _, backbone = inputs.prepare_inputs(
        discover_dataset(folder),
        options,
        resolve_options(options),
        None,
        cache_folder=CacheFolder(tmp_path / "cache"),
        progress=no_progress,
    )
    told = [note for note in data.notes if "other features in ONNX Runtime than in Keras" in note]
    assert len(told) == wrong
    expected = backbone(np.asarray(data.cached.images), training=False).numpy()
    np.testing.assert_allclose(np.asarray(data.features), expected, rtol=1e-3, atol=1e-3)
