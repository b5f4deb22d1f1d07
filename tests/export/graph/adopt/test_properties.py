"""Properties: any normalisation and padding is folded exactly, and axes are followed through any moves of values."""

import math

import numpy as np
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.adopt.batch import free_batch
from edgeclf.export.graph.adopt.editing import GraphEditor
from edgeclf.export.graph.adopt.first_layer import first_convolution, fold_normalisation
from edgeclf.export.graph.adopt.pixel_path import follow_pixels
from edgeclf.export.graph.adopt.simplify import fix_input_shape, optimized


def run(model, tensor):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: tensor})[0]


def make(nodes, constants, shape, name="x"):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, key) for key, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MEANS = st.lists(st.floats(-60, 320, width=32), min_size=3, max_size=3)
STDS = st.lists(st.floats(0.5, 300, width=32), min_size=3, max_size=3)


@settings(max_examples=20)
@given(
    MEANS, STDS, st.lists(st.integers(0, 2), min_size=4, max_size=4), st.permutations(range(3)), st.integers(0, 2**31)
)
def test_a_convolution_of_bytes_gives_what_one_of_normalised_pixels_gives(means, stds, pads, order, seed):
    rng = np.random.default_rng(seed)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (means, stds))
    constants = {
        "order": np.array(order, np.int64),
        "mean": mean,
        "std": std,
        "weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["x", "order"], ["a"], axis=1),
        helper.make_node("Sub", ["a", "mean"], ["b"]),
        helper.make_node("Div", ["b", "std"], ["c"]),
        helper.make_node("Conv", ["c", "weight"], ["y"], pads=pads),
    ]
    model = make(nodes, constants, [1, 3, 6, 7])
    pixels = rng.integers(0, 256, (1, 3, 6, 7)).astype(np.float32)
    wanted = run(model, pixels)
    editor = GraphEditor(model)
    path = follow_pixels(editor, 3, "NCHW")
    node = first_convolution(editor, path)
    read = fold_normalisation(editor, node, path, path.channels)
    read_pixels = pixels
    if read.further_channel is not None:
        read_pixels = np.concatenate([pixels, np.full((1, 1, 6, 7), read.further_channel, np.float32)], axis=1)
        assert 0 <= read.further_channel <= 255
    node.input[0] = "x"
    editor.replace([node])
    editor.prune()
    fix_input_shape(model, read_pixels.shape)
    found = run(model, read_pixels - np.float32(read.zero_point))
    # Sums of products of pixels and weights, each of which is rounded.
    scale = np.abs(constants["weight"]).sum() * 320 / min(stds)
    np.testing.assert_allclose(found, wanted, atol=4e-7 * scale)


class Moves:
    """Random moves of values: Reshape, Transpose, Unsqueeze, Squeeze; the images stay together on one axis, perhaps with others."""

    def __init__(self, rng, images):
        self.rng, self.images = rng, images
        self.shape, self.axis, self.count = [images, 4, 6], 0, 1
        self.nodes, self.constants, self.value = [], {}, "x"

    def op(self, kind, constant=None, **attributes):
        inputs = [self.value]
        if constant is not None:
            name = f"c{len(self.nodes)}"
            self.constants[name] = np.array(constant, np.int64)
            inputs.append(name)
        self.value = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.value], **attributes))

    def transpose(self):
        perm = self.rng.permutation(len(self.shape)).tolist()
        self.op("Transpose", perm=perm)
        self.shape, self.axis = [self.shape[n] for n in perm], perm.index(self.axis)

    def merge(self):
        """Merges an axis with the next; the images must be the outer ones where they are merged."""
        places = [n for n in range(len(self.shape) - 1) if n + 1 != self.axis]
        if not places:
            return
        place = int(self.rng.choice(places))
        self.shape[place : place + 2] = [math.prod(self.shape[place : place + 2])]
        self.axis -= self.axis > place + 1
        self.op("Reshape", self.shape)

    def split(self):
        place = int(self.rng.integers(len(self.shape)))
        is_images = place == self.axis
        side = self.shape[place] // self.images if is_images else self.shape[place]
        outer = int(self.rng.choice([n for n in range(1, side + 1) if side % n == 0]))
        parts = [outer * self.images if is_images else outer, side // outer]
        self.shape[place : place + 1] = parts
        self.axis += self.axis > place
        self.op("Reshape", self.shape)

    def unsqueeze(self):
        place = int(self.rng.integers(len(self.shape) + 1))
        self.shape.insert(place, 1)
        self.axis += self.axis >= place
        self.op("Unsqueeze", [place])

    def end(self):
        """Images first, in rows."""
        if self.shape[self.axis] != self.images:
            side = self.shape[self.axis]
            self.shape[self.axis : self.axis + 1] = [self.images, side // self.images]
            self.op("Reshape", self.shape)
        self.op("Transpose", perm=[self.axis, *(n for n in range(len(self.shape)) if n != self.axis)])
        self.op("Reshape", [self.images, -1])


@settings(max_examples=25)
@given(
    st.integers(2, 4),
    st.lists(st.sampled_from(["transpose", "merge", "split", "unsqueeze"]), max_size=7),
    st.integers(0, 2**31),
)
def test_images_are_followed_through_any_moves(images, moves, seed):
    rng = np.random.default_rng(seed)
    made = Moves(rng, images)
    for move in moves:
        getattr(made, move)()
    made.end()
    model = make(made.nodes, made.constants, [images, 4, 6])
    tensor = rng.normal(size=(images, 4, 6)).astype(np.float32)
    wanted = run(model, tensor)
    simple = optimized(model)
    free_batch(simple, images)
    for count in (1, images, images + 1):
        other = rng.normal(size=(count, 4, 6)).astype(np.float32)
        other[:images] = tensor[:count]
        found = run(simple, other)
        assert found.shape == (count, 24)
        np.testing.assert_array_equal(found[:images], wanted[:count])
