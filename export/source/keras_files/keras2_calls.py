"""The calls of layers in configs of Keras 1 and 2: references to tensors by layer, call and output, as Keras 3 writes them."""

from collections.abc import Mapping
from typing import Any

# Of a call whose first argument is a number: that number, and the name of the argument that is a tensor.
FIRST, NAME_OF_TENSOR = "first_argument", "name_of_tensor"


class LayerNames:
    """Names of layers that Keras 3 accepts: it has no slashes in them."""

    def __init__(self) -> None:
        self._legal: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name that stands for one of the file's."""
        if name not in self._legal:
            wanted = legal_name(name)
            taken = set(self._legal.values())
            while wanted in taken:
                wanted += "_"
            self._legal[name] = wanted
        return self._legal[name]


def legal_name(name: str) -> str:
    """The name as Keras 3 may have it."""
    return name.replace("/", "_")


def first_calls(config: Mapping[str, Any]) -> dict[str, int]:
    """The number of the first call of each layer: Keras 2 counts a nested model's own graph as its call number 0."""
    nested = {
        layer.get("name") or layer["config"]["name"]
        for layer in config["layers"]
        if isinstance(layer.get("config"), Mapping) and "layers" in layer["config"]
    }
    found: dict[str, int] = {}
    calls = [layer.get("inbound_nodes", ()) for layer in config["layers"]]
    for name, index in _calls_in([*calls, config["input_layers"], config["output_layers"]]):
        if name in nested:
            found[name] = min(index, found.get(name, index))
    return found


def _calls_in(value: object) -> list[tuple[str, int]]:
    if _is_reference(value):
        return [(value[0], value[1]), *_calls_in(value[3:])]  # type: ignore[index]  # a list
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [call for part in parts for call in _calls_in(part)]


def _is_reference(value: object) -> bool:
    """Whether a value stands for an output of a layer: its name, the number of the call, that of the output."""
    return (
        isinstance(value, list | tuple)
        and len(value) in {3, 4}
        and isinstance(value[0], str)
        and type(value[1]) is int
        and type(value[2]) is int
        and (len(value) == 3 or isinstance(value[3], Mapping))
    )


def references_of(value: object, names: LayerNames, first: Mapping[str, int]) -> object:
    """Inputs or outputs of a model: references, perhaps nested, with names and numbers of Keras 3."""
    if _is_reference(value):
        name, index, tensor = value[:3]  # type: ignore[index]  # a list
        return [names.of(name), index - first.get(name, 0), tensor]
    if isinstance(value, Mapping):
        return {key: references_of(item, names, first) for key, item in value.items()}
    return [references_of(item, names, first) for item in value] if isinstance(value, list | tuple) else value


def single(references: object) -> object:
    """The one reference of a list of one, which Keras 3 takes for a model that gives a list."""
    is_one = isinstance(references, list) and len(references) == 1 and _is_reference(references[0])
    return references[0] if is_one else references  # type: ignore[index]  # a list


def call_of_layer(node: Any, names: LayerNames, first: Mapping[str, int]) -> dict[str, Any]:  # noqa: ANN401 - JSON of several forms
    """A call of a layer: positional and named arguments, tensors among them by reference."""
    if isinstance(node, Mapping):
        return dict(node)

    def tensor(item: Any) -> object:  # noqa: ANN401 - JSON
        # Its shape and type are those of the output that it stands for.
        config = {"shape": [None], "dtype": "float32", "keras_history": references_of(item[:3], names, first)}
        return {"class_name": "__keras_tensor__", "config": config}

    def value(item: Any) -> object:  # noqa: ANN401 - JSON
        if _is_reference(item):
            return tensor(item)
        if isinstance(item, Mapping):
            return {key: value(part) for key, part in item.items()}
        return [value(part) for part in item] if isinstance(item, list) else item

    is_one = bool(node) and isinstance(node[0], str)
    items = [node] if is_one else node
    tensors = [tensor(item) for item in items]
    options: Mapping[str, Any] = next((item[3] for item in items if len(item) > 3), {})
    if is_one and node[0] == "_CONSTANT_VALUE":
        # Keras 3 takes tensors alone by position.
        name = next((key for key, item in options.items() if _is_reference(item)), "")
        others = {key: value(item) for key, item in options.items() if key != name}
        return {"args": [value(options[name])], "kwargs": {**others, FIRST: node[2], NAME_OF_TENSOR: name}}
    return {
        "args": tensors if len(tensors) == 1 else [tensors],
        "kwargs": {key: value(item) for key, item in options.items()},
    }
