"""Command lines that fix a finding, quoted for a POSIX shell."""

import re
from collections.abc import Mapping
from pathlib import Path

from edgeclf.runtime.errors import command_line
from edgeclf.toolkit.doctor.facts import DataFacts, Facts, RunFacts, UseFacts
from edgeclf.training.options import DEFAULT_ARCHITECTURE, training_options

# A command inside a sentence: up to the end of its clause; quoted arguments may hold any punctuation, numbers commas.
COMMAND = re.compile(
    r"edgeclf (?:train|doctor|export|evaluate|verify|infer|bench|info) (?:'[^']*'|\"[^\"]*\"|,(?=\d)|[^,;'\"])*(?:['\"]|[^,;'\". ])"
)


def list_images(data: DataFacts) -> str:
    """`edgeclf doctor --json` of a data set: the findings with the paths of all their images."""
    return command_line("doctor", Path(data.given), "--json")


def train_data(facts: Facts, *options: str) -> str:
    """`edgeclf train` of the examined data with the default recipe and some options.

    Args:
        facts: Facts of the data set, or of the run that names it.
        options: Further words of the command, unquoted.
    """
    data = facts.run.data if facts.run is not None else facts.data.given if facts.data is not None else "DATA"
    return command_line("train", Path(data), "--run", "RUN", *options)


def train_again(run: RunFacts, **changes: object) -> str:
    """`edgeclf train` with the run's options, some of them changed, into a new folder beside the run.

    Args:
        run: The run.
        changes: Values by field of `TrainOptions`; None leaves the option out.
    """
    return command_line(*_words_of_training(run, changes), "--run", _beside(run, "again"))


def _words_of_training(run: RunFacts, changes: Mapping[str, object]) -> list[str | Path]:
    words: list[str | Path] = ["train", Path(run.data)]
    from_earlier = run.options.get("from_run") is not None
    for row in training_options():
        # Fixed by the earlier run; the command refuses them together with --from.
        inherited = from_earlier and row.name in {"architecture", "weights", "image_size", "fit", "interpolation"}
        value = changes.get(row.name, row.default if inherited else run.options.get(row.name, row.default))
        usual = DEFAULT_ARCHITECTURE if row.name == "architecture" else row.default
        if value is None or value == usual:
            continue
        if value is False and row.negative_flag is not None:
            words.append(row.negative_flag)
        elif value is True:
            words.append(row.flag)
        else:
            words += [row.flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def train_pretrained(run: RunFacts) -> str:
    """`edgeclf train` of the same data with the default recipe: a new head on a frozen, pretrained backbone."""
    return command_line("train", Path(run.data), "--arch", DEFAULT_ARCHITECTURE, "--run", _beside(run, "again"))


def sweep_learning_rate(run: RunFacts) -> str:
    """`edgeclf train --find-lr` with the run's options: a learning-rate sweep, drawn into a PNG beside the run."""
    return command_line(*_words_of_training(run, {"learning_rate": None}), "--find-lr", _beside(run, "rates.png"))


def _beside(run: RunFacts, suffix: str) -> Path:
    return Path(f"{run.folder}-{suffix}")


def examine_data(run: RunFacts) -> str:
    """`edgeclf doctor` of the run's data."""
    return command_line("doctor", Path(run.data))


def resume(run: RunFacts) -> str:
    """`edgeclf train --resume` of the run."""
    return command_line("train", "--resume", run.folder)


def more_validation(run: RunFacts, fraction: float) -> str:
    """Remedy for too few validation images: more of them, or a larger `--val-fraction` where the data has no own split."""
    if run.record.get("brings_validation"):
        return "Add validation images."
    return f"Add images, or let more of them validate: {train_again(run, val_fraction=fraction)}"


def export_with_max_effort(run: RunFacts) -> str:
    """`edgeclf export` of the run to int8 with `--effort max`, which tries every recipe."""
    return command_line("export", run.folder, "--precision", "int8", "--effort", "max", "--out", "model.onnx")


def use_model(use: UseFacts, changes: Mapping[str, str]) -> str:
    """`edgeclf evaluate` of the examined file and photographs, `edgeclf infer` of unlabelled ones, with options changed.

    Args:
        use: The file as it was used.
        changes: Values by option, which replace those that were given.
    """
    merged = {**use.given, **changes}
    if merged.get("--fit") in {"stretch", "letterbox"}:
        merged.pop("--crop-fraction", None)
    if merged.get("--fit") in {"stretch", "crop"}:
        merged.pop("--pad-value", None)
    words = [word for option, value in merged.items() for word in (option, value)]
    return command_line("evaluate" if use.folders else "infer", Path(use.model), Path(use.data), *words)


def examine_model(use: UseFacts, data: str) -> str:
    """`edgeclf doctor` of the examined file on other photographs."""
    words = [word for option, value in use.given.items() for word in (option, value)]
    return command_line("doctor", Path(use.model), "--data", Path(data), *words)
