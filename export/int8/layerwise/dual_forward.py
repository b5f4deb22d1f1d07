"""The forward pass of the calibration images through the float network and the growing int8 network, side by side.

Each unit is a small model of its own, run by ONNX Runtime on the values its predecessors left, so that all of it costs one
pass through either network. Values are dropped as soon as no later unit reads them, and kept in files where they are many.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, infer_value_types
from edgeclf.export.graph.layers import Layer
from edgeclf.export.graph.light.folder import ModelFolder
from edgeclf.export.graph.light.moving import WeightWriter
from edgeclf.export.graph.light.sessions import open_model
from edgeclf.export.graph.light.weights import is_large
from edgeclf.export.graph.pixel_normalisation import PixelNormalisation
from edgeclf.export.graph.value_store import StoredValue, ValueStore, run_in_batches, store_in_batches
from edgeclf.export.int8.fixed_point import FixedPoint
from edgeclf.export.int8.layerwise.im2col import im2col
from edgeclf.export.int8.partition import Partition, QuantUnit
from edgeclf.export.int8.qdq_writer import QdqWriter, QuantizedLayer, fixed_name, model_from_writer, quantized_name
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import Rows
from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.session._onnxruntime import OrtSession
from edgeclf.runtime.session.opening import open_session_from_bytes

# Images at a time; fewer where the values of a unit take more than so many bytes for all of them.
BATCH = 16
_BATCH_BYTES = 96 << 20
# The float network, and the growing int8 network.
_FLOAT, _INT8 = "float", "int8"


class DualForward:
    """The calibration images' values in the float network and in the growing int8 network, as far as later units read them.

    Values of float units between are not kept: their nodes are run with the units that read them.

    Args:
        graph: The float graph.
        partition: Its units.
        params: Of every value that exists in 8 bits.
        fixed: Of every value between fixed-point layers.
        images_rgb: (N, H, W, 3) uint8 RGB calibration images.
        store: Keeps the values.
        sequential: Whether there is an int8 network; without it, layers meet the values of the float network.
    """

    def __init__(
        self,
        graph: FloatGraph,
        partition: Partition,
        params: Mapping[str, QuantParams],
        fixed: Mapping[str, FixedPoint],
        *,
        images_rgb: UInt8Array,
        store: ValueStore,
        sequential: bool = True,
    ) -> None:
        self.images = len(images_rgb)
        self._graph = graph
        self._sequential = sequential
        self._params = params
        self._fixed = fixed
        self._store = store
        self._float_bytes = {
            name: 4 * math.prod(dim.dim_value for dim in kind.shape.dim[1:])
            for name, kind in infer_value_types(graph.model).items()
        }
        self._passing = {
            value: unit for unit in partition.units if not _kept(unit, params) for value in unit.nodes[-1].output
        }
        self._reads = Counter(
            name for unit in partition.units if _kept(unit, params) for name in self._inputs(self._chain(unit))
        )
        images = np.ascontiguousarray(images_rgb)
        for side in (_FLOAT, _INT8):
            store.keep((side, graph.input), images)
        if partition.pixels is not None:
            self._run_pixels(partition.pixels)

    def batch_of(self, unit: QuantUnit) -> int:
        """Images that a unit is run on at a time."""
        most = max(self._float_bytes.get(name, 0) for name in (*unit.inputs, unit.output))
        batch = BATCH
        while batch > 1 and batch * most > _BATCH_BYTES:
            batch //= 2
        return batch

    def columns(self, unit: QuantUnit, layer: Layer, rows: slice, positions: int, rng: np.random.Generator) -> Rows:
        """(G, P, K) im2col columns of the inputs of some images as a layer meets them, see `im2col`."""
        value = unit.inputs[0]
        if not self._sequential:
            return im2col(layer, unit.nodes[0], self._store[_FLOAT, value].read(rows), positions, rng)
        codes = self._store[_INT8, quantized_name(value)].read(rows)
        return im2col(layer, unit.nodes[0], codes, positions, rng, params=self._params[value])

    def float_outputs(self, unit: QuantUnit) -> Iterator[FloatArray]:
        """Runs a layer in the float network and keeps its outputs; gives them in batches, all of which must be taken."""
        return self._run_float(unit, unit.output)

    def outputs_before_activation(self, unit: QuantUnit, layer: QuantizedLayer) -> Iterator[FloatArray]:
        """A layer's outputs ahead of its activation function with its int8 weights, in batches."""
        cut = replace(unit, nodes=unit.nodes[:1], output=unit.before_activation)
        chain = self._chain(cut)
        if self._sequential:
            writer = self._writer({unit.name: layer})
            for part in chain:
                writer.write_unit(part, quantize_output=part is not cut)
            return run_in_batches(*self._model(writer, chain, cut.output, _INT8), batch=self.batch_of(unit))
        writer = self._float_writer(chain[:-1])
        writer.copy_dequantized(cut.nodes[0], layer)
        return run_in_batches(*self._model(writer, chain, cut.output, _FLOAT), batch=self.batch_of(unit))

    def advance(self, unit: QuantUnit, layers: Mapping[str, QuantizedLayer]) -> None:
        """Runs a unit in both networks, and drops values that no later unit reads."""
        kept, chain = _kept(unit, self._params), self._chain(unit)
        for value in kept:
            if self._sequential:
                self._run_int8(chain, value, layers)
            if (_FLOAT, value) not in self._store:
                _take_all(self._run_float(unit, value))
        for name in self._inputs(chain) if kept else ():
            self._reads[name] -= 1
            if self._reads[name] == 0:
                self._store.drop((_FLOAT, name))
                for form in (name, quantized_name(name), fixed_name(name)):
                    self._store.drop((_INT8, form))

    def _chain(self, unit: QuantUnit) -> tuple[QuantUnit, ...]:
        """A unit behind the units between it and the values that are kept, in order of execution."""
        chain: dict[str, QuantUnit] = {}

        def add(part: QuantUnit) -> None:
            for name in part.inputs:
                if name in self._passing and self._passing[name].name not in chain:
                    add(self._passing[name])
            chain[part.name] = part

        add(unit)
        return tuple(chain.values())

    def _inputs(self, chain: tuple[QuantUnit, ...]) -> tuple[str, ...]:
        """The kept values that a chain reads, each once."""
        return tuple(dict.fromkeys(name for part in chain for name in part.inputs if name not in self._passing))

    def _writer(self, layers: Mapping[str, QuantizedLayer]) -> QdqWriter:
        return QdqWriter(self._graph, self._params, layers, self._fixed)

    def _float_writer(self, chain: tuple[QuantUnit, ...]) -> QdqWriter:
        writer = QdqWriter(self._graph, {}, {})
        for part in chain:
            for node in part.nodes:
                writer.copy(node)
        return writer

    def _run_float(self, unit: QuantUnit, value: str) -> Iterator[FloatArray]:
        chain = self._chain(unit)
        session, inputs = self._model(self._float_writer(chain), chain, value, _FLOAT)
        return store_in_batches(session, inputs, self._store, (_FLOAT, value), batch=self.batch_of(unit))

    def _run_int8(self, chain: tuple[QuantUnit, ...], value: str, layers: Mapping[str, QuantizedLayer]) -> None:
        writer = self._writer(layers)
        for part in chain:
            writer.write_unit(part)
        key = writer.stored_name(value)
        session, inputs = self._model(writer, chain, key, _INT8)
        _take_all(store_in_batches(session, inputs, self._store, (_INT8, key), batch=self.batch_of(chain[-1])))

    def _run_pixels(self, pixels: PixelNormalisation) -> None:
        for side in (_FLOAT, _INT8):
            writer = QdqWriter(self._graph, self._params, {})
            for node in self._graph.nodes:
                if node.name in pixels.nodes:
                    writer.copy(node)
            output = pixels.output
            if side == _INT8 and output in self._params:
                writer.quantize(output)
                output = quantized_name(output)
            inputs = {self._graph.input: self._store[side, self._graph.input]}
            session = self._open(writer, inputs, output, side)
            _take_all(store_in_batches(session, inputs, self._store, (side, output), batch=BATCH))

    def _model(
        self, writer: QdqWriter, chain: tuple[QuantUnit, ...], output: str, side: str
    ) -> tuple[OrtSession, dict[str, StoredValue]]:
        """A session of a small model, and what it reads."""
        names = [name if side == _FLOAT else writer.stored_name(name) for name in self._inputs(chain)]
        inputs = {name: self._store[side, name] for name in names}
        return self._open(writer, inputs, output, side), inputs

    def _open(self, writer: QdqWriter, inputs: Mapping[str, StoredValue], output: str, side: str) -> OrtSession:
        kinds = onnx.helper.np_dtype_to_tensor_dtype
        infos = [onnx.helper.make_tensor_value_info(name, kinds(value.dtype), None) for name, value in inputs.items()]
        # Codes come out of a QuantizeLinear, or are handed on as they are.
        quantized = side == _INT8 and output.endswith(quantized_name(""))
        kind = onnx.TensorProto.UINT8 if quantized else onnx.TensorProto.FLOAT
        info = onnx.helper.make_tensor_value_info(output, kind, None)
        if not any(is_large(values.nbytes) for values in writer.initializers.values()):
            model = model_from_writer(writer, infos, [info], self._graph.model)
            return open_session_from_bytes(model.SerializeToString(), threads=usable_cpus())
        folder = ModelFolder()
        with WeightWriter(folder.path) as weights:
            light = model_from_writer(writer, infos, [info], self._graph.model, weights)
        # They are in the file now, and ONNX Runtime makes copies of its own.
        writer.initializers.clear()
        return open_model(light, threads=usable_cpus())


def _kept(unit: QuantUnit, params: Mapping[str, QuantParams]) -> tuple[str, ...]:
    """The outputs of a unit that are kept: those of layers and 8-bit units, and what 8-bit units read of the others."""
    if unit.quantized or unit.layer is not None:
        return (unit.output,)
    return tuple(value for value in unit.nodes[-1].output if value in params)


def _take_all(batches: Iterator[FloatArray]) -> None:
    for _ in batches:
        pass
