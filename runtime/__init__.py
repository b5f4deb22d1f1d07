"""Run an image classifier on the device: numpy, OpenCV and ONNX Runtime, nothing else.

    from edgeclf.runtime import Classifier

    clf = Classifier("model.onnx")
    prediction = clf.predict(frame_bgr)

The names below are loaded on first use, so that `edgeclf.runtime.errors` - which every command needs, also one that
only prints its help - does not cost an import of OpenCV and ONNX Runtime, and works where those are missing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeclf.runtime.batch.sources import image_paths
    from edgeclf.runtime.classifier import Classifier
    from edgeclf.runtime.errors import (
        DeviceUnavailableError,
        EdgeclfError,
        ImageError,
        InputError,
        MissingPackageError,
        ModelFileError,
        OutputError,
        SourceError,
        UsageError,
    )
    from edgeclf.runtime.images.preprocess import decode_image, load_image, preprocess_bgr
    from edgeclf.runtime.live.camera import Camera, CameraFrame
    from edgeclf.runtime.live.events import (
        Connected,
        Disconnected,
        Ended,
        Frozen,
        LabelChanged,
        LiveEvent,
        ModelKept,
        ModelReloaded,
        Reconnected,
        Recovered,
    )
    from edgeclf.runtime.live.live_classifier import LiveClassifier
    from edgeclf.runtime.live.results import LiveResult
    from edgeclf.runtime.live.smoothing import Smoothing
    from edgeclf.runtime.prediction import LabelConfidence, Prediction
    from edgeclf.runtime.session.devices import DeviceChoice
    from edgeclf.runtime.session.foreign.given import ForeignModel, PixelScaling
    from edgeclf.runtime.session.self_test import SelfTestResult
    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.runtime.spec import ModelSpec, Preprocess

__all__ = [
    "Camera",
    "CameraFrame",
    "Classifier",
    "Connected",
    "DeviceChoice",
    "DeviceUnavailableError",
    "Disconnected",
    "EdgeclfError",
    "Ended",
    "ForeignModel",
    "Frozen",
    "ImageError",
    "InputError",
    "LabelChanged",
    "LabelConfidence",
    "LiveClassifier",
    "LiveEvent",
    "LiveResult",
    "MissingPackageError",
    "ModelFileError",
    "ModelKept",
    "ModelReloaded",
    "ModelSession",
    "ModelSpec",
    "OutputError",
    "PixelScaling",
    "Prediction",
    "Preprocess",
    "Reconnected",
    "Recovered",
    "SelfTestResult",
    "Smoothing",
    "SourceError",
    "UsageError",
    "decode_image",
    "image_paths",
    "load_image",
    "preprocess_bgr",
]

_HOMES = {
    "Camera": "live.camera",
    "CameraFrame": "live.camera",
    "Classifier": "classifier",
    "Connected": "live.events",
    "DeviceChoice": "session.devices",
    "DeviceUnavailableError": "errors",
    "Disconnected": "live.events",
    "EdgeclfError": "errors",
    "Ended": "live.events",
    "ForeignModel": "session.foreign.given",
    "Frozen": "live.events",
    "ImageError": "errors",
    "InputError": "errors",
    "LabelChanged": "live.events",
    "LabelConfidence": "prediction",
    "LiveClassifier": "live.live_classifier",
    "LiveEvent": "live.events",
    "LiveResult": "live.results",
    "MissingPackageError": "errors",
    "ModelFileError": "errors",
    "ModelKept": "live.events",
    "ModelReloaded": "live.events",
    "ModelSession": "session.session",
    "ModelSpec": "spec",
    "OutputError": "errors",
    "PixelScaling": "session.foreign.given",
    "Prediction": "prediction",
    "Preprocess": "spec",
    "Reconnected": "live.events",
    "Recovered": "live.events",
    "SelfTestResult": "session.self_test",
    "Smoothing": "live.smoothing",
    "SourceError": "errors",
    "UsageError": "errors",
    "decode_image": "images.preprocess",
    "image_paths": "batch.sources",
    "load_image": "images.preprocess",
    "preprocess_bgr": "images.preprocess",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - classes and functions alike
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
