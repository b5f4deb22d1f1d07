"""The networks that can be trained, each a small readable function, and what they need.

Every network takes uint8 (None, H, W, 3) RGB named `image`, normalises inside, and ends in a dense layer `logits` and a
softmax `probabilities`, so that a saved model needs nothing but Keras and pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeclf.export._packages import import_tensorflow
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.spec import FitMode
from edgeclf.training.efficientnet_lite import build_lite0_backbone, lite0_weights_path


@dataclass(frozen=True)
class Recipe:
    """Training options that suit an architecture, each overridable on the command line.

    Attributes:
        epochs: Most epochs.
        batch_size: Images in one step.
        optimizer: Name of a Keras optimizer.
        learning_rate: Its learning rate.
        patience: Epochs without a better validation loss before training stops.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    patience: int


@dataclass(frozen=True)
class Architecture:
    """A network that `edgeclf train --arch` knows.

    Attributes:
        name: As it is typed.
        description: One line.
        default_size: Input height and width in pixels where none is given.
        min_size: Smallest input height and width it accepts.
        default_fit: How images become square where nothing is said. Features learnt on undistorted photographs suffer
            from stretching: with the frozen EfficientNet-Lite0, 5-fold cross-validation on 2,000 photographs of cats
            and dogs, three times over, gave 0.991 for crop, 0.987 for stretch and 0.985 for letterbox.
        recipe: Options that suit it.
        build_backbone: For a pretrained network, makes the frozen part from the input size: images to (None, F).
        build: For a network trained from scratch, makes all of it from the input size and the number of classes.
        check_available: Raises MissingPackageError where a package it needs besides TensorFlow is missing.
    """

    name: str
    description: str
    default_size: int
    min_size: int
    default_fit: FitMode
    recipe: Recipe
    build_backbone: Callable[[tuple[int, int]], Any] | None = None
    build: Callable[[tuple[int, int], int], Any] | None = None
    check_available: Callable[[], object] = lambda: None


def get_architecture(name: str) -> Architecture:
    """Looks an architecture up.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"unknown architecture {name!r}", expected=" or ".join(ARCHITECTURES), do="choose one of them")
    return ARCHITECTURES[name]


def build_head(features: int, classes: int) -> Any:  # noqa: ANN401 - keras carries no types
    """The trained part behind a frozen backbone: (None, features) float32 to (None, classes) probabilities."""
    import_tensorflow()
    from keras import Input, Model, layers

    inputs = Input((features,), name="features")
    x = layers.Dropout(0.2, name="dropout")(inputs)
    x = layers.Dense(classes, name="logits")(x)
    return Model(inputs, layers.Softmax(name="probabilities")(x), name="head")


def assemble(backbone: Any, head: Any) -> Any:  # noqa: ANN401
    """One flat model from a backbone and the head that was trained on its features; it shares their weights."""
    from keras import Model

    x = backbone.output
    for layer in head.layers[1:]:
        x = layer(x)
    return Model(backbone.input, x, name=backbone.name)


def without_optimizer(network: Any) -> Any:  # noqa: ANN401
    """The same layers as a model that is not compiled: the optimizer's state would be saved with it, thrice its size."""
    from keras import Model

    return Model(network.input, network.output, name=network.name)


def build_seed_cnn(size_hw: tuple[int, int], classes: int) -> Any:  # noqa: ANN401
    """Five stages of convolution, pooling and dropout, then two dense layers: 273,330 parameters at 120 px, 2 classes."""
    import_tensorflow()
    from keras import Input, Model, layers

    image = Input((*size_hw, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="normalise")(image)
    for number, (filters, kernel) in enumerate(((16, 6), (32, 5), (64, 4), (128, 3), (256, 2)), start=1):
        x = layers.Conv2D(filters, kernel, activation="relu", name=f"conv{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
        x = layers.Dropout(0.2, name=f"dropout{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    for number in (1, 2):
        x = layers.Dense(64, activation="relu", name=f"dense{number}")(x)
        x = layers.Dropout(0.5, name=f"dense_dropout{number}")(x)
    x = layers.Dense(classes, name="logits")(x)
    return Model(image, layers.Softmax(name="probabilities")(x), name="seed_cnn")


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="efficientnet-lite0",
            description="pretrained on ImageNet and frozen, a new head is trained; 3.4 million parameters (default)",
            default_size=224,
            min_size=32,
            default_fit="crop",
            recipe=Recipe(epochs=50, batch_size=64, optimizer="adam", learning_rate=1e-3, patience=10),
            build_backbone=build_lite0_backbone,
            check_available=lite0_weights_path,
        ),
        Architecture(
            name="seed-cnn",
            description="a plain CNN from scratch; 273,330 parameters at 120 px and two classes",
            default_size=120,
            min_size=89,
            default_fit="stretch",
            recipe=Recipe(epochs=30, batch_size=16, optimizer="nadam", learning_rate=1e-3, patience=10),
            build=build_seed_cnn,
        ),
    )
}
DEFAULT_ARCHITECTURE = "efficientnet-lite0"
