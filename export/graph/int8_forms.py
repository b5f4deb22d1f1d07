"""Float operators that have no int8 kernel, written as equal ones that have, ahead of quantization.

ONNX Runtime has int8 kernels of few operators. Around any other, values are converted to float and back, which costs more
than the operator: a hard swish between two 1x1 convolutions makes them slower in 8 bits than in float32.
"""

from collections import Counter

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import attributes_of, infer_value_types, prepare_model
from edgeclf.export.graph.light.weights import tensor_values
from edgeclf.runtime.arrays import AnyArray

# What HardSwish has for HardSigmoid's attributes, by ONNX's definition.
_SWISH_ALPHA, _SWISH_BETA = 1 / 6, 0.5


def prepare_for_int8(model: onnx.ModelProto, *, norms: bool = True) -> onnx.ModelProto:
    """`prepare_model`, then the int8 forms of operators.

    - HardSigmoid becomes a sum, a clip and a factor; HardSwish the same and a product.
    - The sum of a convolution and a number, such as that of a hard sigmoid, goes into the bias where nothing else reads the
      convolution: squeeze and excitation has one operator less, and one rounding.
    - A batch normalisation that stands ahead of its convolution, and so cannot be folded into it, becomes a depthwise
      convolution of one weight a channel.
    - AveragePool whose windows all count alike becomes a depthwise convolution: its own int8 kernel takes longer than float's.
    - Split becomes one Slice for each part.
    - PRelu with one slope becomes LeakyRelu.
    - A mean over height and width becomes GlobalAveragePool.

    Args:
        model: The float model.
        norms: Whether batch normalisations and poolings become layers with weights, and sums biases: quantization-aware
            training does not simulate these.

    Raises:
        MissingPackageError: A package of the extra [export] is not installed.
    """
    prepared = prepare_model(model)
    _Rewriter(prepared, norms=norms).rewrite()
    return prepared


