"""Patterns of exporters in the form that the quantizer and ONNX Runtime's kernels know: pads, poolings and clips."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, is_standard
from edgeclf.export.graph.float_graph import attributes_of, infer_value_types
from edgeclf.export.graph.fuse_clips import fuse_clips
from edgeclf.runtime.arrays import AnyArray

# Far from where the inverse of a float32 number is no normal one.
_SMALLEST = 1e-30
_WINDOWS = ("Conv", "MaxPool", "AveragePool")


def rewrite_patterns(model: onnx.ModelProto) -> None:
    """Rewrites the patterns of a graph all of whose shapes are known, in place; it computes the same."""
    _Rewriter(model).rewrite()
    fuse_clips(model)


def pad_in_convolution(model: onnx.ModelProto, value: str) -> None:
    """Lets the convolution that reads a value, perhaps with pads of zeros between, pad it itself, by numbers, in place."""
    _Rewriter(model).pad_in_convolution(value)


class _Rewriter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._editor = GraphEditor(model)
        self._shapes = {
            name: tuple(side.dim_value for side in kind.shape.dim)
            for name, kind in infer_value_types(model).items()
            if kind.HasField("shape")
        }

    def rewrite(self) -> None:
        editor = self._editor
        for node in editor.graph.node:
            if is_standard(node, *_WINDOWS):
                self._write_pads_out(node)
        self._merge_pads([node for node in editor.graph.node if is_standard(node, "Pad")])
        nodes: list[onnx.NodeProto] = []
        for node in editor.graph.node:
            nodes += self._as_global_pooling(node) or [self._as_sum_or_product(node) or node]
        editor.replace(nodes)
        editor.prune()

    def pad_in_convolution(self, value: str) -> None:
        """See the function."""
        nodes = self._editor.readers().get(value, [])
        pads = [node for node in nodes if is_standard(node, "Pad")]
        for node in [*nodes, *(after for pad in pads for after in self._editor.readers().get(pad.output[0], []))]:
            if is_standard(node, "Conv"):
                self._write_pads_out(node)
        self._merge_pads(pads)
        self._editor.prune()

    def _write_pads_out(self, node: onnx.NodeProto) -> None:
        """Pads in numbers where they are to make the output as large as the input."""
        options = attributes_of(node)
        auto = options.get("auto_pad", b"NOTSET").decode()
        shape = self._shapes.get(node.input[0], ())
        if auto == "NOTSET" or len(shape) != 4 or min(shape[2:]) <= 0:
            return
        pads = [0, 0, 0, 0]
        if auto.startswith("SAME"):
            kernel = options.get("kernel_shape") or self._editor.constants.shape_of(node.input[1])[2:]
            pads = _same_pads(shape[2:], kernel, options, upper=auto == "SAME_UPPER")
        _set_attributes(node, pads=pads)

    def _merge_pads(self, candidates: Sequence[onnx.NodeProto]) -> None:
        """Lets a convolution, or a pooling of values that are not negative, pad with zeros itself."""
        editor = self._editor
        readers, producers, outputs = editor.readers(), editor.producers(), editor.outputs()
        for pad in candidates:
            pads = self._spatial_zeros(pad)
            following = readers.get(pad.output[0], [])
            if pads is None or len(following) != 1 or pad.output[0] in outputs:
                continue
            (node,) = following
            source = producers.get(pad.input[0])
            is_positive = source is not None and self._is_not_negative(source)
            takes_zeros = is_standard(node, "Conv") or (is_standard(node, "MaxPool") and is_positive)
            own = list(attributes_of(node).get("pads", (0, 0, 0, 0)))
            together = [a + b for a, b in zip(own, pads, strict=True)] if len(own) == 4 else []
            if takes_zeros and node.input[0] == pad.output[0] and together and self._may_pad(node, together):
                node.input[0] = pad.input[0]
                _set_attributes(node, pads=together)

    @staticmethod
    def _may_pad(node: onnx.NodeProto, pads: list[int]) -> bool:
        """Whether an operator can have so large pads: each window of a pooling must reach the values."""
        if node.op_type == "Conv":
            return True
        options = attributes_of(node)
        kernel = options["kernel_shape"]
        return not options.get("ceil_mode", 0) and all(pad < kernel[axis % 2] for axis, pad in enumerate(pads))

    def _spatial_zeros(self, node: onnx.NodeProto) -> list[int] | None:
        """Pads (top, left, bottom, right) of a node that pads height and width with zeros; None for any other."""
        if attributes_of(node).get("mode", b"constant") != b"constant" or (len(node.input) > 3 and node.input[3]):
            return None
        pads = self._editor.constants.get(node.input[1])
        value = self._editor.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if pads is None or pads.size != 8 or value is None or value.any():
            return None
        sides = [int(side) for side in pads]
        is_spatial = not any(sides[at] for at in (0, 1, 4, 5)) and min(sides) >= 0
        return [sides[at] for at in (2, 3, 6, 7)] if is_spatial else None

    def _is_not_negative(self, node: onnx.NodeProto) -> bool:
        """Whether a node gives no negative values."""
        if is_standard(node, "Clip"):
            low = self._editor.constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
            return low is not None and float(low.reshape(-1)[0]) >= 0
        return is_standard(node, "Relu", "Sigmoid", "HardSigmoid")

    def _as_global_pooling(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """A mean over height and width as a global pooling; None for any other node."""
        options = attributes_of(node)
        keeps = True
        if is_standard(node, "ReduceMean"):
            axes = options.get("axes")
            if axes is None and len(node.input) > 1 and node.input[1] in self._editor.constants:
                axes = self._editor.constants[node.input[1]].reshape(-1).tolist()
            is_global = axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]
            keeps = bool(options.get("keepdims", 1))
        else:
            is_global = is_standard(node, "AveragePool") and self._covers_all(node, options)
        if not is_global or len(self._shapes.get(node.input[0], ())) != 4:
            return None
        pooled = onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]], node.name)
        if keeps:
            return [pooled]
        flat = self._editor.node("Flatten", [], f"{node.name or node.output[0]}_flat", axis=1)
        flat.input[:], flat.output[:] = [self._editor.new_name(f"{node.output[0]}_pooled")], [node.output[0]]
        pooled.output[:] = list(flat.input)
        return [pooled, flat]

    def _as_sum_or_product(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The difference to, or division by, a constant as a sum or product, which has an int8 kernel; None for any other."""
        if not is_standard(node, "Sub", "Div") or node.input[0] in self._editor.constants:
            return None
        values = self._editor.constants.get(node.input[1])
        if values is None or values.dtype != np.float32 or (node.op_type == "Div" and not _has_inverses(values)):
            return None
        kind, other = ("Add", -values) if node.op_type == "Sub" else ("Mul", np.float32(1) / values)
        name = self._editor.constant(other, f"{node.output[0]}_constant")
        return onnx.helper.make_node(kind, [node.input[0], name], [node.output[0]], node.name)

    def _covers_all(self, node: onnx.NodeProto, options: dict[str, Any]) -> bool:
        shape = self._shapes.get(node.input[0], ())
        return tuple(options["kernel_shape"]) == shape[2:] and not any(options.get("pads", (0,)))


def _has_inverses(values: AnyArray) -> bool:
    """Whether all of these have an inverse in float32 that is a normal number."""
    sizes = np.abs(values)
    return bool(((sizes > _SMALLEST) & (sizes < 1 / _SMALLEST)).all())


def _same_pads(sizes: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], *, upper: bool) -> list[int]:
    """Pads (top, left, bottom, right) with which the output is as large as the input by its strides."""
    before, after = [], []
    strides, dilations = options.get("strides", (1, 1)), options.get("dilations", (1, 1))
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + dilation * (width - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if upper else large)
        after.append(large if upper else small)
    return [*before, *after]


def _set_attributes(node: onnx.NodeProto, *, pads: list[int]) -> None:
    kept = [item for item in node.attribute if item.name not in {"auto_pad", "pads"}]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
