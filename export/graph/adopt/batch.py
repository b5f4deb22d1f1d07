"""The batch made free: which axis of each value counts the images, and constants that hold a fixed number of them.

A graph is simplified for a fixed number of images, so that all shapes are known. From the input on, the axis of the images
is followed through each operator; where a constant - the target of a Reshape, the shape of an Expand - says how many images
there are, it is made to take any number.
"""

import math

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, is_standard
from edgeclf.export.graph.float_graph import attributes_of, infer_value_types
from edgeclf.runtime.errors import InputError

# Operators of two and more operands that are aligned at their last axes.
_BROADCASTING = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "PRelu", "Where"),
        *("And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    )
)
# Operators that work along the axes that they name; images must not be mixed.
_ALONG_AXIS = frozenset(
    ("Softmax", "LogSoftmax", "Hardmax", "Concat", "Split", "CumSum", "LpNormalization", "LayerNormalization", "TopK")
)
_REDUCING = frozenset(
    (
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
        *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin"),
    )
)
_FIXED = "made for a fixed number of images"


def free_batch(model: onnx.ModelProto, images: int) -> None:
    """Makes the number of images of a graph free, in place.

    Args:
        model: Simplified for so many images, all shapes known; its first input has them on its first axis.
        images: How many.

    Raises:
        InputError: Images are mixed, or there is an operator of which nothing is known here; the sentence names it.
    """
    while True:
        try:
            _BatchAxes(model, images).free()
        except _ShapesChangedError:
            continue
        return


class _ShapesChangedError(Exception):
    """A value has kept the axis of its images, so that the shapes behind it are others: they are to be inferred again."""


