"""The classifier that is exported: a trained Keras network, or a model that others made; and the reference of its files."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgeclf.export.keras_backend import KerasClassifier, KerasModel
from edgeclf.runtime.batch.jobs import ProbabilityModel
from edgeclf.runtime.spec import ModelSpec

if TYPE_CHECKING:
    from edgeclf.export._onnx import onnx
    from edgeclf.export.graph.light.folder import StoredModel


class SourceClassifier(Protocol):
    """A classifier that can be exported."""

    @property
    def spec(self) -> ModelSpec:
        """Its labels and preprocessing, and what else is known of it; what the export measures is added."""

    @property
    def name(self) -> str:
        """What tables and sentences call it: `the Keras model`, `other.onnx`."""

    @property
    def has_int8_reference(self) -> bool:
        """Whether int8 files have another reference than the others: a network trained in 8-bit arithmetic."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights in float32, about."""

    def float_model(self) -> "onnx.ModelProto":
        """The network as a float32 graph that follows the model contract, without a spec; it may be changed.

        Large weights may be in a file of this object's, see `graph/light`.
        """

    def reference_for(self, precision: str) -> ProbabilityModel:
        """What files of a precision are compared with: the original, run by its own runtime."""

    def runtime_of_reference(self, precision: str) -> str:
        """What runs the reference, with its version: `keras 3.8.0`."""


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A trained Keras classifier: what is exported, and the reference that exported files are compared with.

    Attributes:
        model: The Keras model: uint8 (None, H, W, 3) RGB images to (None, C) probabilities.
        spec: Its labels and preprocessing, and how it was trained.
        simulate: Builds the same network in the 8-bit arithmetic of its quantization-aware training; None for a network
            that was trained in float.
    """

    model: KerasModel
    spec: ModelSpec
    simulate: Callable[[], KerasModel] | None = None

    @property
    def name(self) -> str:
        """See `SourceClassifier`."""
        return "the Keras model"

    @property
    def has_int8_reference(self) -> bool:
        """Whether the network was trained in 8-bit arithmetic."""
        return self.simulate is not None

    @property
    def weight_bytes(self) -> int:
        """See `SourceClassifier`."""
        return 4 * int(self.model.count_params())

    def as_trained(self) -> KerasClassifier:
        """The network in the arithmetic that it was trained in."""
        return KerasClassifier(self.model if self.simulate is None else self.simulate(), self.spec)

    def float_model(self) -> "onnx.ModelProto":
        """The network, converted by tf2onnx; with a backbone that is an ONNX graph, that graph and the head behind it.

        A normalisation of each channel is folded into the first convolution, as of models that others made.

        Raises:
            InputError: It cannot be converted.
            MissingPackageError: A package of the extras [train] or [export] is not installed.
        """
        from edgeclf.export.graph.adopt.channel_normalisation import fold_channel_normalisation
        from edgeclf.export.graph.convert import onnx_from_keras
        from edgeclf.export.source.feature_layer import feature_layer_of, onnx_with_head

        if feature_layer_of(self.model) is not None:
            return onnx_with_head(self.model)
        model = onnx_from_keras(self.model)
        if not self.has_int8_reference:
            # The scales of a network that was trained for 8 bits are those of its weights as they are.
            fold_channel_normalisation(model)
        return model

    def reference_for(self, precision: str) -> KerasClassifier:
        """The reference of files of a precision: the network as trained for `int8`, in float for the others."""
        return self.as_trained() if precision == "int8" else KerasClassifier(self.model, self.spec)

    def runtime_of_reference(self, precision: str) -> str:
        """Keras with its version, and the arithmetic where that is not float."""
        version = importlib.metadata.version("keras")
        in_8_bits = precision == "int8" and self.has_int8_reference
        return f"keras {version}, in the 8-bit arithmetic it was trained in" if in_8_bits else f"keras {version}"


@dataclass(frozen=True, eq=False)
class ForeignClassifier:
    """A classifier that others made, brought into the model contract, and the original that its files are compared with.

    Attributes:
        spec: Its labels and preprocessing; `source` says what the original is and how it is used.
        model: The network as a float32 graph that follows the model contract: uint8 (N, H, W, 3) RGB images to (N, C)
            probabilities, pixel normalisation and softmax or sigmoid inside; in a file.
        reference: The original in its own runtime, with the preprocessing that was named for it: its `spec` has the same
            labels and preprocessing.
        name: What tables and sentences call it, such as the file's name.
        runtime: What runs the original, with its version, such as `onnxruntime 1.23.2`.
        notes: What the user has to know of it, sentences without a full stop.
    """

    spec: ModelSpec
    model: "StoredModel"
    reference: ProbabilityModel
    name: str
    runtime: str
    notes: tuple[str, ...] = ()

    @property
    def has_int8_reference(self) -> bool:
        """See `SourceClassifier`: never."""
        return False

    @property
    def weight_bytes(self) -> int:
        """The size of the graph's file."""
        return self.model.path.stat().st_size

    def float_model(self) -> "onnx.ModelProto":
        """The graph, read anew."""
        return self.model.read()

    def reference_for(self, precision: str) -> ProbabilityModel:  # noqa: ARG002 - the same for all
        """The original."""
        return self.reference

    def runtime_of_reference(self, precision: str) -> str:  # noqa: ARG002 - the same for all
        """What runs the original."""
        return self.runtime
