"""small-cnn, to be trained from scratch on few images: fewer parameters than seed-cnn, two fifths of the multiplications."""

from edgeclf.export.keras_backend import KerasModel, KerasTensor, import_tensorflow
from edgeclf.training.networks.normalisation import BN_MOMENTUM
from edgeclf.training.networks.weights.layer_weights import Size


def build_small_cnn(size_hw: Size, classes: int) -> KerasModel:
    """Plain 3 x 3 convolutions with batch normalisation and ReLU, two of the stages with a shortcut.

    256,050 parameters at two classes, whatever the size; 52 million multiplications at 120 px. Every layer is one that
    int8 kernels are fast in, and global average pooling leaves the size open.

    Args:
        size_hw: Input height and width in pixels, None for any.
        classes: C.

    Returns:
        A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, C) probabilities out.
    """
    import_tensorflow()
    from keras import Input, Model, layers

    image = Input((*size_hw, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    x = _conv(x, "stem", 16, strides=2)
    for number, filters in enumerate((32, 64), start=1):
        x = entry = _conv(x, f"down{number}", filters, strides=2)
        x = _conv(x, f"block{number}_a", filters)
        x = _conv(x, f"block{number}_b", filters, relu=False)
        x = layers.Add(name=f"block{number}_add")([x, entry])
        x = layers.ReLU(name=f"block{number}_relu")(x)
    x = _conv(x, "down3", 96, strides=2)
    x = _conv(x, "conv3", 96)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dense(classes, name="logits")(x)
    return Model(image, layers.Softmax(name="probabilities")(x), name="small_cnn")


def _conv(x: KerasTensor, name: str, filters: int, *, strides: int = 1, relu: bool = True) -> KerasTensor:
    from keras import layers

    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x
