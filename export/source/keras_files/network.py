"""A network of others in TensorFlow or Keras: its input and outputs, its ONNX graph, and its own answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeclf.export.keras_backend import KerasTensor, KerasVariable, UntypedModule, import_tensorflow
from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.activation import probabilities_from
from edgeclf.runtime.session.foreign.image_input import PixelConversion
from edgeclf.runtime.session.foreign.outputs import rows_of
from edgeclf.runtime.session.foreign.probing import check_scores

if TYPE_CHECKING:
    from edgeclf.export._onnx import onnx
    from edgeclf.runtime.session.foreign.given import Activation
    from edgeclf.runtime.session.foreign.use import ModelUse
    from edgeclf.runtime.spec import ModelSpec


class TensorOfNetwork(NamedTuple):
    """An input of a network.

    Attributes:
        name: Its name.
        dtype: Element type, such as `float32`.
        shape: Its dimensions, None for free ones.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class KerasNetwork:
    """A network in inference mode.

    Attributes:
        path: The file or folder that it is from, beside which its labels may lie; for `module:name` that text.
        record_path: The file or folder whose digest is recorded: for `module:name` the module's file.
        name: What tables and sentences call it.
        runtime: What runs it, with its version: `keras 3.15.1`.
        producer: What wrote it, with its version, such as `Keras 2.15.0`; empty where that is not known.
        input: Its input.
        outputs: The names of its outputs.
        call: Gives its outputs for an input, tensors all.
        operations: The Keras operations that `call` is traced in scopes of.
        kernels: Variables that are kept out of the converter, see `large_kernels`.
    """

    path: Path
    record_path: Path
    name: str
    runtime: str
    producer: str
    input: TensorOfNetwork
    outputs: tuple[str, ...]
    call: Callable[[KerasTensor], Sequence[KerasTensor]]
    operations: frozenset[str] = frozenset()
    kernels: tuple[KerasVariable, ...] = ()

    def with_image_size(self, size_hw: tuple[int, int]) -> "KerasNetwork":
        """The same network for images of one size, where its input leaves the size free; else as it is."""
        shape = self.input.shape
        if len(shape) != 4 or None not in shape[1:]:
            return self
        # Channels come last, but in networks for GPUs alone that have them in front.
        free = [axis for axis in (1, 2, 3) if shape[axis] is None][-2:]
        sizes = dict(zip(free, size_hw[-len(free) :] if len(free) == 1 else size_hw, strict=True))
        if len(free) == 1 and free[0] == 1:
            sizes = {1: size_hw[0]}
        fixed = tuple(sizes.get(axis, side) for axis, side in enumerate(shape))
        return replace(self, input=self.input._replace(shape=fixed))

    def to_onnx(self) -> "onnx.ModelProto":
        """The network as tf2onnx converts it: its own input and outputs under their names, opset 17, float.

        Raises:
            InputError: tf2onnx cannot convert an operation, or the network answers at random.
            MissingPackageError: tf2onnx is not installed.
        """
        from edgeclf.export.graph.convert import onnx_from_function

        model = onnx_from_function(
            lambda image: tuple(self.call(image)), self._tensor_spec(), self.operations, self.kernels
        )
        rename_values(model, {value.name: name for value, name in zip(model.graph.output, self.outputs, strict=True)})
        return model

    def infer(self) -> Callable[[AnyArray], list[AnyArray]]:
        """The network's own answers: takes its input as an array, gives its outputs; traced once."""
        tensorflow = import_tensorflow()
        traced = tensorflow.function(
            lambda image: tuple(self.call(image)), input_signature=[self._tensor_spec()], autograph=False
        )

        def run(inputs: AnyArray) -> list[AnyArray]:
            return [np.asarray(output) for output in traced(tensorflow.constant(inputs))]

        return run

    def _tensor_spec(self) -> UntypedModule:
        tensorflow = import_tensorflow()
        return tensorflow.TensorSpec(self.input.shape, self.input.dtype, name=self.input.name)


