"""Options for model files without an edgeclf spec, which several commands share, and what users are told of such files."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from edgeclf.toolkit.console import note

if TYPE_CHECKING:
    from edgeclf.export.source.keras_files.kinds import KerasOptions
    from edgeclf.export.source.keras_files.network import KerasReference
    from edgeclf.runtime import ForeignModel, ModelSession
    from edgeclf.runtime.session.foreign.use import ModelUse

# What others made, run by ONNX Runtime or by Keras.
_Opened = TypeVar("_Opened", "ModelSession", "KerasReference", "ModelSession | KerasReference")

LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="File without a spec: class names, one a line (numbered or not), or a .json file. Default: what is found in or "
        "beside the model, else indices.",
        show_default=False,
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="File without a spec: imagenet, keras-tf, keras-caffe, ultralytics, teachable-machine, or timm, which reads the "
        "config.json beside the model. The options below win over it.",
        show_default=False,
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean",
        help="File without a spec, float input: R,G,B subtracted from the pixels, or one number; of pixels 0..255, or of 0..1 "
        "where --std is below 1.",
        show_default=False,
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option(
        "--std",
        help="File without a spec, float input: R,G,B the difference is divided by, or one number.",
        show_default=False,
    ),
]
FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit", help="File without a spec: crop, stretch or letterbox. Default: stretch.", show_default=False
    ),
]
CropFractionOption = Annotated[
    float | None,
    typer.Option(
        "--crop-fraction",
        help="File without a spec, --fit crop: share of the central region that is kept, such as 0.875.",
        show_default=False,
    ),
]
PadValueOption = Annotated[
    int | None,
    typer.Option(
        "--pad-value",
        help="File without a spec, --fit letterbox: grey value of the padding, 0 (black) to 255. Default: 114.",
        show_default=False,
    ),
]
InterpolationOption = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        help="File without a spec: area, or bilinear or bicubic as Pillow has them. Default: area.",
        show_default=False,
    ),
]
ChannelsOption = Annotated[
    str | None,
    typer.Option("--channels", help="File without a spec: rgb or bgr. Default: rgb.", show_default=False),
]
ForeignSizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        help="File without a spec whose input leaves it free: 224, or HEIGHTxWIDTH such as 192x256 (or 192,256).",
        show_default=False,
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option("--output", help="File without a spec: name of the output with the classes.", show_default=False),
]
ActivationOption = Annotated[
    str | None,
    typer.Option(
        "--output-activation",
        help="File without a spec: what its output has been through, softmax, sigmoid, none (a softmax follows) or "
        "sigmoid-logits (a sigmoid follows). Default: read from the graph, else measured.",
        show_default=False,
    ),
]


def foreign_model(
    labels: LabelsOption = None,
    preprocess: PreprocessOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    fit: FitOption = None,
    crop_fraction: CropFractionOption = None,
    pad_value: PadValueOption = None,
    interpolation: InterpolationOption = None,
    channels: ChannelsOption = None,
    image_size: ForeignSizeOption = None,
    output: OutputOption = None,
    output_activation: ActivationOption = None,
) -> "ForeignModel":
    """What the options say of a foreign model; an empty one where none is given.

    Raises:
        UsageError: An option cannot be read, or only one of mean and std is given.
        InputError: The labels file cannot be read or is empty.
    """
    from edgeclf.runtime import ForeignModel, PixelScaling
    from edgeclf.runtime.errors import UsageError

    names: tuple[str, ...] = ()
    if labels is not None:
        from edgeclf.runtime.session.foreign.labels import read_labels

        names, text = read_labels(labels)
        if text is not None:
            note(text)
    if (mean is None) != (std is None):
        raise UsageError("incomplete pixel scaling", got="one of --mean and --std", expected="both or neither")
    return ForeignModel(
        labels=names,
        scaling=None if mean is None or std is None else PixelScaling(_numbers("--mean", mean), _numbers("--std", std)),
        preset=preprocess,
        fit=fit,  # type: ignore[arg-type]  # checked there
        crop_fraction=crop_fraction,
        pad_value=pad_value,
        interpolation=interpolation,
        channels=channels,
        image_size=None if image_size is None else _size(image_size),
        output=output,
        activation=output_activation,
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from edgeclf.runtime.errors import UsageError

    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in {1, 3}:
        raise UsageError(
            f"bad {option}", got=repr(text), expected="three numbers such as 127.5,127.5,127.5, or one for all channels"
        )
    return numbers


def _size(text: str) -> tuple[int, int]:
    from edgeclf.runtime.errors import UsageError

    match = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*[,x]\s*([0-9]{1,9}))?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(
            "bad --image-size",
            got=repr(text),
            expected="224, or HEIGHTxWIDTH, the height first, such as 192x256 for a picture wider than high",
        )
    return int(match[1]), int(match[2] or match[1])


def option_words(said: Mapping[str, object]) -> dict[str, str]:
    """The options as they were typed: values by option, of those that were given.

    Args:
        said: Values by parameter of `foreign_model`.
    """
    return {f"--{name.replace('_', '-')}": str(value) for name, value in said.items() if value is not None}


def takes_foreign_files(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `foreign_model`; it gets what they say in its parameter `foreign`.

    Args:
        command: A function whose parameters are options of Typer, but for `foreign`, and for `foreign_words` where it wants
            the options as they were typed.
    """
    own = inspect.signature(command)
    shared = inspect.signature(foreign_model)

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:  # noqa: ANN401 - options of every type
        said = {name: values.pop(name, item.default) for name, item in shared.parameters.items()}
        if "foreign_words" in own.parameters:
            values["foreign_words"] = option_words(said)
        command(**values, foreign=foreign_model(**said))

    parameters = [
        item.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for item in (*own.parameters.values(), *shared.parameters.values())
        if item.name not in {"foreign", "foreign_words"}
    ]
    # Typer reads both.
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {item.name: item.annotation for item in parameters}
    return wrapped


