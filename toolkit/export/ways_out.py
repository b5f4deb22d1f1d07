"""What would pass where no int8 recipe does, or might, with its cost where that was measured."""

from dataclasses import replace
from pathlib import Path

from edgeclf.export import Candidate
from edgeclf.export.verify.verdict import limits_that_pass
from edgeclf.toolkit.console import note
from edgeclf.toolkit.export.last_resort import ExportedRun, can_help, training_command


def note_ways_out(exported: ExportedRun, data: Path | None) -> None:
    """Writes them to stderr.

    Args:
        exported: An export without an int8 file. Nothing is written where another precision was asked for, or fp32 failed.
        data: The data set of the run where it has moved.
    """
    report, options = exported.report, exported.options
    fp32 = report.candidates[0]
    if fp32.failures or report.precision != "int8":
        return
    closest = report.closest
    if closest is report.recipes[0]:
        # The only one that was timed.
        closest = replace(report.candidates[-1], name=closest.name)
    note("What passes, or may:")
    if report.written_precision is None:
        note(f"- --or-fp32: the fp32 file, {_cost(fp32, fp32)}")
    if limits := limits_that_pass(closest.parity[0]):
        note(f"- {' '.join(limits)}: {closest.name}, {_cost(closest, fp32)}")
    if len(options.targets) == 1 and options.recipe.pair_constraint:
        note("- --target this (or another kind of CPU, see --help): not tried; the file is for such CPUs alone")
    if exported.last_resort is None and can_help(exported.run, report):
        note(
            f"- {training_command(exported.run, data)}: trains the network for 8 bits, was not tried; export that run then"
        )


def _cost(candidate: Candidate, fp32: Candidate) -> str:
    latency = candidate.latency
    time = "" if latency is None else f", {latency.median_ms:.2f} ms ({latency.ratio:.2f}x of fp32) here"
    size = candidate.file_bytes / fp32.file_bytes
    return f"same label {candidate.parity[0].agreement:.4f}, {candidate.file_bytes / 1e6:.2f} MB ({size:.2f}x){time}"
