"""The normalisation is folded into the first convolution, also where it pads: the same values, and bytes as its input."""

import itertools

import numpy as np
import pytest
from onnx import TensorProto

from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling

from .adopted import adopted, run
from .networks import SIZE_HW, Network, operators

IMAGENET = PixelScaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SCALINGS = {
    "imagenet": IMAGENET,
    "integer": PixelScaling((127.0,), (128.0,)),
    "half": PixelScaling((127.5,), (127.5,)),
    "unit": PixelScaling((0.0,), (255.0,)),
    "caffe": PixelScaling((123.68, 116.779, 103.939), (1.0,)),
}
PADS = {"none": {}, "one": {"pads": [1, 1, 1, 1]}, "uneven": {"pads": [0, 0, 1, 1]}, "same": {"auto_pad": "SAME_UPPER"}}


def random_images(rng, count=4, size_hw=SIZE_HW):
    images = rng.integers(0, 256, (count, *size_hw, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (count - 1, 1, 1, 3), dtype=np.uint8)
    return images


def check(rng, path, given, *, is_folded=True):
    """Adopts a file, compares it with the file as it is, and gives its graph."""
    session, result = adopted(path, given)
    images = random_images(rng, size_hw=session.spec.preprocess.size_hw)
    wanted, found = session.run(images), run(result.model, images)
    # The images differ in what is told of them, also where a network is sure.
    logs = np.log(np.maximum(wanted, 1e-30))
    assert np.abs(logs - logs[0]).max() > 1e-2
    np.testing.assert_allclose(found, wanted, atol=2e-6, rtol=0)
    pixels = find_pixel_normalisation(result.model)
    first = next(node for node in result.model.graph.node if node.op_type == "Conv")
    assert (pixels is not None and pixels.zero_point is not None and pixels.output == first.input[0]) == is_folded
    return result.model


OF_COLOURS = [(name, channels) for name in SCALINGS for channels in ("rgb", "bgr")]
OF_GREY = [(name, "grey") for name, scaling in SCALINGS.items() if len(scaling.mean) == 1]


@pytest.mark.parametrize(("name", "channels"), OF_COLOURS + OF_GREY)
def test_bytes_enter_the_first_convolution(rng, tmp_path, name, channels):
    for pads, layout in itertools.product(PADS, ("NCHW", "NHWC")):
        # Pixels that are not divided would drive the softmax to its ends.
        gain = 20 / (20 + np.mean(np.square(255 / np.array(SCALINGS[name].std))) ** 0.5)
        net = Network(rng, channels=1 if channels == "grey" else 3, layout=layout, gain=gain)
        stride = int(rng.integers(1, 3))
        if layout == "NHWC":
            net.op("Transpose", perm=[0, 3, 1, 2])
        net.conv(5, strides=[stride, stride], **PADS[pads])
        # Not a ReLU: of a random one nothing may be left for any of the images.
        net.op("LeakyRelu", alpha=0.3)
        net.head()
        given = ForeignModel(scaling=SCALINGS[name], channels=None if channels == "grey" else channels)
        model = check(rng, net.write(tmp_path / "m.onnx"), given)
        has_further_channel = pads != "none" and name not in {"integer", "unit"}
        assert ("Pad" in operators(model)) == has_further_channel


INSIDE = {
    "sub, div": lambda net, mean, std: (net.op("Sub", mean), net.op("Div", std)),
    "mul, add": lambda net, mean, std: (net.op("Mul", 1 / std), net.op("Add", -mean / std)),
    "constant first": lambda net, mean, std: (
        net.op("Sub", net.value, value=net.constant(mean)),
        net.op("Mul", net.value, value=net.constant(-1 / std)),
    ),
    "batch normalisation": lambda net, mean, std: net.op(
        "BatchNormalization", *(v.reshape(-1) for v in (np.ones_like(std), np.zeros_like(std), mean, std * std))
    ),
}


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.FLOAT])
@pytest.mark.parametrize("kind", INSIDE)
def test_a_normalisation_inside_the_graph_is_folded_too(rng, tmp_path, kind, dtype):
    for layout, pads, is_scalar in itertools.product(("NCHW", "NHWC"), ("none", "one"), (False, True)):
        net = Network(rng, layout=layout, dtype=dtype)
        count = 1 if is_scalar and kind != "batch normalisation" else 3
        mean, std = (rng.uniform(*ends, count).astype(np.float32) for ends in ((90, 140), (40, 140)))
        if dtype == TensorProto.UINT8:
            net.op("Cast", to=TensorProto.FLOAT)
        if kind == "batch normalisation" and layout == "NHWC":
            net.op("Transpose", perm=[0, 3, 1, 2])
        at = (count, 1, 1) if layout == "NCHW" else (count,)
        INSIDE[kind](net, mean.reshape(at), std.reshape(at))
        if kind != "batch normalisation" and layout == "NHWC":
            net.op("Transpose", perm=[0, 3, 1, 2])
        net.conv(5, **PADS[pads])
        net.head()
        given = ForeignModel(scaling=PixelScaling((0.0,), (1.0,)) if dtype == TensorProto.FLOAT else None)
        check(rng, net.write(tmp_path / "m.onnx"), given)


@pytest.mark.parametrize("kind", ["slice", "gather"])
def test_channels_reordered_inside_the_graph_are_reordered_in_the_weights(rng, tmp_path, kind):
    net = Network(rng, gain=0.05)
    if kind == "slice":
        net.op("Slice", *(np.array([value], np.int64) for value in (-1, np.iinfo(np.int64).min, 1, -1)))
    else:
        net.op("Gather", np.array([1, 2, 0], np.int64), axis=1)
    net.op("Sub", np.array([103.939, 116.779, 123.68], np.float32).reshape(3, 1, 1))
    net.conv(5, **PADS["one"])
    net.head()
    model = check(
        rng, net.write(tmp_path / "m.onnx"), ForeignModel(scaling=PixelScaling((3.0, 4.0, 5.0), (2.0, 3.0, 4.0)))
    )
    assert not {"Slice", "Gather"} & set(operators(model))


def test_a_mean_beyond_the_bytes_and_one_far_from_the_others_are_exact_too(rng, tmp_path):
    for mean, std in (((-40.0, 300.0, 120.0), (50.0, 60.0, 1.0)), ((0.0, 255.0, 1.0), (255.0, 1.0, 30.0))):
        net = Network(rng)
        net.conv(5, **PADS["one"])
        net.op("Tanh")
        net.head()
        check(rng, net.write(tmp_path / "m.onnx"), ForeignModel(scaling=PixelScaling(mean, std)))


def test_what_is_no_normalisation_is_left_in_the_graph(rng, tmp_path):
    """Arithmetic of each pixel by its place, a value that is read twice, a first layer of groups."""
    by_place = Network(rng)
    by_place.op("Mul", rng.uniform(0.5, 1, SIZE_HW).astype(np.float32))
    by_place.conv(4)
    by_place.head()
    twice = Network(rng)
    first = twice.conv(4, pads=[1, 1, 1, 1])
    twice.channels = 3
    twice.value = "x"
    twice.conv(4, pads=[1, 1, 1, 1])
    twice.op("Add", first)
    twice.head()
    groups = Network(rng)
    groups.conv(6, groups=3)
    groups.head()
    for net in (by_place, twice, groups):
        check(rng, net.write(tmp_path / "m.onnx"), ForeignModel(scaling=IMAGENET), is_folded=False)
