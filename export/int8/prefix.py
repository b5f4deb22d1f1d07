"""The calibration images on their way through the network, in float and through the growing int8 network side by side.

Every step is a small model of its own, run by ONNX Runtime on what the steps before it have left, so that the whole
costs one pass through either network. Values are dropped as soon as no later step reads them.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph
from edgeclf.export.graph.pixel_normalisation import Stem
from edgeclf.export.int8.partition import Step, StepPlan
from edgeclf.export.int8.qdq_writer import Emitter, QuantizedLayer, in_bytes, model_of
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.session.opening import open_session_from_bytes

BATCH = 16
Values = dict[str, AnyArray]


class Prefixes:
    """The values of both networks that later steps still read.

    Args:
        graph: The float graph.
        plan: Its steps.
        params: Of every value that exists in 8 bits.
        images_rgb: (N, H, W, 3) uint8 RGB calibration images.
    """

    def __init__(
        self, graph: FloatGraph, plan: StepPlan, params: Mapping[str, QuantParams], images_rgb: UInt8Array
    ) -> None:
        self._graph = graph
        self._params = params
        self._reads = Counter(name for step in plan.steps for name in step.inputs)
        self._float: Values = {graph.input: images_rgb}
        self._quantized: Values = {graph.input: images_rgb}
        if plan.stem is not None:
            self._run_stem(plan.stem, images_rgb)

    def codes(self, value: str) -> UInt8Array:
        """(N, ...) uint8: a value in the int8 network."""
        return self._quantized[in_bytes(value)]

    def real(self, value: str, rows: slice) -> FloatArray:
        """(n, ...) float32: what these codes stand for."""
        given = self._params[value]
        codes = self._quantized[in_bytes(value)][rows]
        return np.asarray((codes.astype(np.float32) - np.float32(given.zero_point)) * np.float32(given.scale))

    def float_of(self, value: str) -> FloatArray:
        """(N, ...) float32: a value in the float network."""
        return self._float[value]

    def outputs_before_activation(self, step: Step, layer: QuantizedLayer) -> list[tuple[FloatArray, FloatArray]]:
        """A layer's outputs ahead of its activation function, in batches: of the float network, and with its int8 weights."""
        cut = Step(step.nodes[:1], step.inputs, step.before_activation, step.layer, quantized=True)
        emitter = Emitter(self._graph, self._params, {step.name: layer})
        emitter.step(cut, quantize_output=False)
        wanted = self._run(self._float_emitter(cut), cut.inputs, cut.output, self._float, as_float=True)
        got = self._run(emitter, cut.inputs, cut.output, self._quantized, as_float=False)
        return list(zip(wanted, got, strict=True))

    def advance(self, step: Step, layers: Mapping[str, QuantizedLayer]) -> None:
        """Runs a step in both networks, and forgets what it was the last to read."""
        emitter = Emitter(self._graph, self._params, layers)
        emitter.step(step)
        key = in_bytes(step.output) if step.output in self._params else step.output
        self._quantized[key] = np.concatenate(self._run(emitter, step.inputs, key, self._quantized, as_float=False))
        self._float[step.output] = np.concatenate(
            self._run(self._float_emitter(step), step.inputs, step.output, self._float, as_float=True)
        )
        for name in step.inputs:
            self._reads[name] -= 1
            if self._reads[name] == 0:
                for values, key in ((self._float, name), (self._quantized, name), (self._quantized, in_bytes(name))):
                    values.pop(key, None)

    def _float_emitter(self, step: Step) -> Emitter:
        emitter = Emitter(self._graph, {}, {})
        for node in step.nodes:
            emitter.copy(node)
        return emitter

    def _run_stem(self, stem: Stem, images_rgb: UInt8Array) -> None:
        for values, quantized in ((self._float, False), (self._quantized, True)):
            emitter = Emitter(self._graph, self._params, {})
            for node in self._graph.nodes:
                if node.name in stem.nodes:
                    emitter.copy(node)
            output = stem.output
            if quantized and output in self._params:
                emitter.quantize(output)
                output = in_bytes(output)
            source = {self._graph.input: images_rgb}
            values[output] = np.concatenate(
                self._run(emitter, (self._graph.input,), output, source, as_float=not quantized)
            )

    def _run(
        self, emitter: Emitter, inputs: tuple[str, ...], output: str, values: Values, *, as_float: bool
    ) -> list[AnyArray]:
        """The output of a small model for all images, in batches."""
        names = [name if as_float or name not in self._params else in_bytes(name) for name in inputs]
        kinds = onnx.helper.np_dtype_to_tensor_dtype
        infos = [onnx.helper.make_tensor_value_info(name, kinds(values[name].dtype), None) for name in names]
        # Codes come out of a QuantizeLinear, or are handed on as they are.
        quantized = not as_float and output.endswith(in_bytes(""))
        kind = onnx.TensorProto.UINT8 if quantized else onnx.TensorProto.FLOAT
        info = onnx.helper.make_tensor_value_info(output, kind, None)
        model = model_of(emitter, infos, [info], self._graph.model)
        session = open_session_from_bytes(model.SerializeToString(), "cpu", threads=usable_cpus())
        count = len(values[names[0]])
        return [
            session.run(None, {name: values[name][start : start + BATCH] for name in names})[0]
            for start in range(0, count, BATCH)
        ]