def no_options() -> "ForeignModel":
    """What is said of files without a spec where nothing is."""
    from edgeclf.runtime import ForeignModel

    return ForeignModel()


def note_use(*sessions: "ModelSession | KerasReference") -> None:
    """Says on stderr how files without a spec are used, and what of that is assumed."""
    for session in sessions:
        if session.use is not None:
            note_use_of(session.path, session.use)


def note_use_of(path: Path, use: "ModelUse") -> None:
    """The same of one file."""
    note(f"{path} has no edgeclf spec; {use.sentence()}")
    for text in use.notes:
        note(text)


def use_json(session: "ModelSession | KerasReference") -> dict[str, Any] | None:
    """How a file without a spec is used, as plain JSON values; None for one that has a spec."""
    return None if session.use is None else session.use.to_json()


def named_like(model: _Opened, other: Path, labels: Sequence[str]) -> _Opened:
    """The model with another's labels, where nothing names its own and both have as many: outputs are compared in order.

    Args:
        model: A model file, or a Keras model of others.
        other: The file or run that it is compared with.
        labels: The labels of that.
    """
    from dataclasses import replace

    use = model.use
    if use is None or use.origins["labels"] != "assumed" or len(model.spec.labels) != len(labels):
        return model
    if model.spec.labels == tuple(labels):
        return model
    note(f"nothing names the classes of {model.path}: the names of {other} are taken, in the same order")
    return model.used_as(
        replace(use, labels=tuple(labels), origins={**use.origins, "labels": f"as {other} names them"})
    )


def open_keras(
    source: Path, foreign: "ForeignModel", keras: "KerasOptions", others: Sequence[Path] = ()
) -> "KerasReference":
    """Opens a Keras model that others made as a classifier.

    Args:
        source: A `.keras` or `.h5` file, a SavedModel folder, or `module:name`.
        foreign: The options for files without a spec.
        keras: What is said of opening it.
        others: Files beside it, of which one may have been made of it.

    Raises:
        EdgeclfError: As `open_keras_reference`.
    """
    from edgeclf.export.source.keras_files.source import open_keras_reference

    return open_keras_reference(source, options_for(source, foreign, others), keras)


def labels_hint(*models: object) -> str:
    """What to do where class folders are not named as the classes of one of the models."""
    uses = [use for use in (getattr(model, "use", None) for model in models) if use is not None]
    if any(use.origins["labels"] == "assumed" for use in uses):
        return "pass --labels with the classes' names in the order of the outputs, as the folders are named"
    if uses:
        return "pass --labels with names as the folders have them, or rename the folders"
    return "rename the folders as the model names its classes"


def options_for(path: Path, foreign: "ForeignModel", others: Sequence[Path] = ()) -> "ForeignModel | None":
    """The options as they apply to one of several files: None where it has a spec.

    Args:
        path: The file.
        foreign: The options; where none is given, a file is used as the record of one that was made of it says.
        others: Files beside it, of which one may have been made of it.
    """
    if _recorded_spec(path) is not None:
        return None
    from edgeclf.export.source.keras_files.kinds import keras_kind
    from edgeclf.runtime.files import kind_of

    if foreign.is_empty and (kind_of(path) == "file" or keras_kind(path) == "SavedModel"):
        from edgeclf.export.source.record import recorded_use
        from edgeclf.runtime.errors import ModelFileError
        from edgeclf.runtime.spec import spec_from_json

        for other in others:
            try:
                text = _recorded_spec(other)
                found = None if text is None else recorded_use(spec_from_json(text, str(other)), path)
            except ModelFileError:
                # Opening it says why.
                continue
            if found is not None:
                note(f"{path} is used as {other} records, which was made of it")
                return found
    return foreign


def _recorded_spec(path: Path) -> str | None:
    """The spec in a file as text; None where it has none, or cannot be read: opening it says why."""
    from edgeclf.runtime.errors import ModelFileError
    from edgeclf.runtime.files import kind_of
    from edgeclf.runtime.session.graph_outline import read_graph_outline
    from edgeclf.runtime.spec import SPEC_KEY

    try:
        return None if kind_of(path) == "folder" else read_graph_outline(path).metadata.get(SPEC_KEY)
    except ModelFileError:
        return None


def refuse_idle_keras_options(keras: "KerasOptions", *sources: Path | str) -> None:
    """Raises UsageError where options for opening a Keras model are given and none of the sources is one."""
    from edgeclf.export.source.keras_files.kinds import keras_kind
    from edgeclf.runtime.errors import UsageError

    if any(keras_kind(source) is not None for source in sources):
        return
    if keras.custom_objects is not None or keras.signature is not None or keras.is_trusted:
        raise UsageError(
            f"{' and '.join(map(str, sources))} {'is' if len(sources) == 1 else 'are'} no Keras file and no SavedModel",
            got="--custom-objects, --signature or --unsafe-load",
            expected="none of them",
            hint="leave them out",
        )


def refuse_idle_options(foreign: "ForeignModel", models: Sequence[object]) -> None:
    """Raises UsageError where options are given for files without a spec and none of several models is one."""
    from edgeclf.runtime.errors import UsageError

    if not foreign.is_empty and not any(getattr(model, "is_foreign", False) for model in models):
        raise UsageError(
            "all models describe themselves",
            got="labels, pixel scaling or other options for files without a spec",
            expected="none for runs, and for files with an edgeclf spec",
            hint="leave them out",
        )