class NetworkScores:
    """What a network of others gives for images, computed by its own runtime.

    Args:
        network: The network.
        use: How it is used, with nothing missing.
    """

    def __init__(self, network: KerasNetwork, use: "ModelUse") -> None:
        if use.size_hw is None or use.output is None or use.missing:
            raise ValueError("a part is missing")
        self._path = network.path
        self._batch = use.input.batch
        self._infer = network.with_image_size(use.size_hw).infer()
        self._index, self._codes = network.outputs.index(use.output), use.codes
        self._convert = PixelConversion(use.input, is_bgr=use.channels == "bgr", scaling=use.scaling)

    def __call__(self, images_rgb: UInt8Array) -> FloatArray:
        """(N, H, W, 3) uint8 RGB to (N, C) float32: its output as it is.

        Raises:
            ModelFileError: It does not give one row of numbers an image.
        """
        images = self._batch or max(1, len(images_rgb))
        parts = []
        for start in range(0, len(images_rgb), images):
            part = images_rgb[start : start + images]
            # A network for so many images gets the last one again where there are fewer.
            filled = np.concatenate([part, np.repeat(part[-1:], images - len(part), axis=0)])
            output = self._infer(self._convert(np.ascontiguousarray(filled)))[self._index]
            rows = rows_of(output, images, self._codes)
            if rows is None:
                raise ModelFileError(
                    f"{self._path} is not an image classifier that edgeclf can run",
                    got=f"an output {output.shape} for {images} images",
                    expected="one row of probabilities or logits an image",
                    hint="export the classifier alone",
                )
            parts.append(rows[: len(part)])
        return np.concatenate(parts)


class KerasReference:
    """A network of others as a classifier, run by its own runtime: what its files are compared with.

    Args:
        network: The network.
        scores: What it gives.
        use: How it is used; nothing is missing, and its classes and activation are known.

    Attributes:
        path: The file or folder that it is from; for `module:name` that text.
        runtime: What runs it, with its version.
        use: How it is used, and why.
        spec: The spec that stands in for the one that it does not have.
    """

    is_foreign = True

    def __init__(self, network: KerasNetwork, scores: NetworkScores, use: "ModelUse") -> None:
        if use.activation is None:
            raise ValueError("the activation is not known")
        self.path, self.runtime, self.use = network.path, network.runtime, use
        self.spec: ModelSpec = use.spec
        self._network, self._scores = network, scores
        self._activation: Activation = use.activation

    def used_as(self, use: "ModelUse") -> "KerasReference":
        """The same network under other class names.

        Args:
            use: This one's `use` with other labels.

        Raises:
            ValueError: More than the labels differs.
        """
        if replace(use, labels=self.use.labels, origins=self.use.origins) != self.use:
            raise ValueError("only labels can be replaced")
        return KerasReference(self._network, self._scores, use)

    def run(self, images_rgb: UInt8Array) -> FloatArray:
        """(N, H, W, 3) uint8 RGB to (N, C) float32 probabilities."""
        scores = self._scores(images_rgb)
        # Probe images may show less than photographs.
        check_scores(self.use, scores, Path(self.path))
        return probabilities_from(scores, self._activation)


def rename_values(model: "onnx.ModelProto", names: dict[str, str]) -> None:
    """Renames outputs of a graph, in place; a value of the same name inside makes way."""
    graph = model.graph
    inner = {value for node in graph.node for value in (*node.input, *node.output)} - names.keys()
    moved = {name: f"{name}/inner" for name in set(names.values()) & inner}
    table = {**moved, **names}
    for node in graph.node:
        node.input[:] = [table.get(value, value) for value in node.input]
        node.output[:] = [table.get(value, value) for value in node.output]
    for value in (*graph.output, *graph.initializer):
        value.name = table.get(value.name, value.name)
    del graph.value_info[:]
