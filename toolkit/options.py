"""Options that several commands share, and the values they stand for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from edgeclf.export import ParityLimits
    from edgeclf.runtime import DeviceChoice


def output_file(example: str, *, may_be_stdout: bool = False) -> "Callable[[str], Path]":
    """Parser of an option that names a file to be written.

    Args:
        example: The name that its error suggests.
        may_be_stdout: Whether `-` is meant as stdout; else it is refused, as a file of that name is nobody's wish.
    """

    def path(text: str) -> Path:
        from edgeclf.runtime.errors import OutputError
        from edgeclf.runtime.files import file_to_write

        if text == "-" and not may_be_stdout:
            raise OutputError(
                "cannot write to stdout", got="-", expected="a file path", hint=f"name a file, such as {example}"
            )
        return file_to_write(text, example)

    return path


def output_png(flag: str, example: str) -> "Callable[[str], Path]":
    """Parser of an option that names a PNG file to be drawn."""
    parse = output_file(example)

    def path(text: str) -> Path:
        from edgeclf.runtime.errors import UsageError

        png = parse(text)
        if png.suffix.lower() != ".png":
            raise UsageError(
                f"bad {flag}", got=text, expected="a file name that ends in .png", hint=f"name one, such as {example}"
            )
        return png

    return path


# Beyond: 136 years of seconds, more images than anybody has; the clocks of the system overflow soon after.
_LARGEST_NUMBER = 2**32


def refuse_absurd_numbers(command: Any) -> None:  # noqa: ANN401 - Typer's own Click types have no public name
    """Makes a loaded sub-command refuse infinity, not-a-number and astronomic values of every numeric option it has.

    Each option's own range stands beside it; this is what holds for all, so that no option is forgotten.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in command.params}
    run = command.callback

    def checked(**values: object) -> object:
        from edgeclf.runtime.errors import UsageError

        for name, value in values.items():
            # Comparison with a NaN is false.
            if isinstance(value, int | float) and not -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER:
                raise UsageError(
                    f"bad {flags[name]}", got=str(value), expected=f"a number of at most {_LARGEST_NUMBER}"
                )
        return run(**values)

    command.callback = checked


# What --help shows for a file, whatever parses it.
FILE_METAVAR = "<path>"
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto (cuda, directml, cpu: the first that works), cpu, cuda, tensorrt, openvino, coreml, directml, qnn or "
        "xnnpack. A device that is not there is an error; edgeclf info --devices says which are.",
    ),
]
ProviderOptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--provider-option",
        metavar="KEY=VALUE",
        help="A setting of the device's ONNX Runtime provider, such as device_type=GPU for openvino; repeatable.",
        show_default=False,
    ),
]
EngineCacheOption = Annotated[
    Path | None,
    typer.Option(
        "--engine-cache",
        help="tensorrt: where built engines are kept (~/.cache/edgeclf/engines).",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Threads inside one inference. Default: the CPUs this process may use.",
        show_default=False,
    ),
]
CustomObjectsOption = Annotated[
    str | None,
    typer.Option(
        "--custom-objects",
        help="Keras file: the Python module with its custom layers and functions, importable from the current folder.",
        metavar="MODULE",
        show_default=False,
    ),
]
SignatureOption = Annotated[
    str | None,
    typer.Option(
        "--signature",
        help="SavedModel: its signature. Default: serving_default, or the only one.",
        show_default=False,
    ),
]
UnsafeLoadOption = Annotated[
    bool,
    typer.Option(
        "--unsafe-load",
        help="Keras file, SavedModel: open it even if that runs Python code in it. Only for files whose makers you trust.",
    ),
]
IgnoreUnreadableOption = Annotated[
    bool,
    typer.Option("--ignore-unreadable", help="End with exit code 0 although some images could not be read."),
]

