"""Which of the given images are evaluated: those that neither trained nor validated the model, told by their content."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.progress import Progress, no_progress

if TYPE_CHECKING:
    from edgeclf.runtime import ModelSpec
    from edgeclf.training.data.dataset import Split
    from edgeclf.training.data.seen_images import SeenImages

# Names of the images in reports, by the split that is asked for.
_NAMES = {"train": "training", "val": "validation", "test": "test", "all": "given"}


@dataclass(frozen=True)
class Selection:
    """The images that are evaluated, out of those given.

    Attributes:
        rows: Positions of the images that are evaluated, ascending.
        name: Name of these in reports: `validation`, `test`, `training`, `unseen` where images that the model does not
            know are among them, or `given` for images of which nothing is known.
        given: Number of all images.
        trained: Of these, the number that trained the model.
        validated: The number that validated it.
        kept: Of the images that are evaluated, the number that trained or validated it.
        split: The split that was asked for.
        changed: Of the given images, the number that lie where images of the training lay, with another content.
    """

    rows: tuple[int, ...]
    name: str
    given: int
    trained: int = 0
    validated: int = 0
    kept: int = 0
    split: str = "auto"
    changed: int = 0

    def sentence(
        self, model: str = "this network", pronoun: str = "it", verbs: tuple[str, str] = ("trained", "validated")
    ) -> str | None:
        """What a user has to know of the selection, in one sentence; None for nothing.

        Args:
            model: What the images trained.
            pronoun: Word for that in the same sentence.
            verbs: What the training and the validation images did to it.
        """
        if self.changed and not (self.trained + self.validated):
            return f"{self._changed_words()} since {model} was tested on them"
        if not self.trained + self.validated or self.split in {"train", "val"}:
            return None
        counts = f"{self.trained} of the {self.given} given images {verbs[0]} {model} and {self.validated} {verbs[1]} {pronoun}"
        if self.changed:
            counts += f" - {self._changed_words()} since, and count as what they were -"
        if not self.kept:
            return f"{counts}: left out (--split all takes all of them)"
        if self.split == "auto":
            return f"{counts}, and no other can be evaluated: these figures are too good"
        return f"{counts}: accuracy on those is too good (--split auto leaves them out)"

    def _changed_words(self) -> str:
        return f"{self.changed} image{'s have' if self.changed > 1 else ' has'} changed"

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        return {
            "given": self.given,
            "trained": self.trained,
            "validated": self.validated,
            **({"changed": self.changed} if self.changed else {}),
            "left_out": bool(self.trained + self.validated) and not self.kept,
        }


def select_images(
    known: "Sequence[Split | None]", named: "Sequence[Split | None]", split: str, changed: int = 0
) -> Selection:
    """Selects the images to evaluate.

    Args:
        known: Split of each image in the model's training; None where it had none.
        named: Split that each image's folder or CSV row names; None where neither does.
        split: `train`, `val` or `test`, as folders or rows name them and, where none names it, as the training had it;
            `all`; or `auto`: where the training had some of the images, those that it neither trained nor validated on,
            without those that are named `train` or `val`; else the test images where some are named, and all where
            none are.
        changed: Number of images that lie where images of the training lay, with another content.

    Returns:
        The selection; without rows where there is no image of the split.
    """
    name = _NAMES.get(split, "given")
    if split == "all":
        rows = list(range(len(named)))
    elif split != "auto":
        rows = [row for row, its in enumerate(named) if its == split]
        rows = rows or [row for row, its in enumerate(known) if its == split]
    else:
        rows, name = _unseen(known, named)
    seen = [row for row, its in enumerate(known) if its in {"train", "val"}]
    return Selection(
        rows=tuple(rows),
        name=name,
        given=len(named),
        trained=sum(its == "train" for its in known),
        validated=sum(its == "val" for its in known),
        kept=len(set(rows) & set(seen)),
        split=split,
        changed=changed,
    )


def _unseen(known: "Sequence[Split | None]", named: "Sequence[Split | None]") -> tuple[list[int], str]:
    """Rows and name of what `auto` selects."""
    if any(known):
        splits = [before or now for before, now in zip(known, named, strict=True)]
        rows = [row for row, its in enumerate(splits) if its in {"test", None}]
        if rows:
            return rows, "test" if all(splits[row] == "test" for row in rows) else "unseen"
    rows = [row for row, its in enumerate(named) if its == "test"]
    return (rows, "test") if rows else (list(range(len(named))), "given")


def splits_in_training(
    paths: Sequence[Path], models: "Sequence[SeenImages | None]", progress: Progress = no_progress
) -> "tuple[list[Split | None], int]":
    """The split that each image had in the training of a model, by the digest of its file.

    An image that lies where one of the training lay, with another content, has the split of that, and is counted.

    Args:
        paths: The files.
        models: The images that each model's training used; None where that is not known. An image that had different
            splits in several has that of the first use: training, validation, test.
        progress: Called with the number of files read, of those whose digest is not in the cache folder.
    """
    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.runtime.batch.file_digests import digest_files
    from edgeclf.runtime.cpus import usable_cpus
    from edgeclf.training.data.dataset import SPLITS

    images = [its for its in models if its is not None]
    if not images:
        return [None] * len(paths), 0
    folder = chosen_cache_folder()
    # The folder saves time; without one all files are read.
    with contextlib.suppress(OutputError):
        folder.make()
    found = digest_files(paths, folder.digests_path, usable_cpus(), progress)
    splits = [[its.split_of(file.digest, path) for its in images] for path, file in zip(paths, found, strict=True)]
    changed = sum(
        any(its.changed_at(file.digest, path) for its in images) for path, file in zip(paths, found, strict=True)
    )
    return [min((its for its in several if its), key=SPLITS.index, default=None) for several in splits], changed


def seen_images_of(path: Path, spec: "ModelSpec") -> "SeenImages | None":
    """The images that the training of a model used, from its run folder or from its file; None where neither says so.

    Args:
        path: The run folder, the `.onnx` file, or a Keras model of others.
        spec: Its spec.
    """
    from edgeclf.export.source.keras_files.kinds import keras_kind
    from edgeclf.training import load_run
    from edgeclf.training.data.seen_images import images_of_record

    if path.is_dir() and keras_kind(path) is None:
        return load_run(path).seen_images
    return None if spec.seen_images is None else images_of_record(spec.seen_images)
