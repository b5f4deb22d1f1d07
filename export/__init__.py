"""From an image classifier to one `.onnx` file, verified against it: fp32, int8 or fp16.

    from edgeclf.export import ExportOptions, export_classifier
    from edgeclf.training import load_run

    run = load_run("runs/mine")
    report = export_classifier(run.load_classifier(), run.load_images(), "mine.onnx", ExportOptions("int8"))

The names below are loaded on first use: TensorFlow, tf2onnx and onnx are imported by what needs them, and a machine that
only verifies files needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeclf.export.cache_folder import CacheFolder
    from edgeclf.export.exporter import ExportReport, ParityGateError, export_classifier
    from edgeclf.export.options import PRECISIONS, ExportOptions
    from edgeclf.export.source.classifier import ForeignClassifier, TrainedClassifier
    from edgeclf.export.source.images import ExportImages, LabelledImages
    from edgeclf.export.source.onnx_file import open_onnx_source
    from edgeclf.export.targets import TARGETS
    from edgeclf.export.verify.layer_report import LayerFacts, worst_first
    from edgeclf.export.verify.parity import FP32_LIMITS, INT8_LIMITS, ParityFacts, ParityLimits
    from edgeclf.export.verify.recommend import Candidate, Recommendation, pareto_front
    from edgeclf.export.verify.verdict import DEFAULT_RULE, GateRule, Verdict
    from edgeclf.export.verify.verification import VerificationReport, check_same_labels, verify_classifier

__all__ = [
    "DEFAULT_RULE",
    "FP32_LIMITS",
    "INT8_LIMITS",
    "PRECISIONS",
    "TARGETS",
    "CacheFolder",
    "Candidate",
    "ExportImages",
    "ExportOptions",
    "ExportReport",
    "ForeignClassifier",
    "GateRule",
    "LabelledImages",
    "LayerFacts",
    "ParityFacts",
    "ParityGateError",
    "ParityLimits",
    "Recommendation",
    "TrainedClassifier",
    "Verdict",
    "VerificationReport",
    "check_same_labels",
    "export_classifier",
    "open_onnx_source",
    "pareto_front",
    "verify_classifier",
    "worst_first",
]

_HOMES = {
    "DEFAULT_RULE": "verify.verdict",
    "FP32_LIMITS": "verify.parity",
    "INT8_LIMITS": "verify.parity",
    "PRECISIONS": "options",
    "TARGETS": "targets",
    "CacheFolder": "cache_folder",
    "Candidate": "verify.recommend",
    "ExportImages": "source.images",
    "ExportOptions": "options",
    "ExportReport": "exporter",
    "ForeignClassifier": "source.classifier",
    "GateRule": "verify.verdict",
    "LabelledImages": "source.images",
    "LayerFacts": "verify.layer_report",
    "ParityFacts": "verify.parity",
    "ParityGateError": "exporter",
    "ParityLimits": "verify.parity",
    "Recommendation": "verify.recommend",
    "TrainedClassifier": "source.classifier",
    "Verdict": "verify.verdict",
    "VerificationReport": "verify.verification",
    "check_same_labels": "verify.verification",
    "export_classifier": "exporter",
    "open_onnx_source": "source.onnx_file",
    "pareto_front": "verify.recommend",
    "verify_classifier": "verify.verification",
    "worst_first": "verify.layer_report",
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
