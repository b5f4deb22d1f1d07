"""Configs of Keras 1 and 2 rewritten as Keras 3 writes them: what Keras 3's own reader refuses, or reads with another meaning.

Values that only training needs - initializers, regularizers, constraints - are left out: the weights come from the file.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.export.source.keras_files.keras2_calls import (
    LayerNames,
    call_of_layer,
    first_calls,
    legal_name,
    references_of,
    single,
)
from edgeclf.export.source.keras_files.model_config import layer_name
from edgeclf.runtime.errors import ModelFileError

_MODELS = frozenset({"Functional", "Model", "Sequential"})
_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "Model": "Functional",
    # In inference they do nothing, and Keras 3 does not have them.
    "RandomHeight": "Identity",
    "RandomWidth": "Identity",
}
_OPTIONS = {("LeakyReLU", "alpha"): "negative_slope"}
_SHAPES = ("batch_input_shape", "batch_shape", "input_shape")
# Options of layers that Keras 3 no longer has, and which change no answer, whatever they are.
_IDLE = frozenset(
    {
        "batch_input_shape", "input_shape", "input_dim", "input_length", "input_dtype", "ragged", "rng_type", "stateful",
        "renorm_clipping", "renorm_momentum", "fused", "implementation", "name", "trainable", "dtype",
    }
)  # fmt: skip
_TRAINING_ENDS = ("_initializer", "_regularizer", "_constraint")
OLD_HARD_SIGMOID = "keras2_hard_sigmoid"


def as_keras3(path: Path, document: Mapping[str, Any], *, is_old: bool = True) -> dict[str, Any]:
    """The config of a model as Keras 3 writes it.

    Args:
        path: The model's file, for the error.
        document: The config, as Keras 1 or 2 wrote it, or Keras 3 in an `.h5` file.
        is_old: Whether it is of Keras 1 or 2, where some names meant something else.

    Raises:
        ModelFileError: A layer has an option that Keras 3 does not have.
    """
    import_tensorflow()
    return _Converter(path, is_old=is_old).convert(document)


def keras2_functions() -> dict[str, Any]:
    """Custom functions that a rewritten config needs: those which mean something else in Keras 3, by their names there."""
    tensorflow = import_tensorflow()

    def hard_sigmoid(x: Any) -> Any:  # noqa: ANN401 - a tensor
        return tensorflow.clip_by_value(0.2 * x + 0.5, 0.0, 1.0)

    return {OLD_HARD_SIGMOID: hard_sigmoid}


class _Converter:
    """The conversion of one file's config."""

    def __init__(self, path: Path, *, is_old: bool) -> None:
        self._path = path
        self._is_old = is_old

    def convert(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """An object with the objects inside it."""
        from keras import layers

        name, config = item["class_name"], item.get("config")
        module = item.get("module")
        if isinstance(module, str) and not _is_keras(module):
            return _custom(item)
        if name in _MODELS or (isinstance(config, Mapping) and "input_layers" in config):
            return self._model(item)
        if name == "Lambda" and isinstance(config, Mapping):
            return {**item, "module": "keras.layers", "config": _lambda_config(config), "registered_name": None}
        name = _CLASSES.get(name, name)
        cls = getattr(layers, name, None)
        if not isinstance(cls, type) or not isinstance(config, Mapping):
            return _custom(item)
        return {
            "module": "keras.layers",
            "class_name": name,
            "config": self._layer_config(item, name, cls, config),
            "registered_name": None,
            **({"name": item["name"]} if "name" in item else {}),
            **({"build_config": item["build_config"]} if "build_config" in item else {}),
        }

    def _layer_config(self, item: Mapping[str, Any], name: str, cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
        accepted, converted = _accepted(cls), {}
        for given_key, value in config.items():
            key = _OPTIONS.get((name, given_key), given_key)
            if key.endswith(_TRAINING_ENDS) or key == "activity_regularizer":
                continue
            if key not in accepted and key not in {"name", "trainable", "dtype"}:
                is_neutral = value is None or value is False or (key == "groups" and value == 1) or name == "Identity"
                if key not in _IDLE and not is_neutral:
                    raise ModelFileError(
                        f"{self._path} cannot be opened with Keras 3",
                        got=f"layer {layer_name(item)} with {key} {value!r}",
                        expected="options that Keras 3 has",
                        hint="save the model with Keras 3, or as a SavedModel (model.export)",
                    )
                continue
            converted[key] = self._value(key, value)
        if name == "InputLayer":
            shape = next((config[key] for key in _SHAPES if config.get(key) is not None), None)
            converted = {key: converted[key] for key in ("name", "dtype") if key in converted}
            converted["batch_shape"] = shape
        if name == "BatchNormalization" and isinstance(converted.get("axis"), list):
            converted["axis"] = next(iter(config["axis"]))
        if name == "Identity":
            converted = {key: converted[key] for key in ("name", "dtype") if key in converted}
        return converted

    def _value(self, key: str, value: object) -> object:
        if key == "dtype":
            return _dtype(value)
        if self._is_old and key in {"activation", "recurrent_activation"} and _function(value) == "hard_sigmoid":
            return {
                "module": "builtins",
                "class_name": "function",
                "config": OLD_HARD_SIGMOID,
                "registered_name": OLD_HARD_SIGMOID,
            }
        if isinstance(value, Mapping) and "class_name" in value and isinstance(value.get("config"), Mapping):
            # The layer of a wrapper.
            return self.convert(value)
        return value

    def _model(self, item: Mapping[str, Any]) -> dict[str, Any]:
        name, config = item["class_name"], item["config"]
        converted = self._sequential(config) if name == "Sequential" else self._functional(config)
        known = name in _MODELS
        cls = "Sequential" if name == "Sequential" else "Functional" if known else name
        return {
            **({"module": "keras" if cls == "Sequential" else "keras.src.models.functional"} if known else {}),
            "class_name": cls,
            "config": converted,
            "registered_name": cls,
            **({"name": item["name"]} if "name" in item else {}),
        }

    def _sequential(self, config: Mapping[str, Any] | list[Any]) -> dict[str, Any]:
        # The oldest wrote the list of layers alone.
        values: Mapping[str, Any] = config if isinstance(config, Mapping) else {"name": "sequential", "layers": config}
        given = values["layers"]
        converted = [self.convert(layer) for layer in given]
        if converted and converted[0]["class_name"] != "InputLayer":
            first = given[0].get("config", {})
            shape = next(
                (first[key] for key in _SHAPES if isinstance(first, Mapping) and first.get(key) is not None), None
            )
            shape = shape or values.get("build_input_shape")
            if shape is not None:
                converted.insert(0, _input_layer(shape))
        names = LayerNames()
        for layer in converted:
            layer["config"] = {**layer["config"], "name": names.of(layer["config"].get("name", ""))}
        return {
            "name": legal_name(values.get("name", "sequential")),
            "trainable": values.get("trainable", True),
            "layers": converted,
        }

    def _functional(self, config: Mapping[str, Any]) -> dict[str, Any]:
        names, first = LayerNames(), first_calls(config)
        layers = []
        for given in config["layers"]:
            converted = self.convert(given)
            name = names.of(given.get("name") or given["config"]["name"])
            converted["name"] = name
            converted["config"] = {**converted["config"], "name": name}
            converted["inbound_nodes"] = [call_of_layer(node, names, first) for node in given.get("inbound_nodes", ())]
            layers.append(converted)
        return {
            "name": legal_name(config.get("name", "model")),
            "trainable": config.get("trainable", True),
            "layers": layers,
            "input_layers": single(references_of(config["input_layers"], names, first)),
            "output_layers": single(references_of(config["output_layers"], names, first)),
        }


def _custom(item: Mapping[str, Any]) -> dict[str, Any]:
    """An object of a custom class, which knows its own options; those of every layer are as Keras 3 has them."""
    config = item.get("config")
    if not isinstance(config, Mapping):
        return dict(item)
    kept = {key: value for key, value in config.items() if key not in _SHAPES}
    return {**item, "config": {**kept, "dtype": _dtype(config["dtype"])} if "dtype" in config else kept}


def _lambda_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a Lambda layer, its function as Keras 3 writes it; whether it may be run is decided elsewhere."""
    function = config.get("function")
    if isinstance(function, list) and len(function) == 3:
        code, defaults, closure = function
        function = {"class_name": "__lambda__", "config": {"code": code, "defaults": defaults, "closure": closure}}
    kept = ("name", "trainable", "dtype", "output_shape", "mask", "arguments")
    return {**{key: config[key] for key in kept if key in config}, "function": function}


def _is_keras(module: str) -> bool:
    return module.split(".", 1)[0] in {"keras", "tf_keras", "tensorflow"} and not module.startswith(
        ("keras.src.ops", "keras.ops")
    )


def _dtype(value: object) -> object:
    """The type of a layer: of a policy its name, and of a mixed one float32, in which its weights are."""
    if isinstance(value, Mapping):
        config = value.get("config")
        value = config.get("name") if isinstance(config, Mapping) else None
    return "float32" if isinstance(value, str) and value.startswith("mixed_") else value


def _function(value: object) -> object:
    return value.get("config") if isinstance(value, Mapping) and value.get("class_name") == "function" else value


def _accepted(cls: type) -> set[str]:
    """The options that the constructor of a layer takes, and those that it passes on to its bases."""
    accepted: set[str] = set()
    for base in cls.__mro__:
        own = base.__dict__.get("__init__")
        if own is None:
            continue
        parameters = inspect.signature(inspect.unwrap(own)).parameters.values()
        accepted |= {item.name for item in parameters if item.kind in {item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD}}
        if not any(item.kind == item.VAR_KEYWORD for item in parameters):
            break
    return accepted


def _input_layer(shape: object) -> dict[str, Any]:
    config = {"batch_shape": shape, "dtype": "float32", "name": "input_of_sequential"}
    return {"module": "keras.layers", "class_name": "InputLayer", "config": config, "registered_name": None}
