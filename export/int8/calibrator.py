"""Static int8 that gives the same results on every CPU: the passes that carry a recipe out, see `int8.recipe`.

Each layer's weights keep 8 bits under the pair constraint of `int8.weights`, activations get the ranges that cost least,
rounding is learned and biases are corrected layer by layer on what the quantized layers before really give, and uint8
pixels enter the first layer untouched.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, prepare_model, read_graph
from edgeclf.export.graph.pixel_normalisation import find_stem
from edgeclf.export.int8.determinism import align_sums
from edgeclf.export.int8.equalization import equalize, find_streams
from edgeclf.export.int8.float_prefix import Stopwatch, choose_entrance, float_entrances
from edgeclf.export.int8.layerwise import LayerMethods, quantize_layers
from edgeclf.export.int8.network import Quantized, QuantizedNetwork, plan_network
from edgeclf.export.int8.observe import Observed, observe
from edgeclf.export.int8.partition import StepPlan, plan_steps
from edgeclf.export.int8.qat_ranges import TrainedRanges
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import Progress, no_progress

# Images that rounding and biases are fitted to; from 64 to 128 the squared error of the logits falls by 6 %.
SEQUENTIAL_IMAGES = 128
_QUANTIZED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"})


def quantize_int8(
    model: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    recipe: QuantizationRecipe | None = None,
    progress: Progress = no_progress,
) -> Quantized:
    """Quantizes a float32 contract model to int8: `calibrate_network`, written.

    Args:
        model: The float model.
        calibration_rgb: (N, H, W, 3) uint8 RGB, preprocessed images.
        recipe: How; None takes the default.
        progress: Told of each pass.

    Raises:
        EdgeclfError: As `Calibrator`.
    """
    return calibrate_network(model, calibration_rgb, recipe, progress).write()


def calibrate_network(
    model: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    recipe: QuantizationRecipe | None = None,
    progress: Progress = no_progress,
) -> QuantizedNetwork:
    """Fits ranges, weights and biases of a float32 contract model's int8 form: a `Calibrator`, used once.

    Raises:
        EdgeclfError: As `Calibrator`.
    """
    return Calibrator(model, calibration_rgb, progress).network(recipe or QuantizationRecipe())


class Calibrator:
    """A float network and its calibration images, from which any number of recipes are made; what they share is done once.

    Args:
        model: The float model, input `image` uint8 (N, H, W, 3).
        calibration_rgb: (N, H, W, 3) uint8 RGB, preprocessed images that ranges, rounding and biases are fitted to;
            images the model was trained on will do, images it is judged by must not be among them.
        progress: Told of each pass.
        sequential_images: Of the images, how many rounding and biases are fitted to; ranges are to all.
        trained: Ranges that the network was trained with, for recipes that ask for them.

    Raises:
        InputError: There are no calibration images, the model is quantized already, has no layer that can be, or gives
            values that are not finite.
        UsageError: A recipe keeps a layer in float that does not exist.
        MissingPackageError: A package of the extra [export] is not installed.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration_rgb: UInt8Array,
        progress: Progress = no_progress,
        *,
        sequential_images: int = SEQUENTIAL_IMAGES,
        trained: TrainedRanges | None = None,
    ) -> None:
        if len(calibration_rgb) == 0:
            raise InputError("cannot quantize", got="no calibration images", expected="at least one")
        if any(node.op_type in _QUANTIZED_OPS for node in model.graph.node):
            raise InputError(
                "cannot quantize",
                got="a model that is already quantized",
                expected="its float file",
                do="export it anew",
            )
        self._images = calibration_rgb
        self._progress = progress
        self._few = calibration_rgb[:sequential_images]
        self._ir_version = model.ir_version
        self._graph = read_graph(prepare_model(model))
        self._equalized: tuple[FloatGraph, int] | None = None
        self._seen: dict[bool, Observed] = {}
        self._trained = trained
        self._located: dict[str, QuantParams] | None = None

    @property
    def evens_channels(self) -> bool:
        """Whether there are channels that equalization would change."""
        return self._equalize()[1] > 0

    def network(self, recipe: QuantizationRecipe) -> QuantizedNetwork:
        """The network quantized by a recipe."""
        graph, streams = self._graph, 0
        # Checks the recipe before anything is run.
        plan = plan_network(graph, recipe)
        if recipe.equalize:
            graph, streams = self._equalize()
            plan = plan_network(graph, recipe)
        trained = self._locate() if recipe.trained_ranges else {}
        params = _choose_params(plan, self._observe(graph, equalized=streams > 0), recipe, trained)
        methods = LayerMethods(recipe.pair_constraint, recipe.learn_rounding, recipe.correct_bias)
        # Ranges need many images, for what is rare; rounding and biases are means, which settle soon.
        layers = quantize_layers(graph, plan, params, self._few, methods=methods, progress=self._progress)
        return QuantizedNetwork(graph, params, layers, recipe, len(self._images), streams, self._ir_version)

    def find_entrance(self, recipe: QuantizationRecipe, stopwatch: Stopwatch) -> tuple[str, ...]:
        """The first layers that are no slower in float, for `QuantizationRecipe.float_entrance`.

        Args:
            recipe: What else stays in float.
            stopwatch: Gives each model's latency in any unit, measured side by side.
        """
        # How long a file takes does not depend on its numbers, so what is quickest to fit will do.
        network = self.network(replace(recipe, learn_rounding=False, correct_bias=False, equalize=False))
        entrances = float_entrances(network.write().layers)
        models = [network.write(entrance).model for entrance in entrances]
        return choose_entrance(entrances, models, stopwatch)

    def _equalize(self) -> tuple[FloatGraph, int]:
        if self._equalized is None:
            self._equalized = self._graph, 0
            if streams := find_streams(self._graph):
                measured = [value for stream in streams for value in stream.measured]
                peaks = observe(self._graph, measured, self._images, self._progress)
                model, count = equalize(self._graph.model, self._graph, peaks.channel_peaks)
                self._equalized = read_graph(model), count
        return self._equalized

    def _locate(self) -> dict[str, QuantParams]:
        if self._trained is None:
            raise ValueError("a recipe asks for trained ranges of a network that has none")
        if self._located is None:
            wanted = plan_steps(self._graph, find_stem(self._graph.model)).in_bytes
            self._located = self._trained.locate(self._graph, wanted)
        return self._located

    def _observe(self, graph: FloatGraph, *, equalized: bool) -> Observed:
        if equalized not in self._seen:
            # Of every value that any recipe may want in 8 bits, those among them that have another's scale in this one.
            wanted = sorted(plan_steps(graph, find_stem(graph.model)).in_bytes)
            self._seen[equalized] = observe(graph, wanted, self._images, self._progress)
        return self._seen[equalized]


def _choose_params(
    plan: StepPlan, seen: Observed, recipe: QuantizationRecipe, trained: Mapping[str, QuantParams]
) -> dict[str, QuantParams]:
    """The parameters of every value in 8 bits: those it was trained with, or such as suit what was seen of it."""
    params = {
        name: trained.get(name) or histogram.params(recipe.ranges)
        for name, histogram in seen.histograms.items()
        if name in plan.in_bytes
    }
    stem = plan.stem
    if stem is not None and stem.output in params and stem.zero_point is not None:
        # The pixels are already 8-bit: with the stem's own scale and zero point no pixel value is rounded.
        params[stem.output] = QuantParams(float(np.float32(stem.scale)), stem.zero_point)
    for step in plan.steps:
        if step.moves and step.quantized:
            params[step.output] = params[step.inputs[0]]
        if step.factor is not None and {step.inputs[0], step.output} <= params.keys():
            source = params[step.inputs[0]]
            params[step.output] = QuantParams(float(np.float32(source.scale * step.factor)), source.zero_point)
    return align_sums(plan.steps, params)
