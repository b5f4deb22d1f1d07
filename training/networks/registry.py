"""The registry of networks: how each is built, its weights, and its default options.

Every network takes uint8 (None, H, W, 3) RGB named `image`, normalises inside, and ends in a dense layer `logits` and a
softmax `probabilities`, so that a saved model needs nothing but Keras and pixels.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.spec import FitMode
from edgeclf.training.networks.efficientnet_lite import VARIANTS, build_lite_backbone, read_lite_weights
from edgeclf.training.networks.keras_applications import PREFIX, build_application, get_application
from edgeclf.training.networks.normalisation import follow_statistics
from edgeclf.training.networks.onnx_backbone import PREFIX as ONNX_PREFIX
from edgeclf.training.networks.onnx_backbone import OnnxBackbone
from edgeclf.training.networks.own_network import build_own_network, is_own_network, own_custom_objects, own_function
from edgeclf.training.networks.resnet8 import build_resnet8
from edgeclf.training.networks.seed_cnn import build_seed_cnn
from edgeclf.training.networks.small_cnn import build_small_cnn
from edgeclf.training.networks.weights.layer_weights import PRETRAINED, RANDOM, LayerWeights, Size, WriteBackbone
from edgeclf.training.networks.weights.lite_weights import lite_weights_path
from edgeclf.training.networks.weights.model_file_weights import fill_by_name
from edgeclf.training.options import Recipe
from edgeclf.training.recipes import FROM_SCRATCH, HEAD, SEED_CNN, SMALL_CNN

if TYPE_CHECKING:
    from edgeclf.export._onnx import onnx


@dataclass(frozen=True)
class Architecture:
    """A network that `edgeclf train --arch` knows.

    Attributes:
        name: As it is typed.
        description: One line.
        default_size: Input height and width in pixels where none is given.
        min_size: Smallest input height and width it accepts.
        default_fit: Fit mode where none is given. Features trained on undistorted photographs suffer from stretching
            (benchmarks/README.md, Choices that were measured).
        recipe: Default options of its fit: of its head where it is frozen, else of all of it.
        dropout: Whether it has dropout layers of its own; the head of a backbone has one.
        takes_batch_norm: Whether batch normalisation can be put between its layers: it has none.
        any_size: Whether its weights serve images of any size.
        build_backbone: For a network with pretrained weights, makes all but its head from the input size and the
            weights (`imagenet`, `none` or a file): images to (None, F).
        build: For a network without, makes all of it from the input size and the number of classes.
        read_weights: For a backbone whose ONNX can be written without Keras, reads the weights; gives None for a file of
            them that needs Keras.
        write_backbone: For the same, writes it from its name, the input size and the weights.
        check_available: For the weights asked for, raises MissingPackageError where a package they come in is missing,
            and InputError where they cannot be downloaded or a file of them cannot be used, before images are read.
        is_own: Whether the user wrote it, so that building it may fail.
        custom_objects: The custom classes and functions of its layers, by their names.
    """

    name: str
    description: str
    default_size: int
    min_size: int
    default_fit: FitMode
    recipe: Recipe
    dropout: bool = False
    takes_batch_norm: bool = False
    any_size: bool = True
    build_backbone: Callable[[Size, str | Path], KerasModel] | None = None
    build: Callable[[Size, int], KerasModel] | None = None
    read_weights: Callable[[str | Path], LayerWeights | None] | None = None
    write_backbone: WriteBackbone | None = None
    check_available: Callable[[str | Path], object] = lambda _: None
    is_own: bool = False
    custom_objects: Callable[[], dict[str, Any]] = dict

    @property
    def pretrained(self) -> bool:
        """Whether there are pretrained weights of it."""
        return self.build_backbone is not None

    @property
    def has_dropout(self) -> bool:
        """Whether there is dropout in what is trained."""
        return self.pretrained or self.dropout

    def recipe_for(self, weights: str | Path) -> Recipe:
        """Options that suit it with these weights: from random ones all of it is trained, and its head's do not do."""
        return FROM_SCRATCH if self.pretrained and weights == RANDOM else self.recipe

    def build_network(self, size_hw: Size, classes: int, weights: str | Path) -> KerasModel:
        """All of the network, to be trained as a whole.

        Args:
            size_hw: Input height and width in pixels, None for any.
            classes: C.
            weights: Of its backbone, where it has one; of any other network `none`, or a saved Keras model, of which layers
                of the same name and shapes are taken.

        Raises:
            InputError: The weights cannot be read, or are of another network.
            ModelFileError: The saved model cannot be opened.
            EdgeclfError: As the user's own function.
        """
        if self.build is not None:
            network = self.build(size_hw, classes)
            if weights != RANDOM:
                fill_by_name(network, Path(weights), custom_objects=self.custom_objects())
            return network
        if self.build_backbone is None:
            raise ValueError(f"architecture {self.name} has nothing to build")
        backbone = self.build_backbone(size_hw, weights)
        network = assemble(backbone, build_head(backbone.output_shape[-1], classes))
        if weights == RANDOM:
            follow_statistics(network)
        return network


def get_architecture(name: str) -> Architecture:
    """Looks an architecture up.

    Raises:
        UsageError: There is none of that name.
        MissingPackageError: It is a `keras:NAME` and TensorFlow is not installed.
    """
    if name.startswith(ONNX_PREFIX):
        return onnx_architecture(name)
    if name.startswith(PREFIX):
        return _keras_architecture(name.removeprefix(PREFIX))
    if is_own_network(name):
        return _own_architecture(name)
    if name not in ARCHITECTURES:
        # The one that was probably meant comes first.
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        known = [*close, *(other for other in ARCHITECTURES if other not in close)]
        raise UsageError(
            f"unknown architecture {name!r}",
            expected=f"{', '.join(known)}, keras:NAME or module:function",
            hint="see edgeclf train --list",
        )
    return ARCHITECTURES[name]


