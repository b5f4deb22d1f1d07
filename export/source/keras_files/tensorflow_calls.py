"""Calls of TensorFlow functions in the configs of Keras 2: `x / 127.5` or `tf.nn.relu6(x)` between layers are layers there."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from edgeclf.export.keras_backend import UntypedModule, import_tensorflow
from edgeclf.export.source.keras_files.keras2_calls import FIRST, NAME_OF_TENSOR

# Keras 2 has a layer for each function of TensorFlow, among them those that write files: these compute and nothing else.
_PURE_MODULES = ("math", "nn", "linalg")
_PURE_FUNCTIONS = frozenset(
    {
        "abs", "add", "broadcast_to", "cast", "clip_by_value", "concat", "convert_to_tensor", "divide", "exp", "expand_dims",
        "gather", "identity", "maximum", "minimum", "multiply", "ones_like", "pad", "pow", "reduce_max", "reduce_mean",
        "reduce_min", "reduce_sum", "repeat", "reshape", "reverse", "round", "shape", "sigmoid", "slice", "split", "sqrt",
        "square", "squeeze", "stack", "stop_gradient", "subtract", "tanh", "tile", "transpose", "unstack", "where",
        "zeros_like", "image.central_crop", "image.grayscale_to_rgb", "image.per_image_standardization", "image.resize",
        "image.resize_with_crop_or_pad", "image.resize_with_pad", "image.rgb_to_grayscale", "image.convert_image_dtype",
    }
)  # fmt: skip
_OPERATORS = frozenset(
    {
        "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "div", "rdiv", "floordiv", "mod", "pow", "rpow",
        "neg", "abs", "matmul", "gt", "ge", "lt", "le", "eq", "ne", "getitem",
    }
)  # fmt: skip
_PREFIX = "__operators__."


def is_known_call(config: Mapping[str, Any]) -> bool:
    """Whether the config of such a layer names a function that computes and does nothing else."""
    name = config.get("function")
    if not isinstance(name, str):
        return False
    if name.startswith(_PREFIX):
        return name.removeprefix(_PREFIX) in _OPERATORS
    name = name.removeprefix("compat.v1.")
    module, _, function = name.rpartition(".")
    return name in _PURE_FUNCTIONS or (module in _PURE_MODULES and function.isidentifier() and function[0] != "_")


@cache
def call_layer() -> UntypedModule:
    """The layer that stands for such a call in Keras 3: positional and named arguments go to the function as they come."""
    tensorflow = import_tensorflow()
    from keras import layers

    class TensorFlowCall(layers.Layer):  # type: ignore[misc] # keras carries no types
        def __init__(self, function: str, **options: object) -> None:
            super().__init__(**options)
            if not is_known_call({"function": function}):
                raise ValueError(f"no function that may be called: {function}")
            self.function = function

        def call(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever the function takes
            options.pop("name", None)
            if FIRST in options:
                options[options.pop(NAME_OF_TENSOR)] = arguments[0]
                arguments = (options.pop(FIRST),)
            if self.function == f"{_PREFIX}getitem":
                return arguments[0][_slices(options.pop("slice_spec"))]
            if self.function.startswith(_PREFIX):
                return _operator(tensorflow, self.function.removeprefix(_PREFIX), [*arguments, *options.values()])
            found: Any = tensorflow
            for part in self.function.split("."):
                found = getattr(found, part)
            return found(*arguments, **options)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "function": self.function}

    return TensorFlowCall


def _operator(tensorflow: UntypedModule, name: str, values: list[Any]) -> Any:  # noqa: ANN401 - a tensor
    import operator

    if name[0] == "r" and name != "round":
        name, values = name[1:], values[::-1]
    function = getattr(operator, {"div": "truediv", "abs": "abs"}.get(name, name))
    # One of two may be a number.
    tensors = [value if hasattr(value, "shape") else tensorflow.convert_to_tensor(value) for value in values]
    if len(tensors) == 2 and tensors[0].dtype != tensors[1].dtype:
        kept = next(index for index, value in enumerate(values) if hasattr(value, "shape"))
        tensors[1 - kept] = tensorflow.cast(tensors[1 - kept], tensors[kept].dtype)
    return function(*tensors)


def _slices(spec: object) -> Any:  # noqa: ANN401 - what a tensor is indexed with
    if isinstance(spec, list | tuple):
        return tuple(_slices(item) for item in spec)
    if isinstance(spec, Mapping) and "start" in spec:
        return slice(spec.get("start"), spec.get("stop"), spec.get("step"))
    if spec == "..." or (isinstance(spec, Mapping) and spec.get("class_name") == "__ellipsis__"):
        return ...
    return spec
