"""The figures of an export as JSON, and as the points of a plot."""

from typing import Any

from edgeclf.export import Candidate, ExportReport, pareto_front
from edgeclf.export.verify.verdict import limits_record
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.spec import ModelSpec
from edgeclf.toolkit.export.last_resort import ExportedRun


def export_document(exported: ExportedRun, spec: ModelSpec) -> dict[str, Any]:
    """The figures of the export that says what the file is; `qat` has those of the training for 8 bits and the other export.

    Args:
        exported: The export.
        spec: The spec of what was exported.
    """
    last_resort = exported.last_resort
    if last_resort is None:
        return _document(exported.report) | {"qat": None} | _source(spec)
    other = last_resort.report if exported.final is exported.report else exported.report
    return _document(exported.final) | {"qat": last_resort.to_json() | {"other_export": _document(other)}}


def _source(spec: ModelSpec) -> dict[str, Any]:
    """What the original is that others made, and how it is used; nothing for a run."""
    if spec.source is None:
        return {}
    source = dict(spec.source)
    used_as = source.pop("used_as")
    if used_as is not None:
        used_as = {**used_as, "labels": {"value": list(spec.labels), **used_as["labels"]}}
    return {"source": source, "used_as": used_as}


def _document(report: ExportReport) -> dict[str, Any]:
    return {
        "out": str(report.out),
        "written": report.written,
        "precision": report.precision,
        "written_precision": report.written_precision,
        "reference": report.reference,
        "images": dict(report.images),
        "limits": limits_record(report.limits),
        "candidates": [{"precision": item.name, **_figures(item)} for item in report.candidates],
        "reused_recipes": report.reused_recipes,
        "recipes": [{"name": item.name, **_figures(item)} for item in report.recipes],
        "recommendation": {"precision": report.recommendation.precision, "reason": report.recommendation.reason},
        "cpu": cpu_info().to_json(),
    }


def _figures(candidate: Candidate) -> dict[str, Any]:
    return {
        "file_bytes": candidate.file_bytes,
        "parity": [facts.to_json() for facts in candidate.parity],
        "replaced": [facts.to_json() for facts in candidate.replaced],
        "failures": list(candidate.failures),
        "portable": candidate.portable,
        "portable_reason": candidate.portable_reason,
        "verdict": candidate.verdict.to_json(),
        "rejection": None if candidate.rejection is None else candidate.rejection.to_json(),
        "latency": None if candidate.latency is None else candidate.latency.to_json(),
    }


def recipe_points(report: ExportReport) -> list[tuple[str, float, float, bool]]:
    """Name, latency ratio to fp32, agreement, and whether it is on the Pareto front, of fp32 and of each timed recipe."""
    timed = [item for item in (report.candidates[0], *report.recipes) if item.latency is not None]
    front = pareto_front(timed)
    return [
        (item.name, item.latency.ratio, item.parity[0].agreement, position in front)
        for position, item in enumerate(timed)
        if item.latency is not None
    ]
