"""seed-cnn, a plain CNN to be trained from scratch: the network this project began with."""

from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.training.networks.weights.layer_weights import Size


def build_seed_cnn(size_hw: Size, classes: int) -> KerasModel:
    """Five stages of convolution, pooling and dropout, then two dense layers: 273,330 parameters at 120 px, 2 classes."""
    import_tensorflow()
    from keras import Input, Model, layers

    image = Input((*size_hw, 3), dtype="uint8", name="image")
    # Without batch normalisation it matters that pixels have about zero mean and unit deviation: with pixels / 255 the
    # network guesses for some twenty epochs, or for good.
    x = layers.Rescaling(1 / 64, offset=-127 / 64, name="normalise")(image)
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
