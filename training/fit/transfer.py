"""Transfer from an earlier run to other classes: renamed classes matched, weights copied by layer name."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.errors import RunFolderError
from edgeclf.training.data.dataset import SPLITS, Sample, Split
from edgeclf.training.networks.dropout import has_dropout, with_dropout_of

# Share of an old class's images that must now be found under one new name for this to be the same class renamed.
_RENAMED_SHARE = 0.5


@dataclass(frozen=True)
class ClassChanges:
    """The differences between the classes of a data set and those of an earlier run.

    Attributes:
        kept: Classes of both.
        renamed: Pairs of old and new name.
        added: Classes of the data set alone.
        gone: Classes of the earlier run alone.
    """

    kept: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    gone: tuple[str, ...]

    @property
    def old_names(self) -> dict[str, str]:
        """The earlier name of each class of both, by its present name."""
        return {**{label: label for label in self.kept}, **{new: old for old, new in self.renamed}}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "kept": list(self.kept),
            "renamed": [{"from": old, "to": new} for old, new in self.renamed],
            "new": list(self.added),
            "gone": list(self.gone),
        }


def class_changes(
    old_labels: Sequence[str], old: Iterable[Sample], new_labels: Sequence[str], new: Iterable[Sample]
) -> ClassChanges:
    """Compares the classes of an earlier run with those of a data set.

    A class that is gone counts as renamed where more than half of its images are now found under one name that is new,
    or where a new name differs only in case, spaces, hyphens or underscores.

    Args:
        old_labels: Classes of the earlier run.
        old: Its images, with digests.
        new_labels: Classes of the data set.
        new: Its images, with digests.
    """
    gone = [label for label in old_labels if label not in new_labels]
    added = [label for label in new_labels if label not in old_labels]
    label_now = {sample.digest: sample.label for sample in new if sample.digest is not None}
    found: defaultdict[str, Counter[str | None]] = defaultdict(Counter)
    for sample in old:
        if sample.digest is not None:
            found[sample.label][label_now.get(sample.digest)] += 1
    renamed: dict[str, str] = {}
    for label in gone:
        free = [name for name in added if name not in renamed.values()]
        total = sum(found[label].values())
        match = [name for name in free if total and found[label][name] > _RENAMED_SHARE * total]
        match = match or [name for name in free if _folded(name) == _folded(label)]
        if match:
            renamed[label] = match[0]
    return ClassChanges(
        kept=tuple(label for label in new_labels if label in old_labels),
        renamed=tuple(renamed.items()),
        added=tuple(name for name in added if name not in renamed.values()),
        gone=tuple(label for label in gone if label not in renamed),
    )


def _folded(name: str) -> str:
    return name.casefold().translate({ord(mark): None for mark in " -_"})


@dataclass(frozen=True, eq=False)
class Transfer:
    """An earlier run's network, to begin a new training with.

    Attributes:
        folder: The earlier run's folder.
        labels: Its classes in output order.
        model: Its Keras model.
        changes: How the classes differ.
        leaked: Number of its training and validation images that are now test images.
        seen_images: Its training and validation images, as `ModelSpec.seen_images`; None where they are not recorded.
        began_with: The weights that its own training began with, as its spec records them.
    """

    folder: Path
    labels: tuple[str, ...]
    model: KerasModel
    changes: ClassChanges
    leaked: int
    seen_images: Mapping[str, str] | None = None
    began_with: str | None = None

    def backbone(self, build_own: Callable[[], KerasModel] | None = None) -> KerasModel:
        """The earlier network up to its pooled features.

        Args:
            build_own: Builds the same backbone anew, for the rates of its dropout, which the earlier training may have
                scaled; None for a backbone that is not trained.
        """
        from keras import Model

        backbone = Model(self.model.input, self.model.get_layer("head_dropout").input, name=self.model.name)
        return backbone if build_own is None or not has_dropout(backbone) else with_dropout_of(backbone, build_own())

    def fill(self, network: KerasModel, labels: Sequence[str]) -> None:
        """Copies the earlier network's weights into a new network or head, in place.

        Layers are matched by name; in `logits` the columns of classes that the earlier run knew are copied, those of
        new classes stay as they are.

        Args:
            network: The network or head to be trained.
            labels: Its classes in output order.

        Raises:
            RunFolderError: The earlier network has other layers.
        """
        from keras import layers

        earlier = {layer.name: layer for layer in self.model.layers}
        old_index = {label: position for position, label in enumerate(self.labels)}
        for layer in network.layers:
            known = earlier.get(layer.name)
            if isinstance(layer, layers.ReLU) and isinstance(known, layers.ReLU):
                # Quantization-aware training gives ReLUs an end of their own.
                layer.max_value = known.max_value
            if not layer.weights:
                continue
            if layer.name not in earlier:
                raise self._other_layers(f"no layer {layer.name}")
            values = earlier[layer.name].get_weights()
            if layer.name == "logits":
                kernel, bias = layer.get_weights()
                if values[0].shape[0] != kernel.shape[0]:
                    raise self._other_layers(f"{values[0].shape[0]} features, not {kernel.shape[0]}")
                for position, label in enumerate(labels):
                    old_name = self.changes.old_names.get(label)
                    if old_name is not None:
                        kernel[:, position] = values[0][:, old_index[old_name]]
                        bias[position] = values[1][old_index[old_name]]
                values = [kernel, bias]
            if [np.shape(value) for value in values] != [tuple(weight.shape) for weight in layer.weights]:
                raise self._other_layers(f"layer {layer.name} of another shape")
            layer.set_weights(values)

    def _other_layers(self, got: str) -> RunFolderError:
        return RunFolderError(
            f"cannot go on from {self.folder}",
            got=got,
            expected="the network of the same architecture",
            hint="train anew",
        )


def split_by_digest(samples: Iterable[Sample]) -> dict[str, Split]:
    """The split of each image, by the digest of its file; images without either are left out.

    Copies that had several have that of the first use: training, validation, test.
    """
    found: dict[str, Split] = {}
    for sample in samples:
        if sample.digest is not None and sample.split is not None:
            found[sample.digest] = min(sample.split, found.get(sample.digest, sample.split), key=SPLITS.index)
    return found


def count_leaked(earlier: Iterable[Sample], new: Iterable[Sample]) -> int:
    """Number of training and validation images of an earlier run that are now test images."""
    before = split_by_digest(earlier)
    return sum(sample.split == "test" and before.get(sample.digest or "") in {"train", "val"} for sample in new)
