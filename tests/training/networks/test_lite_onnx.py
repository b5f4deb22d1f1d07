"""The ONNX that is written straight from weights: what the Keras graph computes, for every member, size and file."""

import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from skimage import data as photographs

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.graph.contract import MAX_IR_VERSION, MAX_OPSET
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.images.preprocess import preprocess_bgr
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.networks.efficientnet_lite import (
    FEATURES,
    VARIANTS,
    build_lite_backbone,
    read_lite_weights,
    weight_shapes,
)
from edgeclf.training.networks.frozen_backbone import freeze_backbone, freeze_written
from edgeclf.training.networks.lite_onnx import lite_backbone_onnx
from edgeclf.training.networks.weights.layer_weights import weights_of
from edgeclf.training.networks.weights.lite_weights import lite_weights_path

from ...randomness import fresh_rng

pytestmark = pytest.mark.slow


def photograph(size_hw):
    image_bgr = cv2.cvtColor(photographs.chelsea(), cv2.COLOR_RGB2BGR)
    return preprocess_bgr(image_bgr, Preprocess(size_hw, "crop"))


def run(model, pixels):
    (features,) = open_session_from_bytes(model.SerializeToString(), threads=1).run(None, {"image": pixels})
    return features


# Odd and even sizes, square or not: where a stride meets an odd number, padding is uneven.
@pytest.mark.parametrize(
    ("name", "size_hw"), [(name, (VARIANTS[name].size,) * 2) for name in VARIANTS] + [("efficientnet-lite0", (57, 90))]
)
def test_it_computes_what_keras_does(name, size_hw):
    model = lite_backbone_onnx(name, size_hw, read_lite_weights(name, "imagenet"))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version <= MAX_OPSET
    assert model.ir_version <= MAX_IR_VERSION
    pixels = np.stack([photograph(size_hw), fresh_rng().integers(0, 256, (*size_hw, 3), np.uint8)])
    expected = build_lite_backbone(name, size_hw, "imagenet")(pixels, training=False).numpy()
    features = run(model, pixels)
    assert features.shape == (2, FEATURES)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    # An image's features do not depend on its neighbours.
    np.testing.assert_array_equal(run(model, pixels[:1]), features[:1])


def test_its_weights_are_those_of_the_keras_graph():
    read = read_lite_weights("efficientnet-lite1", "imagenet")
    built = weights_of(build_lite_backbone("efficientnet-lite1", (64, 64), "imagenet"))
    shapes = weight_shapes("efficientnet-lite1")
    assert set(read) == set(built) == set(shapes)
    for layer, values in built.items():
        assert [value.shape for value in values] == shapes[layer]
        for value, other in zip(values, read[layer], strict=True):
            np.testing.assert_array_equal(value, other)


def test_its_digest_tells_weights_sizes_and_networks_apart():
    weights = read_lite_weights("efficientnet-lite0", "imagenet")
    same = weights_of(build_lite_backbone("efficientnet-lite0", (64, 64), "imagenet"))
    other = {**weights, "stem_conv": [weights["stem_conv"][0] + 1e-6]}

    def digest(weights, size_hw):
        return freeze_written("efficientnet-lite0", size_hw, weights, lite_backbone_onnx).digest

    first = digest(weights, (64, 64))
    assert first == digest(same, (64, 64))
    assert len({first, digest(weights, (64, 65)), digest(other, (64, 64))}) == 3


def test_weights_that_only_keras_reads_are_left_to_it_and_those_of_a_relative_refused(tmp_path):
    path = tmp_path / "mine.weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert read_lite_weights("efficientnet-lite0", path) is None
    with pytest.raises(InputError, match="do not fit layer block3_depthwise_conv"):
        read_lite_weights("efficientnet-lite0", lite_weights_path("efficientnet-lite1"))


def test_it_takes_no_tensorflow():
    program = """
import sys
from edgeclf.training.networks.efficientnet_lite import read_lite_weights
from edgeclf.training.networks.lite_onnx import lite_backbone_onnx
lite_backbone_onnx("efficientnet-lite0", (64, 64), read_lite_weights("efficientnet-lite0", "imagenet"))
print("tensorflow" in sys.modules, "keras" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("ceiling", [6.0, 1.5])
def test_a_network_whose_relus_end_elsewhere_is_converted(ceiling, tmp_path):
    """As after quantization-aware training, which weights do not tell."""
    name, size_hw = "efficientnet-lite0", (64, 64)
    backbone = build_lite_backbone(name, size_hw, "imagenet")
    backbone.get_layer(next(layer.name for layer in backbone.layers if "relu6" in layer.name)).max_value = ceiling
    frozen = freeze_backbone(
        backbone, name, size_hw, lite_backbone_onnx, cache_folder=CacheFolder(tmp_path), progress=lambda *_: None
    )
    pixels = photograph(size_hw)[None]
    (features,) = frozen.session.run(None, {frozen.session.get_inputs()[0].name: pixels})
    np.testing.assert_allclose(features, backbone(pixels, training=False).numpy(), atol=1e-4)
    assert bool(list(tmp_path.glob("*.onnx"))) is (ceiling != 6)
