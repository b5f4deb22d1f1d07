"""A Keras model of others as what is exported, and how it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgeclf.export.source.keras_files.kinds import KerasOptions
from edgeclf.export.source.keras_files.network import KerasNetwork, KerasReference, NetworkScores
from edgeclf.export.source.keras_files.opening import open_keras_network
from edgeclf.export.source.record import architecture_of, source_record
from edgeclf.runtime.session.foreign.activation import probe_images
from edgeclf.runtime.session.foreign.given import ForeignModel
from edgeclf.runtime.session.foreign.probing import check_scores, completed
from edgeclf.runtime.session.foreign.resolution import resolve_foreign
from edgeclf.runtime.session.graph_outline import read_graph_outline

if TYPE_CHECKING:
    from edgeclf.export.graph.light.folder import StoredModel
    from edgeclf.export.source.classifier import ForeignClassifier
    from edgeclf.runtime.session.foreign.use import ModelUse


class OpenedNetwork(NamedTuple):
    """A Keras model of others, converted, and how it is used.

    Attributes:
        network: The network.
        model: Its graph, as the converter writes it, in a file.
        use: How it is used; something may be missing.
        scores: What it gives for images; None where something is missing.
    """

    network: KerasNetwork
    model: "StoredModel"
    use: "ModelUse"
    scores: NetworkScores | None


def open_keras_model(
    source: Path | str, foreign: ForeignModel | None = None, options: KerasOptions | None = None
) -> OpenedNetwork:
    """Opens a Keras model of others, and works out how it is used, as for an ONNX file: see `resolve_foreign`.

    Args:
        source: A `.keras` or `.h5` file, a SavedModel folder, or `module:name`.
        foreign: What the user knows of its use; None leaves all of it to the model.
        options: What the user says of opening it.

    Raises:
        UsageError: What the user says contradicts the model or itself.
        ModelFileError: It cannot be opened, has code in it, or is no image classifier.
        InputError: It cannot be converted, or the user's own module fails.
        MissingPackageError: A package of the extras [train] or [export] is not installed.
    """
    from edgeclf.export.graph.light.folder import StoredModel

    given = foreign or ForeignModel()
    network = open_keras_network(source, options)
    if given.image_size is not None:
        network = network.with_image_size(given.image_size)
    model = StoredModel(network.to_onnx())
    use = resolve_foreign(network.path, read_graph_outline(model.path), given)
    if use.missing or use.size_hw is None:
        return OpenedNetwork(network, model, use, None)
    scores = NetworkScores(network, use)
    probes = scores(probe_images(use.size_hw))
    use = completed(use, probes, network.path, is_baked=False)
    check_scores(use, probes, network.path)
    return OpenedNetwork(network, model, use, scores)


def open_keras_reference(
    source: Path | str, foreign: ForeignModel | None = None, options: KerasOptions | None = None
) -> KerasReference:
    """Opens a Keras model of others as a classifier, run by Keras or TensorFlow.

    Args:
        source: As for `open_keras_model`.
        foreign: As for `open_keras_model`.
        options: As for `open_keras_model`.

    Raises:
        ModelFileError: Also where something is not known without which it cannot be run.
        EdgeclfError: As `open_keras_model`.
    """
    network, _, use, scores = open_keras_model(source, foreign, options)
    if scores is None:
        raise use.missing[0].error(network.path)
    return KerasReference(network, scores, use)


def open_keras_source(
    source: Path | str, foreign: ForeignModel | None = None, options: KerasOptions | None = None
) -> "ForeignClassifier":
    """Opens a Keras model of others that is to be exported, and brings its graph into the model contract.

    Args:
        source: As for `open_keras_model`.
        foreign: As for `open_keras_model`.
        options: As for `open_keras_model`.

    Raises:
        ModelFileError: Also where something is not known without which it cannot be run.
        EdgeclfError: As `open_keras_model`.
    """
    from edgeclf.export.graph.adopt.adoption import adopt_model
    from edgeclf.export.graph.light.folder import StoredModel
    from edgeclf.export.source.classifier import ForeignClassifier

    network, model, use, scores = open_keras_model(source, foreign, options)
    if scores is None:
        raise use.missing[0].error(network.path)
    adopted = adopt_model(model.read(), use)
    reference = KerasReference(network, scores, use)
    record = source_record(network.record_path, producer=network.producer, used_as=use.to_json(), name=network.name)
    spec = reference.spec.with_changes(
        architecture=architecture_of(network.path.stem, network.producer), source=record, package_versions={}
    )
    how = f"{source} has no edgeclf spec; {use.sentence()}"
    notes = (how, *use.notes, *adopted.notes)
    return ForeignClassifier(spec, StoredModel(adopted.model), reference, network.name, network.runtime, notes)
