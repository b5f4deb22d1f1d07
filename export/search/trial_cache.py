"""Cache of int8 models and their parity figures, so that a repeated export does not quantize again.

Another `--min-agreement`, `--effort` or `--out` tries the same recipes on the same network and images, and a budget that
ended early leaves the rest to the next export. A cached trial is one `.onnx` file, named by a digest of all that its figures
depend on: the int8 model, with its figures in the metadata.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from edgeclf.export._onnx import onnx
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.graph.light.whole_file import serialized
from edgeclf.export.int8.calibrator import Quantized
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.verify.parity import ParityFacts
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.files import write_bytes
from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.runtime.spec.json_documents import check_shape, record_from_json

_METADATA_KEY = "edgeclf.trial"
_PREFIX = "int8-"


@dataclass(frozen=True)
class TrialKey:
    """Everything but the recipe that a trial's model and figures depend on.

    Attributes:
        model: The float model.
        calibration_rgb: (N, H, W, 3) uint8 RGB calibration images.
        judged_by: Digest of the images and reference probabilities that candidates are compared with.
        trained: Scales from quantization-aware training, as in the spec; empty where there was none.
    """

    model: onnx.ModelProto
    calibration_rgb: UInt8Array
    judged_by: str
    trained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hexadecimal digest, also of the CPU, the package versions and the source of this floor."""
        cpu = cpu_info()
        # Kernels are chosen by the CPU and the versions, and round differently.
        here = [cpu.model, cpu.architecture, cpu.isa_flags, onnx.__version__, onnxruntime.__version__, np.__version__]
        digest = hashlib.blake2b(json.dumps([here, self.judged_by, dict(self.trained)]).encode(), digest_size=16)
        for piece in serialized(self.model):
            digest.update(piece)
        digest.update(str(self.calibration_rgb.shape).encode())
        digest.update(np.ascontiguousarray(self.calibration_rgb).data)
        # A newer edgeclf may quantize better.
        for source in sorted(Path(__file__).parents[1].rglob("*.py")):
            digest.update(source.read_bytes())
        return digest.hexdigest()


class TrialCache:
    """The cached trials of one key.

    Args:
        folder: Where the files lie; made when the first one is written, and kept to its size.
        key: What the trials are of.

    Attributes:
        reused: How many trials were read instead of made.
    """

    def __init__(self, folder: CacheFolder, key: TrialKey) -> None:
        self._folder = folder
        self._digest = key.digest
        self.reused = 0

    def trial(
        self,
        kind: str,
        recipe: QuantizationRecipe,
        make: Callable[[], tuple[Quantized, tuple[ParityFacts, ...], float]],
    ) -> tuple[Quantized, tuple[ParityFacts, ...], float]:
        """The cached int8 model of a recipe with its comparisons, and the seconds that they took when they were made.

        Where there is none, `make` gives them, and they are stored.

        Args:
            kind: What the recipe alone does not say: how many images it was fitted to.
            recipe: The recipe.
            make: Quantizes, compares, and says how long that took.
        """
        path = self._path(kind, recipe, ".onnx")
        cached = _read(path)
        if cached is not None:
            self.reused += 1
            return cached
        quantized, parity, seconds = made = make()
        model = onnx.ModelProto()
        model.CopyFrom(quantized.model)
        # The spec of the comparison is not the one that the final file gets.
        del model.metadata_props[:]
        document = {
            "recipe": quantized.recipe,
            "layers": quantized.layers,
            "left_in_float": quantized.left_in_float,
            "parity": [asdict(facts) for facts in parity],
            "seconds": seconds,
        }
        entry = model.metadata_props.add()
        entry.key, entry.value = _METADATA_KEY, json.dumps(document)
        self._store(path, model.SerializeToString())
        return made

    def has_trial(self, kind: str, recipe: QuantizationRecipe) -> bool:
        """Whether the trial of a recipe is to be read, which takes no time to speak of; a damaged file is made again after all."""
        return self._path(kind, recipe, ".onnx").is_file()

    def names(self, kind: str, recipe: QuantizationRecipe, find: Callable[[], Sequence[str]]) -> tuple[str, ...]:
        """Cached names, such as those of layers in an order; where there are none, `find` gives them, and they are stored."""
        path = self._path(kind, recipe, ".names")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            check_shape(found, [str])
            names = tuple(found or ())
            os.utime(path)
        except (OSError, ValueError, RecursionError):
            names = tuple(find())
        else:
            return names
        self._store(path, json.dumps(names).encode())
        return names

    def _path(self, kind: str, recipe: QuantizationRecipe, suffix: str) -> Path:
        text = json.dumps([self._digest, kind, asdict(recipe)], sort_keys=True)
        return self._folder.path / f"{_PREFIX}{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}{suffix}"

    def _store(self, path: Path, data: bytes) -> None:
        # A full disk costs the next export its short cut, not this one its result.
        with contextlib.suppress(OutputError):
            self._folder.make_room(len(data))
            write_bytes(path, data)


def _read(path: Path) -> tuple[Quantized, tuple[ParityFacts, ...], float] | None:
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
        (entry,) = [entry for entry in model.metadata_props if entry.key == _METADATA_KEY]
        document: dict[str, Any] = json.loads(entry.value)
        check_shape(document, {"recipe": {}, "layers": [str], "left_in_float": [[str]], "seconds": float})
        parity = tuple(record_from_json(ParityFacts, facts) for facts in document["parity"])
        model.metadata_props.remove(entry)
        left = tuple((str(name), str(operator)) for name, operator in document["left_in_float"])
        quantized = Quantized(model, document["recipe"], tuple(document["layers"]), left)
        seconds = float(document["seconds"])
        # The least recently used files go first.
        os.utime(path)
    # Whatever is wrong with a cached file, the trial can be made again.
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DecodeError):
        return None
    return quantized, parity, seconds
