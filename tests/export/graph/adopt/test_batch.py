"""A batch that is fixed, or free by name and baked to one image inside, becomes free; where it cannot, a sentence names the node."""

import numpy as np
import pytest
from onnx import TensorProto

from edgeclf.export.graph.adopt.adoption import adopt_model
from edgeclf.export.graph.adopt.reading import read_foreign_model
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
from edgeclf.runtime.session.session import ModelSession

from .adopted import adopted, run
from .networks import SIZE_HW, Network, operators

GIVEN = ForeignModel(scaling=PixelScaling((120.0,), (60.0,)))
INT64 = np.int64
TOKENS = 5 * 6


def ints(*values):
    return np.array(values, INT64)


def features(net):
    """(N, 8, 5, 6) features."""
    net.conv(8, kernel=3, strides=[2, 2])
    net.op("Relu")


def flat_by_numbers(net, batch):
    features(net)
    net.op("Reshape", ints(batch, 8 * TOKENS))
    net.dense(3, 8 * TOKENS)


def flat_by_rest(net, batch):
    features(net)
    net.op("Reshape", ints(batch, -1))
    net.dense(3, 8 * TOKENS)


def flat_free(net, batch):
    features(net)
    net.op("Reshape", ints(-1, 8 * TOKENS))
    net.dense(3, 8 * TOKENS)


def flat_by_shape(net, batch):
    """As PyTorch's `flatten` with a dynamic batch: its size is taken from the shape and put ahead of -1."""
    features(net)
    value = net.value
    net.op("Shape")
    net.op("Gather", np.array(0, INT64))
    net.op("Unsqueeze", ints(0))
    net.op("Concat", ints(-1), axis=0)
    net.op("Reshape", net.value, value=value)
    net.dense(3, 8 * TOKENS)


def squeezed(net, batch):
    features(net)
    net.op("GlobalAveragePool")
    net.op("Squeeze", ints(2, 3))
    net.dense(3)


def squeezed_altogether(net, batch):
    """As `x.squeeze()`, which takes the batch away too where it is one image."""
    features(net)
    net.op("GlobalAveragePool")
    net.op("Squeeze")
    net.op("MatMul", net.rng.normal(size=(8, 3)).astype(np.float32))


def reshaped_to_a_row(net, batch):
    features(net)
    net.op("GlobalAveragePool")
    net.op("Reshape", *([ints(8)] if batch == 1 else [ints(batch, 8)]))
    net.op("MatMul", net.rng.normal(size=(8, 3)).astype(np.float32))


def attention(net, batch):
    """Tokens with a class token, two heads merged with the batch, layer normalisation, the class token taken."""
    rng = net.rng
    features(net)
    net.op("Reshape", ints(batch, 8, TOKENS))
    net.op("Transpose", perm=[0, 2, 1])
    tokens = net.value
    token = net.constant(np.repeat(rng.normal(size=(1, 1, 8)).astype(np.float32), max(1, batch), axis=0))
    net.op("Concat", tokens, value=token, axis=1)
    net.op("Add", rng.normal(size=(1, TOKENS + 1, 8)).astype(np.float32))
    heads = []
    for _ in range(3):
        start = net.value
        net.op("MatMul", (rng.normal(size=(8, 8)) / 2).astype(np.float32))
        net.op("Reshape", ints(batch, TOKENS + 1, 2, 4))
        net.op("Transpose", perm=[0, 2, 1, 3])
        net.op("Reshape", ints(2 * batch if batch > 0 else -1, TOKENS + 1, 4))
        heads.append(net.value)
        net.value = start
    residual = net.value
    query, key, value = heads
    net.op("Transpose", value=key, perm=[0, 2, 1])
    net.op("MatMul", net.value, value=query)
    net.op("Softmax", axis=-1)
    net.op("MatMul", value)
    net.op("Reshape", ints(batch, 2, TOKENS + 1, 4))
    net.op("Transpose", perm=[0, 2, 1, 3])
    net.op("Reshape", ints(batch, TOKENS + 1, 8))
    net.op("Add", residual)
    net.op("LayerNormalization", np.ones(8, np.float32), np.zeros(8, np.float32), axis=-1)
    net.op("Gather", np.array(0, INT64), axis=1)
    net.channels = 8
    net.dense(3)


