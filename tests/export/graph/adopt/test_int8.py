"""An adopted model in 8 bits: bytes go into the first layer as they are, whatever normalisation, padding or colours it was made with."""

import numpy as np
import pytest

from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling

from .adopted import adopted, run
from .networks import Network

SIZE_HW = (24, 24)
IMAGENET = PixelScaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@pytest.mark.parametrize("channels", ["rgb", "bgr", "grey"])
def test_pixels_are_not_rounded_on_their_way_into_the_first_layer(rng, tmp_path, channels):
    net = Network(rng, channels=1 if channels == "grey" else 3, size_hw=SIZE_HW)
    for strides in (2, 1, 2):
        net.conv(8, pads=[1, 1, 1, 1], strides=[strides, strides])
        net.op("Relu")
    net.head()
    scaling = PixelScaling((130.4,), (60.0,)) if channels == "grey" else IMAGENET
    given = ForeignModel(scaling=scaling, channels=None if channels == "grey" else channels)
    _, result = adopted(net.write(tmp_path / "m.onnx"), given)
    images = rng.integers(0, 256, (24, *SIZE_HW, 3), dtype=np.uint8)
    images[1::2] = images[1::2] // 3 + rng.integers(0, 170, (12, 1, 1, 3), dtype=np.uint8)
    quantized = quantize_int8(result.model, images)
    assert quantized.recipe["normalisation_folded"]
    rounded = {node.input[0]: node for node in quantized.model.graph.node if node.op_type == "QuantizeLinear"}
    value = "image"
    while value not in rounded:
        readers = [node for node in quantized.model.graph.node if value in node.input]
        if readers[0].op_type in {"Conv", "DequantizeLinear"}:
            break
        value = readers[0].output[0]
    assert value not in rounded
    wanted, found = run(result.model, images), run(quantized.model, images)
    spread = np.abs(wanted - wanted.mean(axis=0)).max()
    assert np.abs(found - wanted).max() < 0.2 * spread
