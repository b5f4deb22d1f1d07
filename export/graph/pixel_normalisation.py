"""The pixel normalisation: the nodes between uint8 pixels and the first layer, read as `scale * pixel + offset`."""

from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx


@dataclass(frozen=True)
class PixelNormalisation:
    """A chain of nodes from the graph's input to its first layer that only casts, scales, shifts and transposes.

    Attributes:
        nodes: Names of its nodes, in order.
        output: Name of the value it ends in.
        perm: The transposition inside it, None without one.
        scale: Factor on the pixel value.
        offset: Added after that.
    """

    nodes: tuple[str, ...]
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
    current = graph.input[0].name
    names: list[str] = []
    perm: tuple[int, ...] | None = None
    scale, offset = 1.0, 0.0
    has_cast = False
    while True:
        users = [node for node in graph.node if current in node.input]
        if len(users) != 1:
            break
        node = users[0]
        if node.op_type == "Cast":
            (attribute,) = node.attribute
            if attribute.i != onnx.TensorProto.FLOAT:
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
    return PixelNormalisation(tuple(names), current, perm, scale, offset)


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