def sequence_first(net, batch):
    """As PyTorch's attention: tokens first, and heads merged with the batch behind them."""
    features(net)
    net.op("Reshape", ints(batch, 8, TOKENS))
    net.op("Transpose", perm=[2, 0, 1])
    net.op("Reshape", ints(TOKENS, 2 * batch if batch > 0 else -1, 4))
    net.op("Transpose", perm=[1, 0, 2])
    net.op("Softmax", axis=1)
    net.op("Transpose", perm=[1, 0, 2])
    net.op("Reshape", ints(TOKENS, batch, 8))
    net.op("ReduceMax", axes=[0], keepdims=0)
    net.dense(3)


def expanded(net, batch):
    features(net)
    net.op("GlobalAveragePool")
    net.op("Expand", ints(batch if batch > 0 else 1, 8, 2, 3))
    net.op("Reshape", ints(batch, 48))
    net.dense(3, 48)


def resized(net, batch):
    features(net)
    net.op("Resize", "", "", ints(batch if batch > 0 else 1, 8, 10, 12), mode="nearest")
    net.op("ReduceMean", axes=[2, 3], keepdims=0)
    net.dense(3)


def shuffled(net, batch):
    """As ShuffleNet: channels are split into groups and put together in another order."""
    features(net)
    net.op("Reshape", ints(batch, 2, 4, 5, 6))
    net.op("Transpose", perm=[0, 2, 1, 3, 4])
    net.op("Reshape", ints(batch, 8, 5, 6))
    net.op("Split", ints(3, 5), axis=1, outputs=2)
    net.channels = 3
    net.conv(4)
    net.op("GlobalAveragePool")
    net.op("Flatten", axis=1)
    net.dense(3)


def bilinear(net, batch):
    features(net)
    net.op("Reshape", ints(batch, 8, TOKENS))
    net.op("Einsum", net.value, equation="nij,nkj->nik")
    net.op("Reshape", ints(batch, 64))
    net.dense(3, 64)


def summed_weights(net, batch):
    """A bias for each image of the batch, the same for all."""
    features(net)
    net.op("GlobalAveragePool")
    net.op("Add", np.repeat(net.rng.normal(size=(1, 8, 1, 1)).astype(np.float32), max(1, batch), axis=0))
    net.op("Flatten", axis=1)
    net.dense(3)


BUILDERS = [
    *(flat_by_numbers, flat_by_rest, flat_free, flat_by_shape, squeezed, squeezed_altogether, reshaped_to_a_row),
    attention,
    *(sequence_first, expanded, resized, shuffled, bilinear, summed_weights),
]


def build(rng, builder, batch):
    net = Network(rng, batch=batch, gain=0.8)
    # Free by name, baked to one image inside.
    builder(net, batch if isinstance(batch, int) else 1)
    net.op("Softmax", axis=-1)
    return net


