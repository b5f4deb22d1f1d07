"""The self-test of a model file: inputs that arithmetic defines, and the probabilities they gave where the file was made.

docs/self-test.md has the format for programs in other languages.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.session import ModelSession

VERSION = 1
# Smaller probabilities count as this one: near the end of float32 their digits are the device's own.
FLOOR = 1e-30
# What a damaged file may ask for.
_MAX_SIDE, _MAX_GRIDS, _MAX_INPUTS = 64, 4, 16


@dataclass(frozen=True)
class GoldenImage:
    """An input image that is defined by integer arithmetic, the same everywhere.

    Attributes:
        seed: Seed of the pseudo-random bytes, below 2**32.
        grids: Numbers of rows, which are those of columns, of the colour grids whose mean it is.
    """

    seed: int
    grids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"a seed must be below 2**32, got {self.seed}")
        if not 1 <= len(self.grids) <= _MAX_GRIDS or not all(1 <= side <= _MAX_SIDE for side in self.grids):
            raise ValueError(f"grids must be up to {_MAX_GRIDS} numbers from 1 to {_MAX_SIDE}, got {self.grids}")

    def pixels(self, size_hw: tuple[int, int]) -> UInt8Array:
        """The image, (H, W, 3) uint8 RGB, at a model's input size."""
        height, width = size_hw
        total = np.zeros((height, width, 3), np.int64)
        state = self.seed
        for side in self.grids:
            grid = np.empty(side * side * 3, np.int64)
            for position in range(len(grid)):
                # The constants of Numerical Recipes; the upper bits of such a generator are the better ones.
                state = (1664525 * state + 1013904223) % 2**32
                grid[position] = state >> 24
            rows, columns = np.arange(height) * side // height, np.arange(width) * side // width
            total += grid.reshape(side, side, 3)[rows][:, columns]
        return (total // len(self.grids)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class GoldenInput:
    """An input with the output that it had.

    Attributes:
        image: The image.
        label_index: Position of its most probable class in the labels.
        probabilities: Float32, of the classes that `SelfTest.recorded` gives.
    """

    image: GoldenImage
    label_index: int
    probabilities: FloatArray


@dataclass(frozen=True, eq=False)
class SelfTest:
    """The self-test of a model file, as its spec records it.

    Attributes:
        inputs: The inputs.
        tolerance: Largest error, see `log_error`, on ONNX Runtime's CPU kernels.
        other_tolerance: The same elsewhere: GPUs and NPUs multiply floats with fewer bits, and int8 operators as floats.
        class_step: Every how many-th class is recorded: input `i` has those from `i % class_step` on, so that several inputs
            have all of them between them.
    """

    inputs: tuple[GoldenInput, ...]
    tolerance: float
    other_tolerance: float
    class_step: int = 1

    def images_rgb(self, size_hw: tuple[int, int]) -> UInt8Array:
        """The inputs, (N, H, W, 3) uint8 RGB, at a model's input size."""
        return np.stack([item.image.pixels(size_hw) for item in self.inputs])

    def recorded(self, number: int) -> slice:
        """The classes of which the input of that number, from 0 on, has probabilities."""
        return slice(number % self.class_step, None, self.class_step)

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values, for the spec."""
        return {
            "version": VERSION,
            "class_step": self.class_step,
            "tolerance": {"cpu": self.tolerance, "other": self.other_tolerance},
            "inputs": [
                {
                    "seed": item.image.seed,
                    "grids": list(item.image.grids),
                    "label_index": item.label_index,
                    "probabilities": base64.b64encode(item.probabilities.astype("<f4").tobytes()).decode("ascii"),
                }
                for item in self.inputs
            ],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], classes: int) -> "SelfTest":
        """Reads what `to_json` gave.

        Args:
            record: The record.
            classes: Number of classes of the model.

        Raises:
            ValueError: It is none; also KeyError, TypeError, AttributeError.
        """
        step, tolerance = int(record["class_step"]), record["tolerance"]
        limits = float(tolerance["cpu"]), float(tolerance["other"])
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']!r}")
        if not 1 <= step <= classes or not all(math.isfinite(limit) and limit > 0 for limit in limits):
            raise ValueError(f"class_step {step}, tolerance {limits}")
        if not 1 <= len(record["inputs"]) <= _MAX_INPUTS:
            raise ValueError(f"{len(record['inputs'])} inputs")
        inputs = []
        for number, item in enumerate(record["inputs"]):
            image = GoldenImage(int(item["seed"]), tuple(int(side) for side in item["grids"]))
            values = np.frombuffer(base64.b64decode(item["probabilities"], validate=True), "<f4").astype(np.float32)
            index = int(item["label_index"])
            if (
                len(values) != len(range(number % step, classes, step))
                or not np.isfinite(values).all()
                or not 0 <= index < classes
            ):
                raise ValueError(f"{len(values)} probabilities and label {index} for {classes} classes")
            inputs.append(GoldenInput(image, index, values))
        return cls(tuple(inputs), *limits, step)


@dataclass(frozen=True)
class SelfTestItem:
    """One input of a self-test, as it came out here.

    Attributes:
        image: The input.
        expected_label: Its most probable class where the file was made.
        label: Its most probable class here.
        error: Its error, see `log_error`; infinite where an output is no number.
    """

    image: GoldenImage
    expected_label: str
    label: str
    error: float


@dataclass(frozen=True)
class SelfTestResult:
    """What the self-test of a model file found.

    Attributes:
        items: The inputs.
        tolerance: The largest error that passes.
        provider: What ran the file, such as `CPUExecutionProvider`.
    """

    items: tuple[SelfTestItem, ...]
    tolerance: float
    provider: str

    @property
    def error(self) -> float:
        """The largest error of all inputs."""
        return max(item.error for item in self.items)

    @property
    def passed(self) -> bool:
        """Whether the file computes here what it computed where it was made."""
        return self.error <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values; an infinite error is null."""
        return {
            "passed": self.passed,
            "error": _finite(self.error),
            "tolerance": self.tolerance,
            "provider": self.provider,
            "inputs": [
                {
                    "seed": item.image.seed,
                    "grids": list(item.image.grids),
                    "expected_label": item.expected_label,
                    "label": item.label,
                    "error": _finite(item.error),
                }
                for item in self.items
            ],
        }


def self_test_of(session: ModelSession) -> SelfTest:
    """The self-test that a file carries.

    Raises:
        ModelFileError: It has none, or one that cannot be read.
    """
    record = session.spec.self_test
    if record is None:
        raise ModelFileError(
            f"{session.path} has no self-test",
            got="a file without an edgeclf spec" if session.is_foreign else "one that was exported without",
            expected="golden inputs in its spec",
            hint="export it again, or verify it on images: edgeclf verify MODEL DATA --against RUN_OR_MODEL",
        )
    try:
        return SelfTest.from_json(record, len(session.spec.labels))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(
            f"cannot read the self-test of {session.path}",
            got=f"{type(error).__name__}: {error}",
            expected=f"version {VERSION} of docs/self-test.md",
            hint="update edgeclf, or export the file again",
        ) from error


def run_self_test(session: ModelSession) -> SelfTestResult:
    """Runs the golden inputs of a file, one at a time, and compares the probabilities with those it records.

    Raises:
        ModelFileError: The file has no self-test, or one that cannot be read, or cannot be run.
    """
    test = self_test_of(session)
    images_rgb = test.images_rgb(session.spec.preprocess.size_hw)
    # One at a time, as they were recorded.
    outputs = np.concatenate([session.run(images_rgb[row : row + 1]) for row in range(len(images_rgb))])
    return compare_with_record(test, outputs, session.spec.labels, is_cpu=session.is_cpu, provider=session.provider)


def compare_with_record(
    test: SelfTest, outputs: FloatArray, labels: Sequence[str], *, is_cpu: bool, provider: str
) -> SelfTestResult:
    """Compares outputs with those that a self-test records.

    Args:
        test: The self-test.
        outputs: (N, C) float32 probabilities of its inputs.
        labels: Class names in the order of the outputs.
        is_cpu: Whether ONNX Runtime's CPU kernels computed them.
        provider: Name of what did.
    """
    items = []
    for number, (item, got) in enumerate(zip(test.inputs, outputs, strict=True)):
        error = log_error(got[test.recorded(number)], item.probabilities)
        items.append(SelfTestItem(item.image, labels[item.label_index], labels[int(got.argmax())], error))
    return SelfTestResult(tuple(items), test.tolerance if is_cpu else test.other_tolerance, provider)


def log_error(got: FloatArray, expected: FloatArray) -> float:
    """The largest difference of the natural logarithms of two outputs: the error of the logits, up to a constant.

    It does not depend on how sure the network is: where a class has a probability of nearly 1, a fault that
    changes the logits is to be seen in the others.

    Args:
        got: Float32 probabilities of any shape; infinity is the answer where one is no number.
        expected: Those of the same shape to compare with.
    """
    if not np.isfinite(got).all():
        return math.inf
    logs = [np.log(np.maximum(values.astype(np.float64), FLOOR)) for values in (got, expected)]
    return float(np.abs(logs[0] - logs[1]).max())


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
