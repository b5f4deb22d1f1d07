"""Files as Keras 2 wrote them: the weights of a Keras 3 network under a config in the older form."""

import json


def layer(class_name, name, inbound=None, **config):
    """A layer of a config of Keras 2; `inbound` is its call in a functional network."""
    item = {"class_name": class_name, "config": {"name": name, "trainable": True, "dtype": "float32", **config}}
    return item if inbound is None else {**item, "name": name, "inbound_nodes": inbound}


def tensor(layer_name, node=0, **options):
    """An output of a layer, as calls of others refer to it."""
    return [layer_name, node, 0, options]


def sequential(name, layers):
    return {"class_name": "Sequential", "config": {"name": name, "layers": layers}}


def functional(name, layers, inputs, outputs, class_name="Functional"):
    refer = lambda names: [[item, 0, 0] if isinstance(item, str) else list(item) for item in names]  # noqa: E731
    config = {"name": name, "trainable": True, "layers": layers, "input_layers": refer(inputs)}
    return {"class_name": class_name, "config": {**config, "output_layers": refer(outputs)}}


def write_old_h5(path, twin, document, version="2.13.1"):
    """Writes an `.h5` file with the weights of a Keras 3 network of the same layers, and the config of Keras 2."""
    import h5py

    twin.save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(document).encode()
        file.attrs["keras_version"] = version
        file["model_weights"].attrs["keras_version"] = version
        if "training_config" in file.attrs:
            del file.attrs["training_config"]
    return path


def teachable_machine(path, rng, side=32, classes=2):
    """A network laid out as Teachable Machine exports it; gives its Keras 3 twin."""
    import keras

    layers = keras.layers
    image = keras.Input((side, side, 3))
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="Conv1")(image)
    x = layers.BatchNormalization(name="bn_Conv1")(x)
    x = layers.ReLU(6.0, name="Conv1_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="expanded_conv_depthwise")(x)
    x = y = layers.BatchNormalization(name="expanded_conv_depthwise_BN")(x)
    x = layers.Conv2D(4, 1, use_bias=False, name="expanded_conv_project")(x)
    x = layers.Add(name="block_add")([x, y])
    base = keras.Model(image, x, name="mobilenet")
    first = keras.Sequential([base, layers.GlobalAveragePooling2D()], name="sequential_1")
    second = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(10, activation="relu", name="dense_Dense1"),
            layers.Dense(classes, use_bias=False, activation="softmax", name="dense_Dense2"),
        ],
        name="sequential_3",
    )
    twin = keras.Sequential([first, second], name="sequential_4")
    twin.build((None, side, side, 3))
    randomise(twin, rng)
    shape = [None, side, side, 3]
    conv = {"padding": "valid", "data_format": "channels_last", "dilation_rate": [1, 1], "groups": 1, "use_bias": False}
    norm = {"axis": [3], "momentum": 0.999, "epsilon": 0.001, "center": True, "scale": True}
    zeros = {"class_name": "Zeros", "config": {"dtype": "float32"}}
    inner = [
        layer("InputLayer", "input_1", [], batch_input_shape=shape, sparse=False, ragged=False),
        layer(
            "Conv2D", "Conv1", [[tensor("input_1")]], filters=4, kernel_size=[3, 3], strides=[2, 2], **conv,
            kernel_initializer={"class_name": "VarianceScaling", "config": {"scale": 1.0, "dtype": "float32"}},
        ),
        layer("BatchNormalization", "bn_Conv1", [[tensor("Conv1")]], **norm, beta_initializer=zeros),
        layer("ReLU", "Conv1_relu", [[tensor("bn_Conv1")]], max_value=6.0, negative_slope=0.0, threshold=0.0),
        layer(
            "DepthwiseConv2D", "expanded_conv_depthwise", [[tensor("Conv1_relu")]], kernel_size=[3, 3], strides=[1, 1],
            **{**conv, "padding": "same"}, depth_multiplier=1, depthwise_initializer=zeros,
        ),
        layer("BatchNormalization", "expanded_conv_depthwise_BN", [[tensor("expanded_conv_depthwise")]], **norm),
        layer(
            "Conv2D", "expanded_conv_project", [[tensor("expanded_conv_depthwise_BN")]], filters=4, kernel_size=[1, 1],
            strides=[1, 1], **conv,
        ),
        layer(
            "Add", "block_add", [[tensor("expanded_conv_project"), tensor("expanded_conv_depthwise_BN")]],
        ),
    ]  # fmt: skip
    dense = {"batch_input_shape": [None, 4], "bias_initializer": zeros}
    document = sequential(
        "sequential_4",
        [
            sequential(
                "sequential_1",
                [
                    functional("mobilenet", inner, ["input_1"], ["block_add"], class_name="Model"),
                    layer("GlobalAveragePooling2D", "global_average_pooling2d", data_format="channels_last"),
                ],
            ),
            sequential(
                "sequential_3",
                [
                    layer("Dense", "dense_Dense1", units=10, activation="relu", use_bias=True, **dense),
                    layer("Dense", "dense_Dense2", units=classes, activation="softmax", use_bias=False),
                ],
            ),
        ],
    )
    write_old_h5(path, twin, document, version="2.4.0")
    return twin


def randomise(model, rng):
    """Gives every weight of a network a value that no initializer gives."""
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path or "gamma" in variable.path else -0.6
        if str(variable.dtype).startswith("float"):
            variable.assign(rng.uniform(low, 1.0, variable.shape).astype("float32"))
