"""The pixel normalisation: the nodes between uint8 pixels and the first layer, read as `scale * byte + offset`.

The bytes are the pixels, or what is made of them in bytes: their luma, other channels, another order.
"""

from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx

# Operators on the way to bytes that give the type that they read.
_KEEP_TYPE = frozenset(
    {
        "Transpose",
        "Pad",
        "Gather",
        "Slice",
        "Identity",
        "Mul",
        "Add",
        "Sub",
        "Div",
        "ReduceSum",
        "Floor",
        "Round",
        "Clip",
    }
)


@dataclass(frozen=True)
class PixelNormalisation:
    """A chain of nodes from the graph's input to its first layer that makes bytes, then casts, scales, shifts, transposes.

    Attributes:
        nodes: Names of its nodes, in order.
        byte_nodes: Those at its beginning that end in bytes again, whatever they do between; mostly none.
        bytes: Name of the uint8 value that they end in: the graph's input where there are none.
        output: Name of the value it ends in.
        perm: The transposition behind the bytes, None without one.
        scale: Factor on a byte's value.
        offset: Added after that.
    """

    nodes: tuple[str, ...]
    byte_nodes: tuple[str, ...]
    bytes: str
    output: str
    perm: tuple[int, ...] | None
    scale: float
    offset: float

    @property
    def zero_point(self) -> int | None:
        """The uint8 zero point with which `scale * (pixel - zero_point)` is the normalisation exactly; None without one.

        Exactly means: to within float32's rounding of the float expression, for each of the 256 pixel values.
        """
        zero_point = round(-self.offset / self.scale) if self.scale else -1
        if not 0 <= zero_point <= 255:
            return None
        pixels = np.arange(256, dtype=np.float64)
        wanted = self.scale * pixels + self.offset
        got = np.float64(np.float32(self.scale)) * (pixels - zero_point)
        close = np.abs(wanted - got).max() <= 4 * np.finfo(np.float32).eps * np.abs(wanted).max()
        return zero_point if close else None


def find_pixel_normalisation(model: onnx.ModelProto) -> PixelNormalisation | None:
    """Finds the pixel normalisation of a contract model.

    Returns:
        The normalisation, or None when the graph does not begin with a uint8-to-float cast followed by scalar arithmetic.
    """
    graph = model.graph
    scalars = _scalars(graph)
    byte_nodes = _byte_nodes(graph)
    current = start = byte_nodes[-1].output[0] if byte_nodes else graph.input[0].name
    names = [node.name for node in byte_nodes]
    perm: tuple[int, ...] | None = None
    scale, offset = 1.0, 0.0
    has_cast = False
    while True:
        users = [node for node in graph.node if current in node.input]
        if len(users) != 1:
            break
        node = users[0]
        if node.op_type == "Cast":
            if _cast_type(node) != onnx.TensorProto.FLOAT:
                break
            has_cast = True
        elif node.op_type == "Transpose" and perm is None:
            perm = tuple(node.attribute[0].ints)
        else:
            step = _affine_step(node, current, scalars)
            if step is None:
                break
            scale, offset = scale * step[0], offset * step[0] + step[1]
        names.append(node.name)
        current = node.output[0]
    if not has_cast or len(set(names)) != len(names):
        return None
    return PixelNormalisation(
        tuple(names), tuple(node.name for node in byte_nodes), start, current, perm, scale, offset
    )


def _byte_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes from the graph's input to the last bytes on the way to its first layer."""
    value, kind = graph.input[0].name, graph.input[0].type.tensor_type.elem_type
    outputs = {item.name for item in graph.output}
    chain: list[onnx.NodeProto] = []
    count = 0
    while True:
        readers = [node for node in graph.node if value in node.input]
        if len(readers) != 1 or value in outputs or readers[0].op_type not in _KEEP_TYPE | {"Cast"}:
            return chain[:count]
        (node,) = readers
        if node.op_type == "Cast":
            kind = _cast_type(node)
        chain.append(node)
        value = node.output[0]
        if kind == onnx.TensorProto.UINT8:
            count = len(chain)


def _cast_type(node: onnx.NodeProto) -> int:
    # Newer operator sets have a second attribute.
    (kind,) = [item.i for item in node.attribute if item.name == "to"]
    return int(kind)


def _scalars(graph: onnx.GraphProto) -> dict[str, float]:
    found = {}
    for tensor in graph.initializer:
        if int(np.prod(tensor.dims)) == 1:
            value = onnx.numpy_helper.to_array(tensor)
            if value.dtype.kind == "f":
                found[tensor.name] = float(value.reshape(()))
    return found


def _affine_step(node: onnx.NodeProto, value: str, scalars: dict[str, float]) -> tuple[float, float] | None:
    """Factor and summand of a node that computes `value op scalar`; None for any other node."""
    first, second = [*node.input, "", ""][:2]
    constant = scalars.get(second if first == value else first)
    if constant is None:
        return None
    # Subtraction and division do not commute: the pixels must stand on the left.
    steps = {"Mul": (constant, 0.0), "Add": (1.0, constant)}
    if first == value:
        steps["Sub"] = (1.0, -constant)
        if constant:
            steps["Div"] = (1.0 / constant, 0.0)
    return steps.get(node.op_type)