def _keras_architecture(name: str) -> Architecture:
    application = get_application(name)
    smallest = (application.min_size, application.min_size)

    def check(weights: str | Path) -> None:
        if weights != RANDOM:
            build_application(application.name, smallest, weights)

    return Architecture(
        name=f"{PREFIX}{application.name}",
        description="from keras.applications, pretrained on ImageNet",
        default_size=application.default_size,
        min_size=application.min_size,
        default_fit="crop",
        recipe=HEAD,
        build_backbone=partial(build_application, application.name),
        check_available=check,
    )


def onnx_architecture(name: str, backbone: OnnxBackbone | None = None) -> Architecture:
    """A frozen backbone that came from an ONNX file.

    Args:
        name: As its runs record it.
        backbone: The backbone; None where an earlier run has it.
    """

    def build(_size_hw: Size, _weights: str | Path) -> KerasModel:
        if backbone is None:
            raise ValueError(f"the backbone {name} lies in its run")
        return backbone.build()

    return Architecture(
        name=name,
        description="from an ONNX file, frozen",
        default_size=224 if backbone is None else backbone.preprocess.size_hw[0],
        min_size=1,
        default_fit="crop",
        recipe=HEAD,
        any_size=False,
        build_backbone=build,
    )


def _own_architecture(name: str) -> Architecture:
    # The module is imported when the network is built, not to read about a run of it.
    return Architecture(
        name=name,
        description="a network of your own",
        default_size=_OWN_SIZE,
        min_size=1,
        default_fit="crop",
        recipe=FROM_SCRATCH,
        dropout=True,
        any_size=False,
        build=partial(build_own_network, name),
        check_available=lambda _: own_function(name),
        is_own=True,
        custom_objects=partial(own_custom_objects, name),
    )


def build_head(features: int, classes: int) -> KerasModel:
    """The trained part behind a frozen backbone: (None, features) float32 to (None, classes) probabilities."""
    import_tensorflow()
    from keras import Input, Model, layers

    inputs = Input((features,), name="features")
    x = layers.Dropout(0.2, name="head_dropout")(inputs)
    x = layers.Dense(classes, name="logits")(x)
    return Model(inputs, layers.Softmax(name="probabilities")(x), name="head")


def assemble(backbone: KerasModel, head: KerasModel) -> KerasModel:
    """One flat model from a backbone, whose weights it shares, and a copy of the head trained on its features."""
    from keras import Model

    x = backbone.output
    for layer in head.layers[1:]:
        # Shared with the head, a layer would have two inputs, and which one it is asked for be left to chance.
        copy = type(layer).from_config(layer.get_config())
        x = copy(x)
        copy.set_weights(layer.get_weights())
    return Model(backbone.input, x, name=backbone.name)


# Five halvings leave one pixel.
_LITE_MIN_SIZE = 32
# Of a network that the user wrote, where no size is given.
_OWN_SIZE = 224


def _write_lite(name: str, size_hw: tuple[int, int], weights: LayerWeights) -> "onnx.ModelProto":
    # Imports the onnx package, which only training needs.
    from edgeclf.training.networks.lite_onnx import lite_backbone_onnx

    return lite_backbone_onnx(name, size_hw, weights)


def _lite(name: str, description: str) -> Architecture:
    def check(weights: str | Path) -> None:
        if weights == PRETRAINED:
            lite_weights_path(name)
        elif weights != RANDOM:
            build_lite_backbone(name, (_LITE_MIN_SIZE, _LITE_MIN_SIZE), weights)

    return Architecture(
        name=name,
        description=description,
        default_size=VARIANTS[name].size,
        min_size=_LITE_MIN_SIZE,
        default_fit="crop",
        recipe=HEAD,
        build_backbone=partial(build_lite_backbone, name),
        read_weights=partial(read_lite_weights, name),
        write_backbone=_write_lite,
        check_available=check,
    )


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _lite("efficientnet-lite0", "pretrained on ImageNet; 3.4 million parameters (default)"),
        _lite("efficientnet-lite1", "pretrained on ImageNet; 4.2 million parameters, 1.6 times the work"),
        _lite("efficientnet-lite2", "pretrained on ImageNet; 4.9 million parameters, 2.2 times the work"),
        Architecture(
            name="small-cnn",
            description="from scratch, for few photographs and quick int8; 256,050 parameters at two classes",
            default_size=120,
            min_size=32,
            default_fit="stretch",
            recipe=SMALL_CNN,
            build=build_small_cnn,
        ),
        Architecture(
            name="seed-cnn",
            description="a plain CNN from scratch; 273,330 parameters at 120 px and two classes",
            default_size=120,
            min_size=89,
            default_fit="stretch",
            recipe=SEED_CNN,
            dropout=True,
            takes_batch_norm=True,
            any_size=False,
            build=build_seed_cnn,
        ),
        Architecture(
            name="resnet8",
            description="from scratch, MLPerf Tiny's network for images of 32 px; 78,666 parameters at ten classes",
            default_size=32,
            min_size=8,
            default_fit="stretch",
            recipe=FROM_SCRATCH,
            build=build_resnet8,
        ),
    )
}
