"""Any network of `keras.applications` as a backbone, with the normalisation that its weights expect inside.

Nothing here is a list of networks: names, sizes and normalisation are asked of Keras itself, so that those of a later
version are there as well.
"""

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.keras_backend import KerasLayer, KerasModel, import_tensorflow
from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.training.networks.weights.keras_weights import load_keras_weights
from edgeclf.training.networks.weights.layer_weights import PRETRAINED, RANDOM, Size

PREFIX = "keras:"
# For a network that does not say, as most are trained on it.
_USUAL_SIZE, _USUAL_MIN_SIZE = 224, 32
# Of ImageNet's pixels as shares of 255.
_DEVIATION_RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications`.

    Attributes:
        name: As Keras writes it.
        default_size: Height and width in pixels of the images its ImageNet weights were trained on.
        min_size: Smallest input height and width it accepts.
        function: Builds it.
    """

    name: str
    default_size: int
    min_size: int
    function: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Normalisation:
    """What a network does to RGB pixels before its first layer: `scale * pixel + offset` for each channel, then an order.

    Attributes:
        scale: (3,) float64, for R, G, B.
        offset: (3,) float64, for R, G, B.
        is_reversed: Whether the network takes the channels as B, G, R.
    """

    scale: Float64Array
    offset: Float64Array
    is_reversed: bool


def application_names() -> list[str]:
    """The names of all networks of `keras.applications`, sorted.

    Raises:
        MissingPackageError: TensorFlow is not installed.
    """
    import_tensorflow()
    from keras import applications

    return sorted(name for name in dir(applications) if name[0].isupper() and callable(getattr(applications, name)))


def get_application(name: str) -> Application:
    """Looks a network up.

    Args:
        name: As Keras writes it, in upper or lower case.

    Raises:
        UsageError: There is none of that name.
        MissingPackageError: TensorFlow is not installed.
    """
    names = {known.lower(): known for known in application_names()}
    exact = names.get(name.lower())
    if exact is None:
        # Those that were probably meant come first.
        first = [names[close] for close in difflib.get_close_matches(name.lower(), names, n=3)]
        raise UsageError(
            f"keras.applications has no network {name!r}",
            expected=" or ".join([*first, *(known for known in names.values() if known not in first)]),
            hint="choose one of them",
        )
    from keras import applications

    function = getattr(applications, exact)
    return Application(
        name=exact,
        # With its top, the weights of the one size it was trained on are all there is, and Keras names that size.
        default_size=_size_refusing(function, "should be ", _USUAL_SIZE, include_top=True, weights=PRETRAINED),
        min_size=_size_refusing(function, "at least ", _USUAL_MIN_SIZE, include_top=False, weights=None),
        function=function,
    )


def _size_refusing(function: Callable[..., Any], before: str, otherwise: int, **options: object) -> int:
    """The size that Keras names behind a phrase when it refuses an input of one pixel, before it builds or downloads."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(input_shape=(1, 1, 3), **options)
    except ValueError as error:
        found = re.search(re.escape(before) + r"\(?(\d+)", str(error))
        if found:
            return int(found[1])
    return otherwise


def build_application(name: str, size_hw: Size, weights: str | Path) -> KerasModel:
    """Builds a network of `keras.applications` up to its pooled features.

    Args:
        name: As Keras writes it, in upper or lower case.
        size_hw: Input height and width in pixels, None for any.
        weights: `imagenet`, which Keras downloads once; `none` for random ones; or a file of Keras weights.

    Returns:
        A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, F) out; frozen unless its weights are random.

    Raises:
        UsageError: There is no such network, or the size is too small for it.
        InputError: The weights cannot be downloaded or read, or do not fit.
        MissingPackageError: TensorFlow is not installed.
    """
    application = get_application(name)
    check_size(application, size_hw)
    from keras import Input, Model, layers

    normalisation = find_normalisation(application)
    scale, offset = normalisation.scale, normalisation.offset
    image = Input((*size_hw, 3), dtype="uint8", name="image")
    if np.ptp(scale) or np.ptp(offset):
        x = layers.Rescaling(scale.tolist(), offset=offset.tolist(), name="normalise")(image)
    else:
        x = layers.Rescaling(float(scale[0]), offset=float(offset[0]), name="normalise")(image)
    options = {"include_top": False, "pooling": "avg", "input_tensor": x}
    with warnings.catch_warnings():
        # That weights trained at 224 px are taken for another size is what transfer means.
        warnings.simplefilter("ignore")
        if weights == PRETRAINED:
            model = _download(application, options)
        else:
            model = application.function(weights=None, **options)
            if weights != RANDOM:
                load_keras_weights(model, Path(weights))
    model = _with_fixed_normalisation(model, from_file=weights not in {PRETRAINED, RANDOM})
    # Keras gives it a list of one input.
    model = Model(model.inputs[0], model.output, name=model.name)
    _name_by_position(model)
    if weights == RANDOM:
        # Nothing was learnt about an order of channels.
        return model
    if normalisation.is_reversed:
        _reverse_input_channels(model)
    model.trainable = False
    return model


def check_size(application: Application, size_hw: Size) -> None:
    """Refuses an input size that is too small for a network.

    Raises:
        UsageError: It is.
    """
    if any(side is not None and side < application.min_size for side in size_hw):
        raise UsageError(
            f"image size too small for {PREFIX}{application.name}",
            got=f"{size_hw[0]} x {size_hw[1]} px",
            expected=f"at least {application.min_size} px",
            hint="pass a larger --image-size",
        )


def find_normalisation(application: Application) -> Normalisation:
    """Reads what a network's `preprocess_input` does, by trying it on pixels.

    Raises:
        InputError: It is no affine map of each channel.
    """
    module = import_module(f"keras.applications.{application.function.__module__.rsplit('.', 1)[-1]}")
    # Black gives the offsets, red, green and blue the rest, and one more colour tells whether that is all.
    probes = np.zeros((5, 1, 1, 3))
    probes[1:4, 0, 0] = np.eye(3) * 255
    probes[4] = np.array([17.0, 101.0, 240.0])
    out = np.asarray(module.preprocess_input(probes.copy()), np.float64).reshape(5, 3)
    offset, slopes = out[0], (out[1:4] - out[0]).T / 255  # slopes: (channel out, channel in)
    is_reversed = bool(abs(slopes[0, 2]) > abs(slopes[0, 0]))
    if is_reversed:
        offset, slopes = offset[::-1], slopes[::-1]
    scale = slopes.diagonal()
    expected = (probes[4, 0, 0] * scale + offset)[:: -1 if is_reversed else 1]
    if not np.allclose(slopes, np.diag(scale), atol=1e-9) or not np.allclose(out[4], expected, rtol=1e-5, atol=1e-5):
        raise InputError(
            f"cannot use {PREFIX}{application.name}",
            got="a preprocess_input that is more than a scale and an offset for each channel",
            expected="an affine map",
            hint="choose another network",
        )
    return Normalisation(scale, offset, is_reversed)


def _download(application: Application, options: dict[str, Any]) -> KerasModel:
    from keras import config

    was_interactive = config.is_interactive_logging_enabled()
    # It would print its progress on standard output, which is for results.
    config.disable_interactive_logging()
    try:
        return application.function(weights=PRETRAINED, **options)
    except Exception as error:
        # Keras raises a bare Exception for a failed download, OSError when it breaks off, ValueError for a damaged one.
        if type(error) is not Exception and not isinstance(error, (OSError, ValueError)):
            raise
        raise InputError(
            f"cannot get the ImageNet weights of {PREFIX}{application.name}",
            got=str(error),
            expected="a download by Keras, or its file in ~/.keras/models",
            hint="connect to the Internet, pass a file with --weights FILE, or train from scratch with --weights none",
        ) from error
    finally:
        if was_interactive:
            config.enable_interactive_logging()


def _reverse_input_channels(model: KerasModel) -> None:
    """Lets a network trained on B, G, R take R, G, B: its first convolution is turned instead of every image."""
    first = next(layer for layer in model.layers if layer.weights)
    kernel, *rest = first.get_weights()
    if kernel.ndim != 4 or kernel.shape[2] != 3:
        raise ValueError(f"the first layer of {model.name} is no convolution of three channels: {first.name}")
    first.set_weights([kernel[:, :, ::-1, :], *rest])


def _with_fixed_normalisation(model: KerasModel, *, from_file: bool) -> KerasModel:
    """The network with a normalisation that is among its weights turned into constants.

    Keras's Normalization layer works with copies of its weights that `set_weights` leaves as they were.

    Args:
        model: A network whose weights are all there.
        from_file: Whether they come from a file. The published weights of EfficientNet B0 to B7 hold the standard
            deviation as the variance, which Keras mends by one more layer only when it downloads them itself.
    """
    from keras import layers, models

    def replace(layer: KerasLayer) -> KerasLayer:
        if not isinstance(layer, layers.Normalization) or not layer.weights:
            return type(layer).from_config(layer.get_config())
        values = {variable.name: np.float64(variable.numpy()) for variable in layer.weights}
        deviation = np.sqrt(values["variance"])
        if from_file and np.allclose(values["variance"], _DEVIATION_RGB, atol=1e-6):
            deviation = values["variance"]
        return layers.Rescaling(
            (1 / deviation).tolist(), offset=(-values["mean"] / deviation).tolist(), name="standardise"
        )

    if not any(isinstance(layer, layers.Normalization) and layer.weights for layer in model.layers):
        return model
    fixed = models.clone_model(model, clone_function=replace)
    for layer, source in zip(fixed.layers, model.layers, strict=True):
        if layer.weights:
            layer.set_weights(source.get_weights())
    return fixed


def _name_by_position(model: KerasModel) -> None:
    """Renames layers that Keras named by counting all it ever built in this process, so that each build is the same."""
    counts: Counter[str] = Counter()
    for layer in model.layers:
        # Keras's own way from a class to a name: BatchNormalization, Conv2D to batch_normalization, conv2d.
        base = re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        if re.fullmatch(rf"{base}(_\d+)?", layer.name):
            layer.name = f"{base}_{counts[base]}" if counts[base] else base
            counts[base] += 1