CacheFolderOption = Annotated[
    Path | None,
    typer.Option("--cache-folder", help="Where preprocessed images are kept (~/.cache/edgeclf).", show_default=False),
]
CacheSizeOption = Annotated[
    str | None,
    typer.Option(
        "--cache-size",
        help="Size the cache folder is kept to, such as 500MB (20GB); what was not used for longest goes.",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str,
    typer.Option(
        "--split",
        help="Which of the images: auto (without those that trained or validated the model, told by their content; of "
        "train/ and test/ folders, test), train, val, test or all.",
    ),
]
MinAgreementOption = Annotated[
    float | None,
    typer.Option(
        "--min-agreement",
        min=0.0,
        max=1.0,
        help="int8, fp16: lowest top-1 agreement, the fraction of images with the same label, as measured; with 0.01 for "
        "--max-accuracy-drop, in place of the default rule (or, for verify, of what the file was written with).",
        show_default=False,
    ),
]
MaxAccuracyDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop",
        min=0.0,
        max=1.0,
        help="int8, fp16: highest loss of top-1 accuracy, as measured; with 0.99 for --min-agreement, in place of the default "
        "rule (or, for verify, of what the file was written with).",
        show_default=False,
    ),
]


def given_limits(min_agreement: float | None, max_accuracy_drop: float | None) -> "ParityLimits | None":
    """The limits that were asked for; None where neither was given.

    One alone brings the other's old default with it, so that no file passes that did not.
    """
    from edgeclf.export import INT8_LIMITS, ParityLimits

    if min_agreement is None and max_accuracy_drop is None:
        return None
    return ParityLimits(
        INT8_LIMITS.min_agreement if min_agreement is None else min_agreement,
        max_accuracy_drop=INT8_LIMITS.max_accuracy_drop if max_accuracy_drop is None else max_accuracy_drop,
    )


def refuse_idle_limits(limits: "ParityLimits | None", *precisions: str) -> None:
    """Refuses limits of the user's own between models in fp32, which must give the same whatever is asked for.

    Args:
        limits: What `given_limits` gave.
        precisions: Those of the two models.

    Raises:
        UsageError: There are limits, and both are fp32.
    """
    from edgeclf.runtime.errors import UsageError

    if limits is not None and set(precisions) == {"fp32"}:
        raise UsageError(
            "--min-agreement and --max-accuracy-drop are for int8 and fp16 files",
            got="two fp32 models, which have to give the same",
            hint="leave them out",
        )


def refuse_idle(options: "Mapping[str, object]", place: str, *, hint: str = "leave it out") -> None:
    """Refuses options that would do nothing.

    Args:
        options: Values by option; None, False, an empty list and `auto` stand for one that is not given.
        place: Where they do nothing, such as `with --emulate`.
        hint: What to do about that.

    Raises:
        UsageError: One of them is given.
    """
    from edgeclf.runtime.errors import UsageError

    for option, value in options.items():
        if value is not None and value is not False and value not in ([], "auto"):
            raise UsageError(f"{option} does nothing {place}", hint=hint)


def refuse_beside(context: typer.Context, flag: str, place: str, allowed: "Collection[str]" = ()) -> None:
    """Refuses whatever else is given where one option says all that the command does.

    Args:
        context: The command's, which knows what was typed.
        flag: The option.
        place: What the command does with it, such as `which lists the checks`.
        allowed: Names of the parameters that go with it; `--json` does.

    Raises:
        UsageError: Another one is given.
    """
    from edgeclf.runtime.errors import UsageError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name == "COMMANDLINE"
        if is_given and parameter.opts[0] != flag and parameter.name not in {"as_json", *allowed}:
            name = parameter.opts[0]
            shown = name if name.startswith("-") else str(parameter.metavar or name.upper())
            raise UsageError(f"{shown} does nothing beside {flag}, {place}", got="both", hint=f"leave {shown} out")


def chosen_device(device: str, provider_options: "Sequence[str] | None", engine_cache: Path | None) -> "DeviceChoice":
    """Device choice from `--device`, `--provider-option` and `--engine-cache`.

    Raises:
        UsageError: There is no such device, an option cannot be read, or one does not go with the device.
    """
    from edgeclf.runtime import DeviceChoice
    from edgeclf.runtime.errors import UsageError

    options: dict[str, str] = {}
    for text in provider_options or ():
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise UsageError("bad --provider-option", got=repr(text), expected="KEY=VALUE, such as device_type=GPU")
        options[key.strip()] = value.strip()
    return DeviceChoice(device, options, engine_cache)
