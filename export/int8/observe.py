"""Histograms and channel peaks of a float network's values on calibration images."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph
from edgeclf.export.graph.light.sessions import open_model
from edgeclf.export.graph.value_store import run_into
from edgeclf.export.int8.ranges import ValueHistogram
from edgeclf.runtime.arrays import Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session._onnxruntime import OrtSession

_BATCH = 4
# Memory for the values of one batch; networks whose values take more are run on fewer images at a time.
_BATCH_BYTES = 1 << 29
# Values of one tensor of one batch that are counted: far more than a histogram needs.
_COUNTED = 1 << 17


@dataclass(frozen=True, eq=False)
class Observed:
    """Observed values of a float network on calibration images.

    Attributes:
        histograms: Of each tensor.
        channel_peaks: (C,) float64 largest magnitude of each channel of each tensor.
    """

    histograms: dict[str, ValueHistogram]
    channel_peaks: dict[str, Float64Array]


def observe(graph: FloatGraph, tensors: Iterable[str], images_rgb: UInt8Array, progress: Progress) -> Observed:
    """Observes values in two passes of the float network: minima and maxima, then histograms between them.

    Args:
        graph: The float graph.
        tensors: Float values whose ranges are wanted.
        images_rgb: (N, H, W, 3) uint8 RGB calibration images.
        progress: Called with the number of images done.

    Raises:
        InputError: A value is not finite.
    """
    names = list(dict.fromkeys(tensors))
    if not names:
        return Observed({}, {})
    session = session_with_outputs(graph.model, dict.fromkeys(names, onnx.TensorProto.FLOAT), threads=usable_cpus())
    peaks: dict[str, Float64Array] = {}
    bytes_each = sum(values.nbytes for values in session.run(None, {graph.input: images_rgb[:1]}))
    batch = int(np.clip(_BATCH_BYTES // max(1, bytes_each), 1, _BATCH))
    memory: dict[str, FloatArray] = {}

    def run(batch_rgb: UInt8Array) -> dict[str, FloatArray]:
        if len(batch_rgb) != batch:
            return dict(zip(names, session.run(None, {graph.input: batch_rgb}), strict=True))
        if memory:
            run_into(session, {graph.input: batch_rgb}, memory)
        else:
            memory.update(zip(names, session.run(None, {graph.input: batch_rgb}), strict=True))
        return memory

    def on_values(name: str, values: FloatArray) -> None:
        axes = _other_axes(values)
        peak = np.maximum(values.max(axis=axes), -values.min(axis=axes)).astype(np.float64)
        peaks[name] = np.maximum(peaks.get(name, peak), peak)

    return Observed(count_values(run, images_rgb, progress, on_values=on_values, batch=batch), peaks)


def count_values(
    run: Callable[[UInt8Array], Mapping[str, FloatArray]],
    images_rgb: UInt8Array,
    progress: Progress,
    *,
    on_values: Callable[[str, FloatArray], None] = lambda *_: None,
    batch: int = _BATCH,
) -> dict[str, ValueHistogram]:
    """Histograms of a network's values in two passes: minima and maxima, then counts between them.

    Args:
        run: Returns the values of a batch of images by name.
        images_rgb: (N, H, W, 3) uint8 RGB images.
        progress: Called with the number of images done.
        on_values: Called once with each batch's values.
        batch: Images at a time.

    Raises:
        InputError: A value is not finite.
    """
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    histograms: dict[str, ValueHistogram] = {}
    total = 2 * len(images_rgb)
    for counting in (False, True):
        for start in range(0, len(images_rgb), batch):
            batch_rgb = np.ascontiguousarray(images_rgb[start : start + batch])
            for name, values in run(batch_rgb).items():
                if counting:
                    flat = values.ravel()
                    histograms[name].add(flat[:: -(-flat.size // _COUNTED)])
                    continue
                low, high = float(values.min()), float(values.max())
                if not (np.isfinite(low) and np.isfinite(high)):
                    raise InputError(
                        "cannot quantize this network",
                        got=f"values in {name} that are not finite",
                        expected="finite numbers for every calibration image",
                        hint="train it again with a smaller learning rate",
                    )
                lows[name], highs[name] = min(low, lows.get(name, low)), max(high, highs.get(name, high))
                on_values(name, values)
            progress("observe", counting * len(images_rgb) + start + len(batch_rgb), total)
        if not counting:
            histograms = {name: ValueHistogram(lows[name], highs[name]) for name in lows}
    return histograms


def _other_axes(values: FloatArray) -> tuple[int, ...]:
    """All axes but that of the channels: the second of (N, C, H, W), the last of anything else."""
    channel = 1 if values.ndim == 4 else values.ndim - 1
    return tuple(axis for axis in range(values.ndim) if axis != channel)


def session_with_outputs(model: onnx.ModelProto, kinds: Mapping[str, int], *, threads: int) -> OrtSession:
    """A session of a copy of a model that gives other values.

    Args:
        model: The model.
        kinds: Element type of each value by name, in their order, such as `onnx.TensorProto.FLOAT`.
        threads: Threads inside one inference.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())
    return open_model(copy, threads=threads)
