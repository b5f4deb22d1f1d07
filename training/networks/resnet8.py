"""The image-classification network of MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597): a ResNet of eight layers."""

from edgeclf.export.keras_backend import KerasModel, KerasTensor, import_tensorflow
from edgeclf.training.networks.normalisation import BN_MOMENTUM
from edgeclf.training.networks.weights.layer_weights import Size


def build_resnet8(size_hw: Size, classes: int) -> KerasModel:
    """A 3 x 3 convolution, three residual stages of 16, 32 and 64 filters: 78,666 parameters at ten classes.

    Args:
        size_hw: Input height and width in pixels, None for any; it was made for 32.
        classes: C.

    Returns:
        A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, C) probabilities out.
    """
    import_tensorflow()
    from keras import Input, Model, layers

    image = Input((*size_hw, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    x = _conv_norm(x, "stem", 16, 3, 1, relu=True)
    for number, (filters, strides) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        entry = x
        x = _conv_norm(x, f"block{number}_a", filters, 3, strides, relu=True)
        x = _conv_norm(x, f"block{number}_b", filters, 3, 1, relu=False)
        if strides != 1:
            entry = layers.Conv2D(
                filters, 1, strides=strides, padding="same", kernel_initializer="he_normal", name=f"block{number}_skip"
            )(entry)
        x = layers.Add(name=f"block{number}_add")([x, entry])
        x = layers.ReLU(name=f"block{number}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dense(classes, kernel_initializer="he_normal", name="logits")(x)
    return Model(image, layers.Softmax(name="probabilities")(x), name="resnet8")


def _conv_norm(x: KerasTensor, name: str, filters: int, kernel: int, strides: int, *, relu: bool) -> KerasTensor:
    from keras import layers

    x = layers.Conv2D(
        filters, kernel, strides=strides, padding="same", kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x
