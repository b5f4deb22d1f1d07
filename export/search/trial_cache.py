"""Recipes that were tried before, kept from one export to the next.

Another `--min-agreement`, `--effort` or `--out` asks the same recipes of the same network and images again, and a budget
that ended early leaves the rest for the next time. A kept trial is one `.onnx` file: the quantized model, with what it was
judged to be in its metadata, named by all that its figures depend on.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from edgeclf.export._onnx import onnx
from edgeclf.export.int8.network import Quantized
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.verify.parity import ParityFacts
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.files import write_bytes
from edgeclf.runtime.session._onnxruntime import onnxruntime

_METADATA_KEY = "edgeclf.trial"
_PREFIX = "int8-"


@dataclass(frozen=True)
class Subject:
    """What recipes are tried on.

    Attributes:
        model: The float model.
        calibration_rgb: (N, H, W, 3) uint8 RGB calibration images.
        judged_by: Digest of the images and reference probabilities that candidates are compared with.
        ranges: What quantization-aware training has learned, as in the spec.
    """

    model: onnx.ModelProto
    calibration_rgb: npt.NDArray[np.uint8]
    judged_by: str
    ranges: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Differs whenever a recipe would give another model, or other figures, here."""
        cpu = cpu_info()
        # Kernels are chosen by the CPU and the versions, and round differently.
        here = [cpu.model, cpu.architecture, cpu.isa_flags, onnx.__version__, onnxruntime.__version__, np.__version__]
        digest = hashlib.blake2b(json.dumps([here, self.judged_by, dict(self.ranges)]).encode(), digest_size=16)
        digest.update(self.model.SerializeToString(deterministic=True))
        digest.update(str(self.calibration_rgb.shape).encode())
        digest.update(np.ascontiguousarray(self.calibration_rgb).data)
        # A newer edgeclf may quantize better.
        for source in sorted(Path(__file__).parents[1].rglob("*.py")):
            digest.update(source.read_bytes())
        return digest.hexdigest()


class Trials:
    """The kept trials of one subject.

    Args:
        folder: Where they are kept.
        subject: What they are of. Without a folder or a subject nothing is kept.

    Attributes:
        reused: How many trials came from there.
    """

    def __init__(self, folder: Path | None, subject: Subject | None = None) -> None:
        self._folder = folder if subject is not None else None
        self._digest = "" if subject is None else subject.digest
        self.reused = 0

    def judged(
        self, kind: str, recipe: QuantizationRecipe, try_it: Callable[[], tuple[Quantized, tuple[ParityFacts, ...]]]
    ) -> tuple[Quantized, tuple[ParityFacts, ...]]:
        """A trial as it was kept, else what `try_it` gives, which is kept.

        Args:
            kind: What the recipe alone does not say: how many images it was fitted to, how many layers fell back.
            recipe: The recipe.
            try_it: Quantizes and compares.
        """
        if self._folder is None:
            return try_it()
        path = self._path(kind, recipe, ".onnx")
        kept = _read(path)
        if kept is not None:
            self.reused += 1
            return kept
        quantized, parity = try_it()
        model = onnx.ModelProto()
        model.CopyFrom(quantized.model)
        # The spec that it was judged with is not the one it will be written with.
        del model.metadata_props[:]
        document = {
            "recipe": quantized.recipe,
            "layers": quantized.layers,
            "left_in_float": quantized.left_in_float,
            "parity": [asdict(facts) for facts in parity],
        }
        entry = model.metadata_props.add()
        entry.key, entry.value = _METADATA_KEY, json.dumps(document)
        self._keep(path, model.SerializeToString())
        return quantized, parity

    def texts(self, kind: str, recipe: QuantizationRecipe, find: Callable[[], Sequence[str]]) -> tuple[str, ...]:
        """Some texts, such as names of layers, as they were kept, else what `find` gives, which is kept."""
        if self._folder is None:
            return tuple(find())
        path = self._path(kind, recipe, ".names")
        try:
            return tuple(str(name) for name in json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            found = tuple(find())
        self._keep(path, json.dumps(found).encode())
        return found

    def _path(self, kind: str, recipe: QuantizationRecipe, suffix: str) -> Path:
        text = json.dumps([self._digest, kind, asdict(recipe)], sort_keys=True)
        return (
            self._folder or Path()
        ) / f"{_PREFIX}{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}{suffix}"

    @staticmethod
    def _keep(path: Path, data: bytes) -> None:
        # A full disk costs the next export its short cut, not this one its result.
        try:
            write_bytes(path, data)
        except OutputError:
            return


def _read(path: Path) -> tuple[Quantized, tuple[ParityFacts, ...]] | None:
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
        (entry,) = [entry for entry in model.metadata_props if entry.key == _METADATA_KEY]
        document: dict[str, Any] = json.loads(entry.value)
        parity = tuple(
            ParityFacts(**{**facts, "disagreements": tuple(facts["disagreements"])}) for facts in document["parity"]
        )
        model.metadata_props.remove(entry)
        left = tuple((str(name), str(operator)) for name, operator in document["left_in_float"])
        quantized = Quantized(model, document["recipe"], tuple(document["layers"]), left)
        # What was used last is what pruning keeps.
        os.utime(path)
    # Whatever is wrong with a kept file, the trial can be made again.
    except (OSError, ValueError, KeyError, TypeError, DecodeError):
        return None
    return quantized, parity
