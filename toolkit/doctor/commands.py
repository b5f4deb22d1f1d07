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