class _BatchAxes:
    """The axis of the images of each value; a value without one is the same for all images.

    A side of that axis may be a multiple of the number of images, with the images outermost.
    """

    def __init__(self, model: onnx.ModelProto, images: int) -> None:
        self._editor = GraphEditor(model)
        self._images = images
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._axes: dict[str, int] = {}
        # Nodes that come before another one.
        self._before: dict[int, list[onnx.NodeProto]] = {}

    def free(self) -> None:
        graph = self._editor.graph
        for name, kind in infer_value_types(self._editor.model).items():
            if kind.HasField("shape") and all(side.HasField("dim_value") for side in kind.shape.dim):
                self._shapes[name] = tuple(side.dim_value for side in kind.shape.dim)
        self._axes[graph.input[0].name] = 0
        nodes = list(graph.node)
        for node in nodes:
            if any(name in self._axes for name in node.input):
                self._follow(node)
        if graph.output[0].name not in self._axes:
            raise _cannot(None, "an output that does not depend on the image")
        self._editor.replace([new for node in nodes for new in (*self._before.get(id(node), ()), node)])
        side = graph.input[0].type.tensor_type.shape.dim[0]
        side.Clear()
        side.dim_param = "N"
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        del graph.value_info[:]

    def _follow(self, node: onnx.NodeProto) -> None:
        rules = {
            "Reshape": self._reshape,
            "Flatten": self._flatten,
            "Transpose": self._transpose,
            "Squeeze": self._squeeze,
            "Unsqueeze": self._unsqueeze,
            "Expand": self._expand,
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "Gather": self._gather,
            "Slice": self._slice,
            "Resize": self._resize,
            "Einsum": self._einsum,
        }
        if is_standard(node, "Shape", "Size"):
            raise _cannot(node, "a shape that is not known")
        if is_standard(node, *rules):
            axis = rules[node.op_type](node)
        elif is_standard(node, *_BROADCASTING):
            axis = self._broadcast(node)
        elif is_standard(node, *_REDUCING):
            axis = self._reduce(node)
        else:
            axis = self._kept(node)
        for name in node.output:
            if name:
                self._axes[name] = axis

    def _shape(self, node: onnx.NodeProto, name: str) -> tuple[int, ...]:
        if name in self._editor.constants:
            return self._editor.constants.shape_of(name)
        if name in self._shapes:
            return self._shapes[name]
        raise _cannot(node, f"the shape of {name} is not known")

    def _constant(self, node: onnx.NodeProto, position: int) -> list[int] | None:
        """The integers of a constant operand; None where there is no operand."""
        if len(node.input) <= position or not node.input[position]:
            return None
        values = self._editor.constants.get(node.input[position])
        if values is None:
            raise _cannot(node, f"{node.input[position]} is computed from the number of images")
        return [int(value) for value in values.reshape(-1)]

    def _set_constant(self, node: onnx.NodeProto, position: int, values: list[int]) -> None:
        if values != self._constant(node, position):
            name = self._editor.constant(np.array(values, np.int64), f"{node.input[position]}_of_images")
            node.input[position] = name

    def _axes_of(self, node: onnx.NodeProto, position: int = 1) -> list[int] | None:
        """The axes that a node names, as an input or as an attribute; None for none."""
        axes = attributes_of(node).get("axes")
        return [int(axis) for axis in axes] if axes is not None else self._constant(node, position)

    def _only_data(self, node: onnx.NodeProto) -> int:
        """The axis of the images of the first operand, the only one that may have any."""
        for name in node.input[1:]:
            if name in self._axes:
                raise _cannot(node, f"{name} is another for each image")
        return self._axes[node.input[0]]

    def _reshape(self, node: onnx.NodeProto) -> int:
        axis, source = self._only_data(node), self._shape(node, node.input[0])
        target = self._constant(node, 1) or []
        if not attributes_of(node).get("allowzero", 0):
            target = [source[n] if side == 0 else side for n, side in enumerate(target)]
        rest = math.prod(side for side in target if side != -1)
        target = [math.prod(source) // max(1, rest) if side == -1 else side for side in target]
        before = math.prod(source[:axis])
        if len(target) == 1 and self._images == 1 and axis == 0:
            # The only image is taken out of its batch.
            node.input[1] = self._editor.constant(np.array([0, -1], np.int64), f"{node.output[0]}_shape")
            raise _ShapesChangedError
        # Where the images are: behind as many elements as before.
        places = [
            n for n, side in enumerate(target) if math.prod(target[:n]) == before and side % self._images == 0 and side
        ]
        if not places:
            raise _cannot(node, f"images on axis {axis} of {source} are not together in {tuple(target)}")
        place = axis if axis in places else places[0]
        is_copied = place == axis and source[axis] == target[place] and not attributes_of(node).get("allowzero", 0)
        target[place] = 0 if is_copied else -1
        if is_copied and len(target) == 2 and place == 0:
            # As exporters write it for a row of features.
            target[1] = -1
        self._set_constant(node, 1, target)
        return place

    def _flatten(self, node: onnx.NodeProto) -> int:
        axis, source = self._axes[node.input[0]], self._shape(node, node.input[0])
        at = int(attributes_of(node).get("axis", 1))
        at = at + len(source) if at < 0 else at
        start = 0 if axis < at else at
        if math.prod(source[start:axis]) != 1:
            raise _cannot(node, f"images on axis {axis} of {source} are mixed with others")
        return 0 if axis < at else 1

    def _transpose(self, node: onnx.NodeProto) -> int:
        rank = len(self._shape(node, node.input[0]))
        perm = list(attributes_of(node).get("perm", range(rank)[::-1]))
        return perm.index(self._axes[node.input[0]])

    def _squeeze(self, node: onnx.NodeProto) -> int:
        axis, source = self._only_data(node), self._shape(node, node.input[0])
        axes = self._axes_of(node)
        if axes is None:
            axes = [n for n, side in enumerate(source) if side == 1]
            self._set_axes(node, axes)
        axes = [n + len(source) if n < 0 else n for n in axes]
        if axis in axes:
            # The only image is taken out of its batch.
            self._set_axes(node, [n for n in axes if n != axis])
            raise _ShapesChangedError
        return axis - sum(n < axis for n in axes)

    def _set_axes(self, node: onnx.NodeProto, axes: list[int]) -> None:
        node.input[:] = [node.input[0], self._editor.constant(np.array(axes, np.int64), f"{node.output[0]}_axes")]

    def _unsqueeze(self, node: onnx.NodeProto) -> int:
        axis, rank = self._only_data(node), len(self._shape(node, node.input[0]))
        axes = self._axes_of(node) or []
        new = {n + rank + len(axes) if n < 0 else n for n in axes}
        return [n for n in range(rank + len(axes)) if n not in new][axis]

    def _expand(self, node: onnx.NodeProto) -> int:
        axis, source = self._only_data(node), self._shape(node, node.input[0])
        target = self._constant(node, 1) or []
        place = axis + len(target) - len(source)
        if place < 0:
            return axis
        if target[place] not in {1, source[axis]}:
            raise _cannot(node, "it repeats images")
        # Each side of the result is the larger one.
        target[place] = 1
        self._set_constant(node, 1, target)
        return max(place, axis)

    def _broadcast(self, node: onnx.NodeProto) -> int:
        ranks = {name: len(self._shape(node, name)) for name in node.input}
        rank = max(ranks.values())
        places = {rank - ranks[name] + self._axes[name] for name in node.input if name in self._axes}
        if len(places) != 1:
            raise _cannot(node, "its operands have their images on different axes")
        place = places.pop()
        for position, name in enumerate(node.input):
            if name not in self._axes:
                self._one_for_all(node, position, place - rank + ranks[name])
        return place

    def _one_for_all(self, node: onnx.NodeProto, position: int, axis: int) -> None:
        """Makes an operand that is the same for all images one that is not repeated for each."""
        name = node.input[position]
        shape = self._shape(node, name)
        if axis < 0 or shape[axis] == 1:
            return
        values = self._editor.constants.get(name)
        if values is None or shape[axis] != self._images or (values != np.take(values, [0], axis)).any():
            raise _cannot(node, f"{name} is another for each image")
        node.input[position] = self._editor.constant(np.take(values, [0], axis), f"{name}_of_one")

    def _reduce(self, node: onnx.NodeProto) -> int:
        axis, rank = self._only_data(node), len(self._shape(node, node.input[0]))
        options = attributes_of(node)
        if node.op_type in {"ArgMax", "ArgMin"}:
            axes: list[int] | None = [int(options.get("axis", 0))]
        else:
            axes = self._axes_of(node)
        if axes is None and options.get("noop_with_empty_axes", 0):
            return axis
        reduced = {n + rank if n < 0 else n for n in (range(rank) if axes is None else axes)}
        if axis in reduced:
            raise _cannot(node, "it works across the images of a batch")
        return axis if options.get("keepdims", 1) else axis - sum(n < axis for n in reduced)

    def _matmul(self, node: onnx.NodeProto) -> int:
        ranks = [len(self._shape(node, name)) for name in node.input]
        rank = max(*ranks, 2)
        places = set()
        for position, name in enumerate(node.input):
            if name not in self._axes:
                continue
            place = self._axes[name] - ranks[position]
            # The left matrix's rows and the right one's columns go into the result; the other axis is summed up.
            if place == (-1, -2)[position] or min(ranks) < 2:
                raise _cannot(node, "it works across the images of a batch")
            places.add(place)
        if len(places) != 1:
            raise _cannot(node, "its operands have their images on different axes")
        place = places.pop()
        for position, name in enumerate(node.input):
            if name not in self._axes and place < -2:
                self._one_for_all(node, position, place + ranks[position])
        return place + rank

    def _gemm(self, node: onnx.NodeProto) -> int:
        options = attributes_of(node)
        axes = [self._axes.get(name) for name in node.input]
        rows = 1 if options.get("transA", 0) else 0
        if axes[0] != rows or axes[1] is not None:
            raise _cannot(node, "it works across the images of a batch")
        if len(node.input) > 2 and node.input[2] and axes[2] is None:
            self._one_for_all(node, 2, len(self._shape(node, node.input[2])) - 2)
        return 0

    def _gather(self, node: onnx.NodeProto) -> int:
        axis, rank = self._only_data(node), len(self._shape(node, node.input[0]))
        at = int(attributes_of(node).get("axis", 0)) % rank
        if at == axis:
            raise _cannot(node, "it takes single images out of the batch")
        return axis if axis < at else axis - 1 + len(self._shape(node, node.input[1]))

    def _slice(self, node: onnx.NodeProto) -> int:
        axis, source = self._only_data(node), self._shape(node, node.input[0])
        starts = self._constant(node, 1) or []
        axes = self._constant(node, 3) or list(range(len(starts)))
        ends, steps = self._constant(node, 2) or [], self._constant(node, 4) or [1] * len(starts)
        for n, start, end, step in zip(axes, starts, ends, steps, strict=True):
            if n % len(source) == axis and not (start == 0 and step == 1 and end >= source[axis]):
                raise _cannot(node, "it takes single images out of the batch")
            if n % len(source) == axis:
                limits = [np.iinfo(np.int64).max if m == n else value for m, value in zip(axes, ends, strict=True)]
                self._set_constant(node, 2, limits)
        return axis

    def _resize(self, node: onnx.NodeProto) -> int:
        axis = self._only_data(node)
        sizes = self._constant(node, 3)
        if sizes is not None and "axes" not in attributes_of(node):
            source = self._shape(node, node.input[0])
            scales = np.array([side / given for side, given in zip(sizes, source, strict=True)], np.float32)
            node.input[:] = [*node.input[:2], self._editor.constant(scales, f"{node.name}_scales")]
        return axis

    def _einsum(self, node: onnx.NodeProto) -> int:
        equation = attributes_of(node)["equation"].decode().replace(" ", "")
        terms, arrow, result = equation.partition("->")
        letters = {
            term[self._axes[name]]
            for term, name in zip(terms.split(","), node.input, strict=True)
            if name in self._axes and "." not in equation
        }
        letter = letters.pop() if len(letters) == 1 else ""
        if not arrow or not letter or letter not in result:
            raise _cannot(node, "it works across the images of a batch")
        return int(result.index(letter))

    def _kept(self, node: onnx.NodeProto) -> int:
        """The axis of an operator that leaves it where it is, as its shapes show."""
        axes = {self._axes[name] for name in node.input if name in self._axes}
        axis = axes.pop() if len(axes) == 1 else -1
        first = next(name for name in node.input if name in self._axes)
        shapes = [self._shape(node, name) for name in (first, *node.output) if name]
        if axis < 0 or any(len(shape) <= axis or shape[axis] != shapes[0][axis] for shape in shapes):
            raise _cannot(node, "nothing is known of what it does to the images of a batch")
        along = attributes_of(node).get("axis")
        if is_standard(node, *_ALONG_AXIS):
            along = int(-1 if along is None else along) % len(shapes[0])
            if along == axis or (node.op_type == "LayerNormalization" and along < axis):
                raise _cannot(node, "it works across the images of a batch")
        if is_standard(node, "Concat"):
            self._repeat_constants(node, axis, first)
        return axis

    def _repeat_constants(self, node: onnx.NodeProto, axis: int, like: str) -> None:
        """Repeats the operands of a Concat that are the same for all images, such as a class token, for each of them."""
        for position, name in enumerate(node.input):
            if name in self._axes:
                continue
            self._one_for_all(node, position, axis)
            editor, shape = self._editor, list(self._shape(node, name))
            shape[axis] = 1
            sides = editor.node("Shape", [like], f"{node.name}_sides")
            place = editor.constant(np.array([axis], np.int64), f"{node.name}_axis")
            count = editor.node("Gather", [sides.output[0], place], f"{node.name}_images")
            parts = [
                editor.constant(np.array(part, np.int64), f"{node.name}_{side}")
                for side, part in (("before", shape[:axis]), ("behind", shape[axis + 1 :]))
            ]
            target = editor.node("Concat", [parts[0], count.output[0], parts[1]], f"{node.name}_shape", axis=0)
            repeated = editor.node("Expand", [node.input[position], target.output[0]], f"{node.name}_repeated")
            node.input[position] = repeated.output[0]
            self._before.setdefault(id(node), []).extend([sides, count, target, repeated])


def _cannot(node: onnx.NodeProto | None, reason: str) -> InputError:
    where = "" if node is None else f" at {node.op_type} {node.name or node.output[0]!r}"
    return InputError(
        f"the model is {_FIXED}, and cannot be made to take any number of them{where}",
        got=reason,
        expected="operators that treat each image of a batch on its own",
        hint="export it with a dynamic batch axis (in PyTorch dynamic_axes={'input': {0: 'batch'}} or dynamic_shapes)",
    )
