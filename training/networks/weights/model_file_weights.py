"""Weights of a whole Keras model in a file, matched by the names and shapes of layers with those of another network."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.keras_backend import KerasLayer, KerasModel
from edgeclf.export.source.keras_files.loading import load_keras_file
from edgeclf.export.source.keras_files.model_config import has_model_config
from edgeclf.runtime.errors import InputError
from edgeclf.training.networks.weights.flat_copy import is_graph, settled_layers
from edgeclf.training.networks.weights.layer_weights import LayerWeights

_SHOWN = 4


@dataclass(frozen=True)
class WeightsMatch:
    """What of a file's weights a network takes, as names of layers.

    Attributes:
        loaded: Layers that took their weights from the file.
        mismatched: Layers whose weights in the file have other shapes; they stay as they were.
        missing: Layers with weights that the file does not have.
        unused: Layers of the file that the network does not have.
    """

    loaded: tuple[str, ...]
    mismatched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def sentence(self) -> str:
        """The counts, and the first names of what was not taken."""
        parts = [f"{len(self.loaded)} layers loaded"]
        for names, what in (
            (self.mismatched, "of another shape"),
            (self.missing, "not in the file"),
            (self.unused, "of the file not used"),
        ):
            if names:
                more = ", ..." if len(names) > _SHOWN else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: list(values) for name, values in asdict(self).items()}


def is_model_file(path: Path) -> bool:
    """Whether a file is a whole Keras model, with the config of its network, and not weights alone."""
    return has_model_config(path)


def read_layer_weights(path: Path, custom_objects: Mapping[str, Any] | None = None) -> LayerWeights:
    """The weights of each layer of a saved Keras model, under the names that a flat copy of it has.

    Args:
        path: A `.keras` or `.h5` file.
        custom_objects: Custom classes and functions by their names.

    Raises:
        ModelFileError: It cannot be opened, has code in it, or layers that are not known.
        InputError: It is no graph of layers.
    """
    model = load_keras_file(path, custom_objects=custom_objects)
    if not is_graph(model) or len(model.inputs) != 1:
        raise InputError(
            f"cannot take the weights of {path}",
            got=f"a {type(model).__name__} with {len(getattr(model, 'inputs', None) or ())} inputs",
            expected="a functional or Sequential model of images",
            hint="save such a model",
        )
    return {name: layer.get_weights() for name, layer in settled_layers(model).items() if layer.weights}


def fill_by_name(
    network: KerasModel,
    path: Path,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    but: Collection[str] | None = None,
) -> WeightsMatch:
    """Fills a flat network with the weights of a saved model, layer by layer of the same name and shapes, in place.

    Args:
        network: A flat Keras model.
        path: The saved model.
        custom_objects: As for `read_layer_weights`.
        but: Names of layers that may be without; any other that is not filled is an error. None where any may be.

    Raises:
        InputError: No layer matches, or one does not that has to; the network is then as it was.
        ModelFileError: As `read_layer_weights`.
    """
    found = read_layer_weights(path, custom_objects)
    layers, match = _best_match(network, found)
    needed = [] if but is None else [name for name in (*match.mismatched, *match.missing) if name not in but]
    if not match.loaded or needed:
        raise InputError(
            f"the weights of {path} are of another network",
            got=match.sentence(),
            expected=f"layers with the names and shapes of {network.name}: {', '.join(list(layers)[:_SHOWN])}, ...",
            hint="pass another file to --weights, or none",
        )
    for name in match.loaded:
        layers[name].set_weights(found[name])
    return match


def match_with_file(
    network: KerasModel, path: Path, *, custom_objects: Mapping[str, Any] | None = None
) -> WeightsMatch:
    """What a flat network takes, or has taken, of the weights of a saved model.

    Raises:
        EdgeclfError: As `read_layer_weights`.
    """
    return _best_match(network, read_layer_weights(path, custom_objects))[1]


def _best_match(network: KerasModel, found: LayerWeights) -> tuple[dict[str, KerasLayer], WeightsMatch]:
    """The layers of a network by name, and what they take of the weights found.

    Its own names count, which are settled where edgeclf named its layers; else names settled as those of the file are.
    """
    own = {layer.name: layer for layer in network.layers if layer.weights}
    settled = {name: layer for name, layer in settled_layers(network).items() if layer.weights}
    matches = [(layers, match_layers(_shapes(layers), found)) for layers in (own, settled)]
    return max(matches, key=lambda item: len(item[1].loaded))


def _shapes(layers: Mapping[str, KerasLayer]) -> dict[str, list[tuple[int, ...]]]:
    return {name: [tuple(item.shape) for item in layer.weights] for name, layer in layers.items()}


def match_layers(wanted: Mapping[str, list[tuple[int, ...]]], found: LayerWeights) -> WeightsMatch:
    """Compares the layers of a network with those of a file.

    Args:
        wanted: The shapes of the weights of each layer of the network.
        found: The weights of each layer of the file.
    """
    same = [name for name in wanted if name in found and [np.shape(item) for item in found[name]] == wanted[name]]
    return WeightsMatch(
        loaded=tuple(same),
        mismatched=tuple(name for name in wanted if name in found and name not in same),
        missing=tuple(name for name in wanted if name not in found),
        unused=tuple(name for name in found if name not in wanted),
    )
