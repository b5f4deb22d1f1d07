"""What a model's config would run or needs: Python code inside it, and classes that Keras does not have.

Keras checks this itself when it loads in safe mode, in each version some more of it, and for `.h5` files only since 3.11.
Here everything that is none of Keras's own building blocks is refused before Keras sees it, in any version.
"""

import contextlib
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

from edgeclf.export.source.keras_files.model_config import layer_name, objects_in
from edgeclf.export.source.keras_files.tensorflow_calls import is_known_call
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.spec.json_documents import shown

# In an archive.
_WEIGHTS = "model.weights.h5"
# Layers that hold, or fetch, a program.
_PROGRAMS = frozenset({"TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"})
_TF_CALLS = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"})
_WINGS = (
    "layers",
    "models",
    "activations",
    "initializers",
    "regularizers",
    "constraints",
    "dtype_policies",
    "ops",
    "random",
)
_BLOCKS = tuple(f"keras.{part}{wing}" for part in ("", "src.") for wing in _WINGS)
# Layers of keras.applications, for which the modules of its networks are no building blocks: they have functions that download.
_OF_APPLICATIONS = frozenset({"CustomScaleLayer", "LayerScale", "StochasticDepth"})
_APPLICATIONS = tuple(f"keras.{part}applications." for part in ("", "src."))
_AT_TOP = frozenset({"Sequential", "Functional", "Model", "DTypePolicy", "KerasTensor", "Variable"})


def check_config(path: Path, document: Mapping[str, Any], known: Collection[str]) -> None:
    """Checks that a config is made of Keras's own layers, and of custom ones that are known.

    Args:
        path: The model's file, for the error.
        document: The config.
        known: Names of custom classes and functions.

    Raises:
        ModelFileError: It has code in it, or layers that are not known.
    """
    programs, strangers = _found(document, known)
    if programs:
        raise ModelFileError(
            f"{path} has code in it, which opening it would run",
            got=_listed(programs),
            expected="layers of Keras alone",
            hint="pass --unsafe-load if you trust whoever made the file, or replace the layer by one of Keras",
        )
    if strangers:
        raise ModelFileError(
            f"{path} has layers or functions that Keras does not have",
            got=_listed(strangers),
            expected="layers of Keras, and custom ones whose Python module is named",
            hint="pass --custom-objects MODULE, the module that defines them, importable from the current folder",
        )


def check_weights(path: Path, *, is_hdf5: bool) -> None:
    """Checks that the weights of a model lie in its own file.

    HDF5 has links and storage in other files, which Keras has followed in one version or another (CVE-2026-1669).

    Args:
        path: The model's file.
        is_hdf5: Whether that is HDF5 itself, else an archive with an HDF5 file of weights.

    Raises:
        ValueError: Some of them are elsewhere.
    """
    import h5py

    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        if not is_hdf5:
            archive = stack.enter_context(zipfile.ZipFile(file))
            if _WEIGHTS not in archive.namelist():
                return
            file = stack.enter_context(archive.open(_WEIGHTS))
        root = stack.enter_context(h5py.File(file, "r"))
        groups, seen = [root], set()
        while groups:
            group = groups.pop()
            for name in group:
                place = f"{group.name.rstrip('/')}/{name}"
                item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
                if item is None or (isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)):
                    raise ValueError(f"weights that are elsewhere: {place}")
                # Links may lead in a circle.
                number = h5py.h5o.get_info(item.id).addr
                if isinstance(item, h5py.Group) and number not in seen:
                    seen.add(number)
                    groups.append(item)


def check_layers(document: Mapping[str, Any], known: Collection[str]) -> str | None:
    """What in a config would keep it from being opened, as text; None of one that can be.

    Args:
        document: The config.
        known: Names of custom classes and functions.
    """
    programs, strangers = _found(document, known)
    return _listed([*programs, *strangers]) if programs or strangers else None


def _found(document: Mapping[str, Any], known: Collection[str]) -> tuple[list[str], list[str]]:
    """What a config would run, and what in it is not known."""
    programs: dict[str, None] = {}
    strangers: dict[str, None] = {}
    for item in objects_in(document):
        if not _is_named(item):
            strangers[shown(item["class_name"])] = None
            continue
        reason = _program(item, known)
        if reason is not None:
            programs[reason] = None
        elif not _is_known(item, known):
            strangers[_name_of(item)] = None
    return list(programs), list(strangers)


def _is_named(item: Mapping[str, Any]) -> bool:
    """Whether an object names its class by texts, as Keras writes them."""
    others = (item.get("module"), item.get("registered_name"))
    return isinstance(item["class_name"], str) and all(other is None or isinstance(other, str) for other in others)


def _program(item: Mapping[str, Any], known: Collection[str]) -> str | None:
    """What an object would run, as text; None of one that is data."""
    name, config = item["class_name"], item.get("config")
    options = config if isinstance(config, Mapping) else {}
    runs = {
        "with a Python function": name == "Lambda" and not _names_known_function(options, known),
        "with a program of another framework": name in _PROGRAMS,
        f"that calls tf.{options.get('function', '?')}": name in _TF_CALLS and not is_known_call(options),
        f"that reads the file {options.get('vocabulary')}": isinstance(options.get("vocabulary"), str),
    }
    if name in known:
        return None
    if name == "__lambda__":
        return "a Python function"
    return next((f"layer {layer_name(item)} {what}" for what, is_so in runs.items() if is_so), None)


def _names_known_function(options: Mapping[str, Any], known: Collection[str]) -> bool:
    """Whether the function of a Lambda layer, and all else that it calls, is a custom function that the user has named."""
    given = [options[key] for key in ("function", "output_shape", "mask") if options.get(key) is not None]
    functions = [item for item in given if not _is_shape(item)]
    return bool(functions) and all(_function_name(item) in known for item in functions)


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(item is None or isinstance(item, int) for item in value)


def _function_name(value: object) -> str:
    if isinstance(value, Mapping) and value.get("class_name") == "function":
        value = value.get("config")
    return value if isinstance(value, str) else ""


def _name_of(item: Mapping[str, Any]) -> str:
    return str(item.get("config")) if item["class_name"] == "function" else str(item["class_name"])


def _is_known(item: Mapping[str, Any], known: Collection[str]) -> bool:
    name, module = item["class_name"], item.get("module")
    if name in known or item.get("registered_name") in known or name in _VALUES | _TF_CALLS:
        return True
    if name == "function":
        config = item.get("config")
        return (isinstance(config, str) and config in known) or (
            _is_activation(config) if module in {None, "builtins"} else _is_block(module)
        )
    if module is None:
        return _is_built_in(name)
    if name in _OF_APPLICATIONS and isinstance(module, str) and module.startswith(_APPLICATIONS):
        return True
    return name in _AT_TOP if module in {"keras", "keras.src"} else _is_block(module)


def _is_block(module: object) -> bool:
    return isinstance(module, str) and any(module == block or module.startswith(f"{block}.") for block in _BLOCKS)


def _is_activation(name: object) -> bool:
    from keras import activations

    return isinstance(name, str) and not name.startswith("_") and callable(getattr(activations, name, None))


def _is_built_in(name: object) -> bool:
    from keras import constraints, initializers, layers, regularizers

    wings = (constraints, initializers, layers, regularizers)
    return name in _AT_TOP or (
        isinstance(name, str)
        and not name.startswith("_")
        and any(isinstance(getattr(wing, name, None), type) for wing in wings)
    )


def _listed(names: Collection[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
