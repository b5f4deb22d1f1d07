"""How an export ended, on stderr: what was written, why not what was asked for, what comes next, which images were left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeclf.export import ExportReport
from edgeclf.export.source.images import ExportImages
from edgeclf.runtime.errors import command_line
from edgeclf.toolkit.console import note, warn
from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable
from edgeclf.toolkit.export.last_resort import ExportedRun
from edgeclf.toolkit.export.ways_out import note_ways_out
from edgeclf.toolkit.reports.parity import replacement_sentence, unlabelled_warning

# A classifier that is worth a device is right more often than not; one that is less often may be used wrongly.
_LOW_ACCURACY = 0.5


def note_outcome(exported: ExportedRun, data: Path | None) -> None:
    """Says on stderr what was written, and why not what was asked for.

    Raises:
        ParityGateError: Nothing was.
    """
    final, last, last_resort = exported.final, exported.final.candidates[-1], exported.last_resort
    if final.written_precision != final.precision:
        note_ways_out(exported, data)
    if not final.written:
        raise exported.error()
    if final.written_precision != final.precision:
        warn(f"{final.out} is the fp32 file, as --or-fp32 asks: no int8 file passes ({'; '.join(exported.failures)})")
        return
    if last.verdict.doubts:
        note(f"undecided: {'; '.join(last.verdict.doubts)}")
    if final.precision != "fp32" and (text := unlabelled_warning(last.parity[0])) is not None:
        warn(text)
    if final.precision == "fp16":
        note(
            "verified on the CPU, which adds in float32; a GPU adds in float16: "
            f"{command_line('verify', final.out, '--device', 'cuda')} says there whether it computes the same"
        )
    if last.portable is False and exported.options.targets[0] == "any" and not exported.options.names_float_layers:
        warn(
            f"{final.out} is not portable: {last.portable_reason}. Nothing portable passed; on another kind of CPU check it "
            "with edgeclf verify, or pass --entrance int8 for a portable file or none"
        )
    if last_resort is not None and exported.run is not None:
        warn(
            f"{final.out} is of {last_resort.run.folder}, the network of {exported.run.folder} trained for 8 bits: "
            f"{replacement_sentence(last.replaced[0])}; verify it with --against {last_resort.run.folder}"
        )


def note_next_steps(report: ExportReport, original: Path | None, source: Mapping[str, Any] | None) -> None:
    """Says on stderr what was written and what comes next; of an original that others made its size and accuracy too.

    Args:
        report: The figures of the file.
        original: What others made; None for a run.
        source: What is known of that; None for a run.
    """
    timed = (report.out,) if original is None else (report.out, original)
    if original is not None and source is not None:
        _note_original(report, original, source["bytes"])
    note(f"wrote {report.out}; next: {command_line('infer', report.out, 'IMAGES')}, or {command_line('bench', *timed)}")


def _note_original(report: ExportReport, original: Path, original_bytes: int) -> None:
    size = report.out.stat().st_size
    note(
        f"{original} has {original_bytes / 1e6:.2f} MB, {report.out} {size / 1e6:.2f} MB "
        f"({size / max(1, original_bytes):.2f}x)"
    )
    facts = report.candidates[0].parity[0]
    interval = facts.reference_accuracy_interval
    if interval is not None and interval[1] < _LOW_ACCURACY:
        note(
            f"the original has the right label for only {facts.reference_accuracy:.4f} of {facts.images} {facts.split} images: "
            f"{command_line('doctor', original, '--data', 'PHOTOS')} says whether it is used as it was trained"
        )


def end_with_left_out(source: str, images: ExportImages, *, ignore_unreadable: bool) -> None:
    """Says on stderr which images were left out; ends with exit code 3 where some cannot be read."""
    if images.changed:
        warn(
            f"{images.changed:,} image{'s' if images.changed > 1 else ''} of {source} changed since the training: left out, as "
            "nothing says whether the network has seen them"
        )
    end_with_unreadable(images.unreadable, ignore=ignore_unreadable)
