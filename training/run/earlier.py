"""The options of a training that goes on from an earlier run: those that the run decides, and those that contradict it."""

from dataclasses import replace

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.spec import INTERPOLATION_NAMES
from edgeclf.training.options import TrainOptions, options_from_json
from edgeclf.training.run.folder import RUN_FILE, Run, load_run


def open_earlier(options: TrainOptions) -> tuple[TrainOptions, Run | None]:
    """Opens the run that options go on from.

    Args:
        options: As the user gives them.

    Returns:
        The options with their network and all that the earlier run decides, and the run, None where there is none.

    Raises:
        UsageError: An option contradicts the earlier run.
        RunFolderError: The earlier run is missing, damaged, or of another version.
    """
    earlier = None if options.from_run is None else load_run(options.from_run)
    if earlier is None:
        # Beside a backbone from an ONNX file there is no other network.
        return options if options.backbone else replace(options, architecture=options.network), None
    return _inherit(options, earlier), earlier


def _inherit(options: TrainOptions, earlier: Run) -> TrainOptions:
    """The options with those that an earlier run decides: architecture, input size, fit mode and interpolation."""
    preprocess = earlier.spec.preprocess
    interpolation = next(name for name, value in INTERPOLATION_NAMES.items() if value == preprocess.interpolation)
    before = options_from_json(earlier.options, earlier.folder / RUN_FILE)
    # Of a backbone from an ONNX file, the run has the file, and its spec the name.
    architecture = earlier.spec.architecture if before.backbone is not None else before.network
    size = preprocess.size_hw[0]
    for flag, given, inherited in (
        ("--arch", options.architecture, architecture),
        ("--backbone", options.backbone, None),
        ("--weights", options.weights, None),
        ("--image-size", options.image_size, size),
        ("--fit", options.fit, preprocess.fit),
        ("--interpolation", options.interpolation, interpolation),
    ):
        if given is not None and given != inherited:
            raise UsageError(
                f"{flag} does not go with --from",
                got=str(given),
                expected=f"{inherited}, as in {earlier.folder}" if inherited else "none: the run has its network",
                hint=f"leave {flag} out",
            )
    # A run that was trained from random weights is trained on as a whole.
    weights = "none" if before.weights == "none" else None
    return replace(
        options,
        architecture=architecture,
        weights=weights,
        image_size=size,
        fit=preprocess.fit,
        interpolation=interpolation,
    )