@pytest.mark.parametrize("batch", [1, 4, "N"])
@pytest.mark.parametrize("builder", BUILDERS)
def test_the_batch_is_made_free(rng, tmp_path, builder, batch):
    images = rng.integers(0, 256, (6, *SIZE_HW, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (5, 1, 1, 3), dtype=np.uint8)
    # One random network in some hundreds has no value above 0 behind a ReLU for two of them.
    for _ in range(5):
        path = build(rng, builder, batch).write(tmp_path / "m.onnx")
        session, result = adopted(path, GIVEN)
        wanted = session.run(images)
        if len(np.unique(wanted, axis=0)) == 6:
            break
    assert len(np.unique(wanted, axis=0)) == 6
    np.testing.assert_allclose(run(result.model, images), wanted, atol=2e-6)
    np.testing.assert_allclose(
        np.concatenate([run(result.model, images[n : n + 1]) for n in range(6)]), wanted, atol=2e-6
    )


@pytest.mark.parametrize("builder", [flat_by_numbers, flat_by_rest, flat_by_shape, flat_free])
def test_rows_of_features_have_one_form(rng, tmp_path, builder):
    _, result = adopted(build(rng, builder, "N").write(tmp_path / "m.onnx"), GIVEN)
    (reshape,) = (node for node in result.model.graph.node if node.op_type == "Reshape")
    target = next(tensor for tensor in result.model.graph.initializer if tensor.name == reshape.input[1])
    assert np.frombuffer(target.raw_data, INT64).tolist() == [0, -1]
    assert not {"Shape", "Gather", "Concat", "Unsqueeze"} & set(operators(result.model))


def test_an_operator_of_which_nothing_is_known_may_take_any_batch_by_itself(rng, tmp_path):
    """Sequences, through which no axis is followed here."""
    net = Network(rng)
    features(net)
    net.op("GlobalAveragePool")
    net.op("Flatten", axis=1)
    net.op("SplitToSequence", ints(2, 6), axis=1)
    net.op("ConcatFromSequence", axis=1)
    net.dense(3)
    net.op("Softmax", axis=1)
    path = net.write(tmp_path / "m.onnx")
    session, result = adopted(path, GIVEN)
    images = rng.integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    np.testing.assert_allclose(run(result.model, images), session.run(images), atol=2e-6)
    net.input.type.tensor_type.shape.dim[0].dim_value = 1
    session = ModelSession(net.write(path), foreign=GIVEN)
    with pytest.raises(InputError, match="SplitToSequence"):
        adopt_model(read_foreign_model(path), session.use)


def mixed_by_mean(net, batch):
    features(net)
    net.op("ReduceMean", axes=[0], keepdims=1)
    net.op("GlobalAveragePool")
    net.op("Flatten", axis=1)
    net.dense(3)


def mixed_by_softmax(net, batch):
    features(net)
    net.op("GlobalAveragePool")
    net.op("Flatten", axis=1)
    # Not the last: that would be refused for its probabilities, which do not add up to one.
    net.op("Softmax", axis=0)
    net.dense(3)


def first_image(net, batch):
    features(net)
    net.op("GlobalAveragePool")
    net.op("Gather", np.array([0], INT64), axis=0)
    net.op("Flatten", axis=1)
    net.dense(3)


def own_weights(net, batch):
    features(net)
    net.op("Mul", net.rng.normal(size=(4, 8, 1, 1)).astype(np.float32))
    net.op("GlobalAveragePool")
    net.op("Flatten", axis=1)
    net.dense(3)


@pytest.mark.parametrize(
    ("builder", "batch", "operator"),
    [
        (mixed_by_mean, 1, "ReduceMean"),
        (mixed_by_softmax, 1, "Softmax"),
        (first_image, 1, "Gather"),
        (own_weights, 4, "Mul"),
    ],
)
def test_a_batch_that_cannot_be_free_is_refused_with_the_node(rng, tmp_path, builder, batch, operator):
    net = Network(rng, batch=batch)
    builder(net, batch)
    for number, node in enumerate(net.nodes):
        node.name = f"part_{number}"
    path = net.write(tmp_path / "m.onnx", shape=[batch, 3])
    session = ModelSession(path, foreign=GIVEN)
    with pytest.raises(InputError, match=f"fixed number of images.*{operator} 'part_.*dynamic_axes") as error:
        adopt_model(read_foreign_model(path), session.use)
    assert error.value.exit_code == 3


def test_types_of_inputs_do_not_matter(rng, tmp_path):
    net = Network(rng, batch=1, dtype=TensorProto.UINT8)
    net.op("Cast", to=TensorProto.FLOAT)
    net.op("Mul", np.float32(1 / 255))
    flat_by_numbers(net, 1)
    net.op("Softmax", axis=1)
    session, result = adopted(net.write(tmp_path / "m.onnx"), ForeignModel())
    images = rng.integers(0, 256, (3, *SIZE_HW, 3), dtype=np.uint8)
    np.testing.assert_allclose(run(result.model, images), session.run(images), atol=2e-6)
