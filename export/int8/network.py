"""A network with everything that calibration has fitted, and the QDQ files that are written from it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import INPUT_NAME, OUTPUT_NAME
from edgeclf.export.graph.convert import keep_used_opsets
from edgeclf.export.graph.float_graph import FloatGraph
from edgeclf.export.graph.pixel_normalisation import Stem, find_stem
from edgeclf.export.int8.determinism import unsettled_sums
from edgeclf.export.int8.partition import StepPlan, plan_steps
from edgeclf.export.int8.qdq_writer import Emitter, QuantizedLayer, in_bytes, model_of
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.int8.saturation import prove_no_saturation
from edgeclf.runtime.errors import InputError, UsageError


@dataclass(frozen=True)
class Quantized:
    """An int8 model and how it was made.

    Attributes:
        model: The QDQ graph, same input and output as the float model.
        recipe: The recipe as JSON values, for the spec.
        layers: Names of the layers that are in 8 bits.
        left_in_float: Names and operators of what has no int8 form here, or was kept in float.
    """

    model: onnx.ModelProto
    recipe: dict[str, Any]
    layers: tuple[str, ...]
    left_in_float: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network with all that calibration has fitted, from which files with other layers in float can be written at once.

    Attributes:
        graph: The float graph, equalized where that was asked for.
        params: Of every value that exists in 8 bits.
        layers: The quantized layers by name.
        recipe: How it was made.
        calibration_images: How many images it was fitted to.
        equalized_streams: How many groups of values were equalized, see `find_streams`.
        ir_version: Of the model it came from.
    """

    graph: FloatGraph
    params: dict[str, QuantParams]
    layers: dict[str, QuantizedLayer]
    recipe: QuantizationRecipe
    calibration_images: int
    equalized_streams: int
    ir_version: int

    def write(self, keep_float: Collection[str] = ()) -> Quantized:
        """The network as a QDQ model.

        Args:
            keep_float: Names of layers to keep in float, besides those of the recipe.

        Raises:
            UsageError: There is no such layer.
        """
        recipe = replace(self.recipe, keep_float=tuple(dict.fromkeys([*self.recipe.keep_float, *keep_float])))
        plan = plan_network(self.graph, recipe)
        params = {value: params for value, params in self.params.items() if value in plan.in_bytes}
        folded = _is_exact(plan.stem)
        model = _write(self.graph, plan, params, self.layers, folded=folded)
        model.ir_version = self.ir_version
        onnx.checker.check_model(model)
        proof = prove_no_saturation(model)
        if recipe.pair_constraint and not proof.holds:
            raise RuntimeError(f"the pair constraint does not hold in {', '.join(proof.violating)}")
        record = {
            "format": "QDQ",
            "activation_type": "uint8",
            "weight_type": "int8",
            "per_channel": True,
            **asdict(recipe),
            "pair_constraint": recipe.pair_constraint,
            "keep_float": list(recipe.keep_float),
            "float_entrance": list(recipe.float_entrance),
            "equalized_streams": self.equalized_streams,
            "calibration_images": self.calibration_images,
            "normalisation_folded": folded,
            "saturation": proof.to_json(),
            "unsettled_sums": list(unsettled_sums(plan.steps, params)),
        }
        return Quantized(model, record, tuple(step.name for step in plan.layers), plan.left_in_float)


def plan_network(graph: FloatGraph, recipe: QuantizationRecipe) -> StepPlan:
    """What is done in 8 bits and what in float.

    Raises:
        UsageError: The recipe keeps a layer in float that does not exist.
        InputError: There is nothing to quantize.
    """
    plan = plan_steps(graph, find_stem(graph.model), recipe.in_float)
    unknown = set(recipe.in_float) - {step.name for step in plan.steps}
    if unknown:
        raise UsageError(
            f"no layer {min(unknown)!r} to keep in float", expected=", ".join(step.name for step in plan.layers)
        )
    if not plan.layers and not recipe.in_float:
        raise InputError("cannot quantize", got="a network without convolutions or dense layers", expected="some")
    return plan


def _is_exact(stem: Stem | None) -> bool:
    return stem is not None and stem.zero_point is not None


def _write(
    graph: FloatGraph,
    plan: StepPlan,
    params: dict[str, QuantParams],
    layers: dict[str, QuantizedLayer],
    *,
    folded: bool,
) -> onnx.ModelProto:
    emitter = Emitter(graph, params, layers)
    stem = plan.stem
    if stem is not None and stem.output in params and folded:
        # NHWC to NCHW (or whatever the stem did), now on bytes instead of floats.
        output = in_bytes(stem.output)
        node = onnx.helper.make_node("Identity", [INPUT_NAME], [output], "pixels")
        if stem.perm is not None:
            node = onnx.helper.make_node("Transpose", [INPUT_NAME], [output], "transpose_image", perm=list(stem.perm))
        emitter.nodes.append(node)
    elif stem is not None:
        for node in graph.nodes:
            if node.name in stem.nodes:
                emitter.copy(node)
        if stem.output in params:
            emitter.quantize(stem.output)
    for step in plan.steps:
        emitter.step(step)
    model = model_of(emitter, list(graph.model.graph.input), list(graph.model.graph.output), graph.model)
    if model.graph.output[0].name != OUTPUT_NAME:
        raise ValueError(f"expected the output {OUTPUT_NAME}, got {model.graph.output[0].name}")
    keep_used_opsets(model)
    return model
