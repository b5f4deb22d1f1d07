"""Python objects of the user: the layers of a module for `--custom-objects`, and a model or function as `module:name`."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.export.source.keras_files.kinds import parse_object_name
from edgeclf.runtime.errors import InputError, UsageError

_KINDS = ("layers.Layer", "initializers.Initializer", "regularizers.Regularizer", "constraints.Constraint")


def import_user_module(name: str, what: str) -> ModuleType:
    """Imports a module of the user, from the current folder or from what is installed.

    Args:
        name: Its name, with dots.
        what: What named it, for the error: `--custom-objects`.

    Raises:
        UsageError: There is no such module.
        InputError: It cannot be imported.
    """
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"bad {what}",
            got=repr(name),
            expected="the name of a Python module, such as my_layers",
            hint="write it as after import, without .py",
        )
    # Before the module does, so that it starts quietly.
    import_tensorflow()
    with _current_folder_first():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                raise UsageError(
                    f"no module {name!r} for {what}",
                    expected=f"{name.replace('.', '/')}.py in the current folder, or an installed module",
                    hint="check the name, and run edgeclf in the folder of the module",
                ) from error
            raise _fails(name, what, error) from error
        except Exception as error:
            raise _fails(name, what, error) from error


def custom_objects_of(module: ModuleType) -> dict[str, Any]:
    """What a module has for Keras to build a saved model of, by the names under which models name them.

    These are its layers, models, initializers, regularizers and constraints, its own functions, and all that is registered
    with `keras.saving.register_keras_serializable`.
    """
    import_tensorflow()
    import keras

    kinds = tuple(getattr(getattr(keras, kind.split(".")[0]), kind.split(".")[1]) for kind in _KINDS)
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if isinstance(value, type):
            is_custom = issubclass(value, kinds) and value.__module__.split(".")[0] != "keras"
        else:
            is_custom = callable(value) and getattr(value, "__module__", None) == module.__name__
        if is_custom:
            found[name] = value
            found[keras.saving.get_registered_name(value)] = value
    return {**keras.saving.get_custom_objects(), **found}


def import_object(text: str, what: str) -> Any:  # noqa: ANN401 - a function or a model
    """Imports what `module:name` names.

    Raises:
        UsageError: It is no such text, or there is no such module or name in it.
        InputError: The module cannot be imported.
    """
    parsed = parse_object_name(text)
    if parsed is None:
        raise UsageError(
            f"bad {what}", got=repr(text), expected="module:name, such as my_module:build", hint="write it that way"
        )
    module_name, name = parsed
    module = import_user_module(module_name, what)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        public = [
            item for item, value in vars(module).items() if callable(value) and value.__module__ == module.__name__
        ]
        raise UsageError(
            f"{module_name} has no {name!r}",
            expected=" or ".join(public[:8]) or "a function or a Keras model",
            hint=f"check the name after the colon in {what}",
        )
    return found


def module_file(text: str) -> Path:
    """The file of the module that `module:name` names, which has been imported."""
    module = sys.modules[text.partition(":")[0]]
    return Path(module.__file__ or text)


def import_model(text: str, what: str) -> KerasModel:
    """The Keras model that `module:name` names: a model, or what a function gives that is called without arguments.

    Raises:
        UsageError: There is no such module or name.
        InputError: The module cannot be imported, the function fails, or gives no Keras model.
    """
    import_tensorflow()
    import keras

    found = import_object(text, what)
    if not isinstance(found, keras.Model) and callable(found):
        with _current_folder_first():
            try:
                found = found()
            except Exception as error:
                raise InputError(
                    f"{text} cannot be called without arguments" if isinstance(error, TypeError) else f"{text} fails",
                    got=error_text(error),
                    expected="a function that gives a Keras model",
                    hint="run it in Python to see where it fails",
                ) from error
    if not isinstance(found, keras.Model):
        raise InputError(
            f"{text} is no Keras model",
            got=f"{type(found).__module__}.{type(found).__name__}",
            expected="a keras.Model of Keras 3, or a function that gives one",
            hint="build it with keras, not with tf_keras or another framework"
            if type(found).__module__.startswith("tf_keras")
            else "name another object",
        )
    return found


def error_text(error: BaseException) -> str:
    """An exception of the user's code in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removesuffix(": ")


def _fails(name: str, what: str, error: Exception) -> InputError:
    return InputError(
        f"the module {name} of {what} cannot be imported",
        got=error_text(error),
        expected="a module that Python can import",
        hint=f"try python -c 'import {name}'",
    )


@contextmanager
def _current_folder_first() -> Iterator[None]:
    # The command has its own folder on the path, not the user's.
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
