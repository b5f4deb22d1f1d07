"""The two classifiers of a comparison: a run folder or a model file each, opened, and which classes are the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.runtime import DeviceChoice, ForeignModel, ModelSession
from edgeclf.runtime.batch.jobs import ProbabilityModel
from edgeclf.runtime.spec import ModelSpec
from edgeclf.toolkit.datasets.selection import seen_images_of
from edgeclf.toolkit.foreign import note_use, options_for, refuse_idle_options, use_json

if TYPE_CHECKING:
    from edgeclf.training import Run
    from edgeclf.training.data.seen_images import SeenImages


@dataclass(frozen=True, eq=False)
class Side:
    """One of the classifiers.

    Attributes:
        letter: `A` or `B`.
        path: Its run folder or file.
        model: The classifier.
        ran_on: What computes it: `Keras`, or the provider of ONNX Runtime.
        seen: The images that its training used; None where that is not known.
        run: Its run; None of a file.
    """

    letter: str
    path: Path
    model: ProbabilityModel
    ran_on: str
    seen: "SeenImages | None"
    run: "Run | None" = None

    @property
    def spec(self) -> ModelSpec:
        """Its labels and preprocessing."""
        return self.model.spec

    @property
    def used_as(self) -> dict[str, Any] | None:
        """How a file without a spec is used, as plain JSON values; None for runs and for files with a spec."""
        return use_json(self.model) if isinstance(self.model, ModelSession) else None


def open_sides(
    paths: Sequence[Path], *, device: DeviceChoice, threads: int | None, foreign: ForeignModel
) -> tuple[Side, Side]:
    """Opens two run folders or model files.

    Args:
        paths: A and B.
        device: Where files run; Keras chooses for itself.
        threads: Threads inside one inference of a file; None takes the CPUs this process may use.
        foreign: How the files without a spec are to be used.

    Raises:
        UsageError: Something is said of such files, and both describe themselves.
        EdgeclfError: A run or a file cannot be opened.
    """

    def open_side(letter: str, path: Path) -> Side:
        if path.is_dir():
            return _open_run(letter, path)
        session = ModelSession(path, device=device, threads=threads, foreign=options_for(path, foreign))
        note_use(session)
        return Side(letter, path, session, session.provider, seen_images_of(path, session.spec))

    sides = open_side("A", paths[0]), open_side("B", paths[1])
    refuse_idle_options(foreign, [side.model for side in sides])
    return sides


def _open_run(letter: str, path: Path) -> Side:
    from edgeclf.training import load_run

    run = load_run(path)
    return Side(letter, path, run.load_classifier().as_trained(), "Keras", run.seen_images, run)


def renamed_classes(first: ModelSpec, second: ModelSpec) -> Mapping[str, str]:
    """The classes of A that B has under another name, by A's name: a training with `--from` records what it renamed."""
    pairs = [(item["from"], item["to"]) for item in _renamed(second)]
    pairs += [(item["to"], item["from"]) for item in _renamed(first)]
    only_first, only_second = set(first.labels) - set(second.labels), set(second.labels) - set(first.labels)
    return {one: other for one, other in pairs if one in only_first and other in only_second}


def _renamed(spec: ModelSpec) -> list[dict[str, str]]:
    return list((spec.training.get("classes_before") or {}).get("renamed", ()))
