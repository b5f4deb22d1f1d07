"""The commands that mend a run: its own `edgeclf train`, with something changed."""

import shlex
from dataclasses import fields
from typing import Any

from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.training.options import TrainOptions

_FLAGS = {"architecture": "--arch", "from_run": "--from"}


def train_again(run: RunFacts, **changes: Any) -> str:  # noqa: ANN401 - values of options
    """`edgeclf train` as it was run, with options changed, into a new folder beside the run.

    Args:
        run: The run.
        changes: By field of `TrainOptions`; None takes an option away.
    """
    words = ["edgeclf", "train", run.data]
    options = {item.name: run.options.get(item.name, item.default) for item in fields(TrainOptions)}
    if options["from_run"] is not None:
        # Decided by the earlier run, and refused beside it.
        options |= {"architecture": TrainOptions.architecture, "weights": None, "image_size": None, "fit": None}
    for item in fields(TrainOptions):
        value = changes.get(item.name, options[item.name])
        flag = _FLAGS.get(item.name, f"--{item.name.replace('_', '-')}")
        if value is None or value == item.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    words += ["--run", f"{run.folder}-again"]
    return shlex.join(words)


def train_pretrained(run: RunFacts) -> str:
    """`edgeclf train` of the same data with the default: a pretrained network whose head alone is trained."""
    return shlex.join(["edgeclf", "train", run.data, "--arch", "efficientnet-lite0", "--run", f"{run.folder}-again"])


def find_rate(run: RunFacts) -> str:
    """`edgeclf train --find-lr` for the same training, into a picture beside the run."""
    command = shlex.split(train_again(run, learning_rate=None))
    return shlex.join([*command[: command.index("--run")], "--find-lr", f"{run.folder}-rates.png"])


def look_at_labels(run: RunFacts) -> str:
    """`edgeclf doctor` of the data."""
    return shlex.join(["edgeclf", "doctor", run.data])


def resume(run: RunFacts) -> str:
    """`edgeclf train --resume` of the run."""
    return shlex.join(["edgeclf", "train", "--resume", str(run.folder)])


def more_validation(run: RunFacts, fraction: float) -> str:
    """What gives validation more images: a larger share of them, or more of its own where the data brings them."""
    if run.record.get("brings_validation"):
        return "Add validation images."
    return f"Add images, or let more of them validate: {train_again(run, val_fraction=fraction)}"


def export_carefully(run: RunFacts) -> str:
    """`edgeclf export` to int8 with every recipe tried."""
    words = ["edgeclf", "export", str(run.folder), "--precision", "int8", "--effort", "max", "--out", "model.onnx"]
    return shlex.join(words)
