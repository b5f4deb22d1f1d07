"""Where networks are cut into blocks."""

from itertools import pairwise

from edgeclf.training.networks.blocks import backbone_blocks
from edgeclf.training.networks.efficientnet_lite import build_lite_backbone
from edgeclf.training.networks.keras_applications import build_application
from edgeclf.training.networks.resnet8 import build_resnet8


def names_of(model):
    return [[layer.name for layer in block] for block in backbone_blocks(model)]


def check_blocks(model):
    """Holds for any network: every layer once and in order, every block with a kernel, one way from block to block."""
    from keras import Model

    blocks = backbone_blocks(model)
    order = [layer.name for block in blocks for layer in block]
    assert sorted(order) == sorted(layer.name for layer in model.layers)
    assert all(any(len(weight.shape) > 1 for layer in block for weight in layer.weights) for block in blocks)
    for before, after in pairwise(blocks):
        # Builds only if what follows the cut needs nothing but its output.
        Model(before[-1].output, after[-1].output)
    return blocks


def test_a_block_of_efficientnet_lite_is_one_inverted_bottleneck():
    model = build_lite_backbone("efficientnet-lite0", (32, 32), "none")
    names = names_of(model)
    check_blocks(model)
    assert len(names) == 18
    assert names[0] == ["image", "normalise", "stem_conv", "stem_bn", "stem_bn_relu6"]
    assert names[-1] == ["head_conv", "head_bn", "head_bn_relu6", "features"]
    for number, block in enumerate(names[1:-1]):
        assert all(name.startswith(f"block{number}_") for name in block)


def test_a_block_of_a_resnet_ends_where_its_branches_join():
    names = names_of(build_application("ResNet50", (32, 32), "none"))
    assert len(names) == 17
    assert names[0][-1] == "pool1_pool"
    expected = [
        f"conv{stage}_block{block}_" for stage, n in ((2, 3), (3, 4), (4, 6), (5, 3)) for block in range(1, n + 1)
    ]
    for prefix, block in zip(expected, names[1:], strict=True):
        assert all(name.startswith(prefix) for name in block if name != "avg_pool")
    assert names[-1][-1] == "avg_pool"


def test_mobilenet_v2_has_its_published_bottlenecks():
    model = build_application("MobileNetV2", (32, 32), "none")
    check_blocks(model)
    names = names_of(model)
    assert len(names) == 19
    assert names[0] == ["image", "normalise", "Conv1", "bn_Conv1", "Conv1_relu"]
    assert all(name.startswith("expanded_conv_") for name in names[1])
    for number, block in enumerate(names[2:-1], start=1):
        assert all(name.startswith(f"block_{number}_") for name in block)
    assert names[-1][:3] == ["Conv_1", "Conv_1_bn", "out_relu"]


def test_separable_convolutions_and_squeeze_and_excitation_stay_whole():
    separable = names_of(build_application("MobileNet", (32, 32), "none"))
    assert len(separable) == 14
    assert {"conv_dw_3", "conv_pw_3"} <= set(separable[3])
    gated = names_of(build_application("MobileNetV3Small", (32, 32), "none"))
    assert len(gated) == 13
    bottleneck = next(block for block in gated if "expanded_conv_3_expand" in block)
    assert {"expanded_conv_3_squeeze_excite_conv", "expanded_conv_3_project"} <= set(bottleneck)


def test_plain_networks_are_cut_at_every_convolution():
    names = names_of(build_application("VGG16", (32, 32), "none"))
    assert len(names) == 13
    assert names[1] == ["block1_conv2", "block1_pool"]


def test_a_whole_classifier_ends_in_its_head():
    blocks = check_blocks(build_resnet8((32, 32), 3))
    assert [block[0].name for block in blocks] == ["image", "block1_a_conv", "block2_a_conv", "block3_a_conv", "logits"]


def test_a_network_without_kernels_is_one_block():
    from keras import Input, Model, layers

    image = Input((8, 8, 3), name="image")
    model = Model(image, layers.GlobalAveragePooling2D(name="mean")(layers.Rescaling(0.5, name="half")(image)))
    assert names_of(model) == [["image", "half", "mean"]]


def test_what_branches_and_joins_is_never_cut():
    blocks = check_blocks(build_application("InceptionV3", (75, 75), "none"))
    assert len(blocks) == 16
    assert len(blocks[-1]) > 20