class _Rewriter:
    """Rewrites the nodes of a model in place; names and values that others read stay."""

    def __init__(self, model: onnx.ModelProto, *, norms: bool) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._norms = norms
        self._kinds = infer_value_types(model)
        self._producers = {name: node for node in self._graph.node for name in node.output}
        self._reads = Counter(name for node in self._graph.node for name in node.input)
        self._reads.update(value.name for value in self._graph.output)

    def rewrite(self) -> None:
        forms = {
            "HardSigmoid": self._hard_sigmoid,
            "HardSwish": self._hard_swish,
            "Split": self._split,
            "PRelu": self._prelu,
            "ReduceMean": self._global_mean,
        }
        if self._norms:
            forms |= {"BatchNormalization": self._norm, "AveragePool": self._mean, "Add": self._sum}
        nodes: list[onnx.NodeProto] = []
        for node in self._graph.node:
            form = forms.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
            if form is not None and not node.name:
                # The nodes that take its place are named after it.
                node.name = node.output[0]
            written = [node] if form is None else form(node)
            nodes += [node] if written is None else written
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _hard_sigmoid(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        options = attributes_of(node)
        alpha, beta = options.get("alpha", 0.2), options.get("beta", 0.5)
        if alpha <= 0:
            return None
        nodes = self._clipped(node.name, node.input[0], node.output[0], alpha, beta)
        return nodes[1:] if self._norms and self._sum(nodes[0]) is not None else nodes

    def _sum(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """A number added to a convolution that nothing else reads goes into its bias."""
        numbers = [self._constants[name] for name in node.input if name in self._constants]
        values = [name for name in node.input if name not in self._constants]
        conv = self._producers.get(values[0]) if len(values) == len(numbers) == 1 else None
        if conv is None or conv.op_type != "Conv" or self._reads[conv.output[0]] != 1:
            return None
        number, weight = numbers[0], self._constants.get(conv.input[1])
        bias = self._constants.get(conv.input[2]) if len(conv.input) > 2 else None
        if list(number.dims) not in ([], [1]) or weight is None or (bias is None and any(conv.input[2:])):
            return None
        old = np.zeros(weight.dims[0]) if bias is None else onnx.numpy_helper.to_array(bias).astype(np.float64)
        name = f"{conv.output[0]}/bias_with_{node.output[0]}"
        conv.input[:] = [*conv.input[:2], self._constant(name, old + float(onnx.numpy_helper.to_array(number).item()))]
        conv.output[0] = node.output[0]
        self._producers[node.output[0]] = conv
        return []

    def _hard_swish(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        gate = f"{node.output[0]}/gate"
        nodes = self._clipped(f"{node.name}/gate", node.input[0], gate, _SWISH_ALPHA, _SWISH_BETA)
        return [*nodes, onnx.helper.make_node("Mul", [node.input[0], gate], [node.output[0]], node.name)]

    def _clipped(self, name: str, value: str, output: str, alpha: float, beta: float) -> list[onnx.NodeProto]:
        """max(0, min(1, alpha x + beta)) as alpha * clip(x + beta / alpha, 0, 1 / alpha)."""
        make = onnx.helper.make_node
        low, high = self._constant(f"{name}/low", 0.0), self._constant(f"{name}/high", 1 / alpha)
        return [
            make("Add", [value, self._constant(f"{name}/shift", beta / alpha)], [f"{output}/shifted"], f"{name}/add"),
            make("Clip", [f"{output}/shifted", low, high], [f"{output}/clipped"], f"{name}/clip"),
            make("Mul", [f"{output}/clipped", self._constant(f"{name}/factor", alpha)], [output], name),
        ]

    def _norm(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        options = attributes_of(node)
        tensors = [self._constants.get(name) for name in node.input[1:5]]
        if len(node.output) != 1 or options.get("training_mode", 0) or len(self._shape(node.input[0])) != 4:
            return None
        arrays = [tensor_values(tensor).astype(np.float64) for tensor in tensors if tensor is not None]
        if len(arrays) != 4:
            return None
        scale, shift, mean, variance = arrays
        factor = scale / np.sqrt(variance + options.get("epsilon", 1e-5))
        weight = self._constant(f"{node.name}/weight", factor.reshape(-1, 1, 1, 1))
        bias = self._constant(f"{node.name}/bias", shift - mean * factor)
        inputs, outputs = [node.input[0], weight, bias], [node.output[0]]
        return [onnx.helper.make_node("Conv", inputs, outputs, node.name, group=factor.size, kernel_shape=[1, 1])]

    def _mean(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        options, shape = attributes_of(node), self._shape(node.input[0])
        pads, kernel = options.get("pads", [0] * 4), options["kernel_shape"]
        is_plain = options.get("auto_pad", b"NOTSET") == b"NOTSET" and not options.get("ceil_mode", 0)
        # At the edges fewer places would count; over the whole image there is a faster kernel.
        counts_alike = not any(pads) or options.get("count_include_pad", 0)
        if len(shape) != 4 or shape[1] <= 0 or not is_plain or not counts_alike or list(kernel) == shape[2:]:
            return None
        weight = self._constant(f"{node.name}/weight", np.full((shape[1], 1, *kernel), 1 / np.prod(kernel)))
        kept = {key: options[key] for key in ("pads", "strides", "dilations", "kernel_shape") if key in options}
        inputs, outputs = [node.input[0], weight], [node.output[0]]
        return [onnx.helper.make_node("Conv", inputs, outputs, node.name, group=shape[1], **kept)]

    def _split(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        shape, kind = self._shape(node.input[0]), self._kinds.get(node.input[0])
        axis = attributes_of(node).get("axis", 0)
        if not shape or kind is None or kind.elem_type != onnx.TensorProto.FLOAT or axis % len(shape) == 0:
            return None
        given = self._constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        if given is None and len(node.input) > 1 and node.input[1]:
            return None
        if given is not None:
            sizes = tensor_values(given).tolist()
        else:
            # Parts of even size, of which the last one has what is left.
            step = -(-shape[axis] // len(node.output))
            sizes = [step] * (len(node.output) - 1) + [shape[axis] - step * (len(node.output) - 1)]
        if shape[axis] <= 0 or sum(sizes) != shape[axis]:
            return None
        ends = np.cumsum(sizes)
        nodes = []
        for number, (output, size, end) in enumerate(zip(node.output, sizes, ends, strict=True)):
            name = f"{node.name}/{number}"
            places = {"starts": end - size, "ends": end, "axes": axis}
            inputs = [self._constant(f"{name}/{key}", np.array([at], np.int64)) for key, at in places.items()]
            nodes.append(onnx.helper.make_node("Slice", [node.input[0], *inputs], [output], name))
        return nodes

    def _prelu(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        slope = self._constants.get(node.input[1])
        values = None if slope is None else tensor_values(slope).reshape(-1)
        if values is None or values.size == 0 or np.ptp(values) != 0:
            return None
        alpha = float(values[0])
        return [onnx.helper.make_node("LeakyRelu", [node.input[0]], [node.output[0]], node.name, alpha=alpha)]

    def _global_mean(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        options = attributes_of(node)
        axes, given = options.get("axes"), [self._constants.get(name) for name in node.input[1:2]]
        if given and given[0] is not None:
            axes = tensor_values(given[0]).reshape(-1).tolist()
        places = [] if axes is None else sorted(axis % 4 for axis in axes)
        if len(self._shape(node.input[0])) != 4 or places not in ([1, 2], [2, 3]):
            return None
        make, value, output, name = onnx.helper.make_node, node.input[0], node.output[0], node.name
        nodes = []
        if places == [1, 2]:
            # (N, H, W, C) to (N, C, H, W).
            nodes = [make("Transpose", [value], [f"{output}/first"], f"{name}/first", perm=[0, 3, 1, 2])]
            value = f"{output}/first"
        if not options.get("keepdims", 1):
            end = make("Flatten", [f"{output}/pooled"], [output], f"{name}/flat", axis=1)
        elif places == [1, 2]:
            end = make("Transpose", [f"{output}/pooled"], [output], f"{name}/last", perm=[0, 2, 3, 1])
        else:
            return [make("GlobalAveragePool", [value], [output], name)]
        return [*nodes, make("GlobalAveragePool", [value], [f"{output}/pooled"], name), end]

    def _shape(self, value: str) -> list[int]:
        """Sides of a value, 0 where one is not known; none where their number is not."""
        kind = self._kinds.get(value)
        return [side.dim_value for side in kind.shape.dim] if kind is not None and kind.HasField("shape") else []

    def _constant(self, name: str, values: float | AnyArray) -> str:
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        self._constants[name] = onnx.numpy_helper.from_array(array, name)
        self._graph.initializer.append(self._constants[name])
        return name
