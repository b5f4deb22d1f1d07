"""Ranges that quantization-aware training has learned, found again in the exported graph.

A converted graph has other names than the network it came from, and other values between its layers; what it shares with it
is the numbers. So a value is found by what it is for a few images.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.export.graph.float_graph import FloatGraph
from edgeclf.export.int8.observe import session_with_outputs
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.runtime.arrays import FloatArray, UInt8Array

# The largest difference of two values that are the same, as a share of the largest of them.
_SAME = 1e-3


@dataclass(frozen=True, eq=False)
class TrainedRanges:
    """What a network has learned its values to be rounded with.

    Attributes:
        images_rgb: (N, H, W, 3) uint8 RGB, a few images.
        values: For each value, what it is for these: (N, H, W, C) or (N, C) float32.
        params: For each, its scale and zero point.
    """

    images_rgb: UInt8Array
    values: tuple[FloatArray, ...]
    params: tuple[QuantParams, ...]

    def locate(self, graph: FloatGraph, names: Iterable[str]) -> dict[str, QuantParams]:
        """Which of a graph's values they belong to.

        Args:
            graph: The float graph of the same network.
            names: Values to look among.

        Returns:
            By name; what is not the same as any of the network's values for these images is not among them.
        """
        asked = sorted(set(names))
        if not asked:
            return {}
        outputs = session_with_outputs(graph, asked).run(None, {graph.input: self.images_rgb})
        found = {}
        for name, theirs in zip(asked, outputs, strict=True):
            distances = [_distance(theirs, mine) for mine in self.values]
            if distances and min(distances) <= _SAME:
                found[name] = self.params[int(np.argmin(distances))]
        return found


def trained_ranges(network: Any, ranges: Mapping[str, Mapping[str, float]], images_rgb: UInt8Array) -> TrainedRanges:  # noqa: ANN401 - keras carries no types
    """The ranges that a training has written into its spec.

    Args:
        network: The trained Keras model.
        ranges: `scale` and `zero_point` by the name of the layer whose output they belong to.
        images_rgb: (N, H, W, 3) uint8 RGB, a few images.
    """
    from keras import Model

    names = list(ranges)
    # Not all that gives a value is a layer: x + 3 and x * y are operations of the graph.
    outputs = {operation.name: operation.output for operation in network.operations}
    values = Model(network.input, [outputs[name] for name in names])(images_rgb, training=False)
    return TrainedRanges(
        np.ascontiguousarray(images_rgb),
        tuple(np.asarray(value) for value in values),
        tuple(QuantParams.from_json(ranges[name]) for name in names),
    )


def _distance(theirs: FloatArray, mine: FloatArray) -> float:
    """The largest difference as a share of the largest value; infinite where shapes differ."""
    if mine.ndim == 4 and theirs.ndim == 4:
        # (N, H, W, C), as Keras has it, to (N, C, H, W).
        mine = mine.transpose(0, 3, 1, 2)
    if mine.size != theirs.size or (mine.ndim == theirs.ndim and mine.shape != theirs.shape):
        return np.inf
    largest = float(np.abs(mine).max())
    # Pooled values have one number a channel, with or without their height and width of one.
    difference = float(np.abs(theirs.reshape(-1) - mine.reshape(-1)).max())
    return difference / largest if largest > 0 else (0.0 if difference == 0 else np.inf)
