"""One entrance for all Keras models of others: a file, a SavedModel folder, or `module:name` becomes a network."""

import importlib.metadata
from pathlib import Path

from edgeclf.export.graph.layer_names import trace_by_layer
from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.export.source.keras_files import saved_model
from edgeclf.export.source.keras_files.custom_objects import (
    custom_objects_of,
    import_model,
    import_user_module,
    module_file,
)
from edgeclf.export.source.keras_files.kinds import KerasOptions, keras_kind
from edgeclf.export.source.keras_files.loading import load_keras_file
from edgeclf.export.source.keras_files.model_config import read_model_config
from edgeclf.export.source.keras_files.network import KerasNetwork, TensorOfNetwork
from edgeclf.runtime.errors import InputError, ModelFileError, UsageError


def open_keras_network(source: Path | str, options: KerasOptions | None = None) -> KerasNetwork:
    """Opens a Keras model of others, for inference; code inside a file is not run.

    Args:
        source: A `.keras` or `.h5` file, a SavedModel folder, or `module:name` of a model or of a function that gives one.
        options: What the user says of it.

    Raises:
        UsageError: An option does not go with the kind of the source, or names something that does not exist.
        ModelFileError: It cannot be opened, or has code in it or layers that are not known.
        InputError: The user's module cannot be imported, or its function fails.
        MissingPackageError: TensorFlow is not installed.
    """
    options = options or KerasOptions()
    kind = keras_kind(source)
    if kind is None:
        raise ValueError(f"no Keras model: {source}")
    if options.signature is not None and kind != "SavedModel":
        raise UsageError("--signature is for SavedModel folders", got=f"a {kind}", hint="leave --signature out")
    if kind == "SavedModel":
        if options.custom_objects is not None:
            raise UsageError(
                "--custom-objects is for .keras and .h5 files",
                got="a SavedModel, which has the graph of every layer",
                hint="leave --custom-objects out",
            )
        return _of_saved_model(Path(source), options)
    if kind == "Python object":
        for flag, is_given in {
            "--custom-objects": options.custom_objects is not None,
            "--unsafe-load": options.is_trusted,
        }.items():
            if is_given:
                raise UsageError(
                    f"{flag} is for files", got="a Python object, whose module has all of it", hint=f"leave {flag} out"
                )
        model = import_model(str(source), "SOURCE")
        return _of_model(Path(source), module_file(str(source)), model, producer="")
    path = Path(source)
    known = {}
    if options.custom_objects is not None:
        known = custom_objects_of(import_user_module(options.custom_objects, "--custom-objects"))
    model = load_keras_file(path, custom_objects=known, is_trusted=options.is_trusted)
    version = read_model_config(path).version
    return _of_model(path, path, model, producer=f"Keras {version}" if version else "Keras")


def _of_model(path: Path, record_path: Path, model: KerasModel, *, producer: str) -> KerasNetwork:
    from edgeclf.export.graph.convert import large_kernels

    given = _input_of(path, model)
    scoped, operations = trace_by_layer(model)
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) > 1:
        shown = ", ".join(f"{item.name} {tuple(item.shape)}" for item in inputs)
        raise ModelFileError(
            f"{path} is not an image classifier that edgeclf can run",
            got=f"{len(inputs)} inputs: {shown}",
            expected="images as its only input",
            hint="export the part of it that takes images alone",
        )

    def call(image: object) -> tuple[object, ...]:
        import keras

        return tuple(keras.tree.flatten(scoped(image, training=False)))

    names = _output_names(model)
    return KerasNetwork(
        path=path,
        record_path=record_path,
        name=path.name,
        runtime=f"keras {importlib.metadata.version('keras')}",
        producer=producer,
        input=given,
        outputs=names,
        call=call,
        operations=operations,
        kernels=large_kernels(model),
    )


def _input_of(path: Path, model: KerasModel) -> TensorOfNetwork:
    inputs = getattr(model, "inputs", None)
    if inputs:
        return TensorOfNetwork(_plain(inputs[0].name), str(inputs[0].dtype), (None, *inputs[0].shape[1:]))
    # A subclass has no list of inputs, but knows the shape that it was built with.
    built = model.get_build_config() if model.built else None
    shape = (built or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or not all(side is None or isinstance(side, int) for side in shape):
        raise InputError(
            f"{path} does not say what it takes",
            got="a subclass of keras.Model that has not been called",
            expected="a model with an Input, or one that was called with images",
            hint="call it once before it is saved or returned: model(keras.Input((224, 224, 3)))",
        )
    return TensorOfNetwork("image", "float32", (None, *shape[1:]))


def _output_names(model: KerasModel) -> tuple[str, ...]:
    import keras

    outputs = getattr(model, "outputs", None)
    if outputs:
        names = getattr(model, "output_names", None) or [f"output_{index}" for index in range(len(outputs))]
        return tuple(_plain(name) for name in names)
    shape = model.get_build_config()["input_shape"]
    given = model.compute_output_spec(keras.KerasTensor((1, *shape[1:])))
    return tuple(f"output_{index}" for index in range(len(keras.tree.flatten(given))))


def _plain(name: str) -> str:
    return name.split(":", 1)[0]


def _of_saved_model(folder: Path, options: KerasOptions) -> KerasNetwork:
    tensorflow = import_tensorflow()
    signature = saved_model.open_saved_model(folder, signature=options.signature, is_trusted=options.is_trusted)
    if len(signature.inputs) != 1:
        shown = ", ".join(f"{name} {tuple(item.shape)}" for name, item in signature.inputs.items())
        raise ModelFileError(
            f"{folder} is not an image classifier that edgeclf can run",
            got=f"signature {signature.name} with {len(signature.inputs)} inputs{': ' if shown else ''}{shown}",
            expected="images as its only input",
            hint="pass --signature NAME for another one, or save it with such a signature",
        )
    ((name, item),) = signature.inputs.items()
    if item.shape.rank is None:
        raise ModelFileError(
            f"{folder} takes tensors of any shape", got="an input of unknown rank", expected="images (N, H, W, C)",
            hint="save it with a signature whose TensorSpec has a shape",
        )  # fmt: skip

    def call(image: object) -> tuple[object, ...]:
        given = signature.function(**{name: image})
        return tuple(given[output] for output in signature.outputs)

    return KerasNetwork(
        path=folder,
        record_path=folder,
        name=folder.name,
        runtime=f"tensorflow {tensorflow.__version__}",
        producer=f"TensorFlow {signature.writer}" if signature.writer else "TensorFlow",
        input=TensorOfNetwork(_plain(name), item.dtype.name, tuple(item.shape)),
        outputs=tuple(signature.outputs),
        call=call,
    )
