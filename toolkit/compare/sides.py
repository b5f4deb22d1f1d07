"""The two classifiers of a comparison: a run folder, model file or Keras model each, opened; which classes are the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.export.source.keras_files.kinds import KerasOptions, keras_kind
from edgeclf.export.source.keras_files.network import KerasReference
from edgeclf.runtime import DeviceChoice, ForeignModel, ModelSession
from edgeclf.runtime.batch.jobs import ProbabilityModel
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.spec import ModelSpec
from edgeclf.toolkit.datasets.selection import seen_images_of
from edgeclf.toolkit.foreign import (
    named_like,
    note_use,
    open_keras,
    options_for,
    refuse_idle_keras_options,
    refuse_idle_options,
    use_json,
)

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
        ran_on: What computes it: `Keras`, the provider of ONNX Runtime, or the runtime of a Keras model with its version.
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
        return use_json(self.model) if isinstance(self.model, ModelSession | KerasReference) else None


def open_sides(
    paths: Sequence[Path], *, device: DeviceChoice, threads: int | None, foreign: ForeignModel, keras: KerasOptions
) -> tuple[Side, Side]:
    """Opens two run folders, model files or Keras models.

    Args:
        paths: A and B.
        device: Where files run; Keras chooses for itself.
        threads: Threads inside one inference of a file; None takes the CPUs this process may use.
        foreign: How the files without a spec are to be used.
        keras: What is said of opening Keras models.

    Raises:
        UsageError: Something is said of such files, and both describe themselves; or of Keras models, and none is one.
        EdgeclfError: A run or a file cannot be opened.
    """
    refuse_idle_keras_options(keras, *paths)

    def open_side(letter: str, path: Path) -> Side:
        if keras_kind(path) is not None:
            network = open_keras(path, foreign, keras, paths)
            return Side(letter, path, network, network.runtime, None)
        if kind_of(path) == "folder":
            return _open_run(letter, path)
        session = ModelSession(path, device=device, threads=threads, foreign=options_for(path, foreign, paths))
        return Side(letter, path, session, session.provider, seen_images_of(path, session.spec))

    first, second = open_side("A", paths[0]), open_side("B", paths[1])
    refuse_idle_options(foreign, [first.model, second.model])
    first = _named_like(first, second)
    sides = first, _named_like(second, first)
    note_use(*(side.model for side in sides if isinstance(side.model, ModelSession | KerasReference)))
    return sides


def _named_like(side: Side, other: Side) -> Side:
    if not isinstance(side.model, ModelSession | KerasReference):
        return side
    return replace(side, model=named_like(side.model, other.path, other.spec.labels))


def _open_run(letter: str, path: Path) -> Side:
    from edgeclf.training import load_run

    run = load_run(path)
    return Side(letter, path, run.load_classifier().as_trained(), "Keras", run.seen_images, run)


def renamed_classes(first: ModelSpec, second: ModelSpec) -> Mapping[str, str]:
    """The classes of A that B has under another name, by A's name: a training with `--from` records what it renamed."""
    # What is not recorded is no label of either.
    pairs = [(item.get("from"), item.get("to")) for item in _renamed(second)]
    pairs += [(item.get("to"), item.get("from")) for item in _renamed(first)]
    only_first, only_second = set(first.labels) - set(second.labels), set(second.labels) - set(first.labels)
    return {one: other for one, other in pairs if one and other and one in only_first and other in only_second}


def _renamed(spec: ModelSpec) -> list[dict[str, str]]:
    return list((spec.training.get("classes_before") or {}).get("renamed") or ())
