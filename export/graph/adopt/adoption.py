"""`adopt_model`: an image classifier that others made becomes a model that follows edgeclf's contract."""

from dataclasses import dataclass

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.batch import free_batch
from edgeclf.export.graph.adopt.class_output import keep_output, write_class_output
from edgeclf.export.graph.adopt.entrance import write_entrance
from edgeclf.export.graph.adopt.naming import name_nodes
from edgeclf.export.graph.adopt.patterns import rewrite_patterns
from edgeclf.export.graph.adopt.proof import check_batches
from edgeclf.export.graph.adopt.reading import in_known_version, in_single_precision
from edgeclf.export.graph.adopt.simplify import fix_input_shape, optimized
from edgeclf.export.graph.light.structure import check_model
from edgeclf.runtime.errors import EdgeclfError, InputError
from edgeclf.runtime.session.foreign.use import ModelUse

_PRODUCER = "edgeclf"


@dataclass(frozen=True, eq=False)
class AdoptedModel:
    """A model of others that follows the contract.

    Attributes:
        model: Input `image`, uint8 (N, H, W, 3) RGB, output `probabilities`, float32 (N, C); no spec in it yet.
        notes: What the user has to know, sentences without a full stop.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...]


def adopt_model(model: onnx.ModelProto, use: ModelUse) -> AdoptedModel:
    """Turns an image classifier into a model that follows edgeclf's contract.

    The same model and use give the same bytes. That the result treats each image of a batch on its own is shown by running it.

    Args:
        model: The model as its file has it, see `read_foreign_model`; it is not changed. Of a light one the result is a light
            one too, its weights in the same folder.
        use: How it is used, complete as `ModelSession.use` is: nothing missing, number of classes and activation known.

    Raises:
        ValueError: The use is not complete.
        ModelFileError: The model's operator set cannot be converted, or ONNX Runtime cannot open it.
        InputError: The model takes a fixed number of images, and cannot be made to take any number.
    """
    if use.missing or use.output is None or use.size_hw is None or use.classes is None or use.activation is None:
        raise ValueError(f"the use of the model is not complete: {use}")
    notes: list[str] = []
    given = in_known_version(model)
    keep_output(given, use.output)
    if in_single_precision(given):
        notes.append(
            "the file computes in float16, the exported one in float32: probabilities differ in the third digit"
        )
    try:
        adopted = _for_any_batch(given, use)
    except InputError:
        if use.input.batch is not None:
            raise
        # An operator of which nothing is known may do with a free batch what it should.
        alternative = _with_own_batch(given, use)
        if alternative is None:
            raise
        adopted = alternative
    return AdoptedModel(adopted, tuple(notes))


def _for_any_batch(given: onnx.ModelProto, use: ModelUse) -> onnx.ModelProto:
    """The contract model of a graph that is made simple for a fixed number of images, then free again.

    Raises:
        InputError: It cannot be made to take any number.
    """
    images = use.input.batch or 1
    simple = _simplified(given, use, images)
    free_batch(simple, images)
    return _finished(simple, use)


def _with_own_batch(given: onnx.ModelProto, use: ModelUse) -> onnx.ModelProto | None:
    """The contract model of a graph that takes any number of images by itself; None where it does not."""
    try:
        return _finished(_simplified(given, use, "N"), use)
    except EdgeclfError:
        return None


def _simplified(given: onnx.ModelProto, use: ModelUse, images: int | str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(given)
    fix_input_shape(copy, _input_shape(use, images))
    simple = optimized(copy)
    rewrite_patterns(simple)
    name_nodes(simple)
    return simple


def _finished(graph: onnx.ModelProto, use: ModelUse) -> onnx.ModelProto:
    """A graph with the contract's input and output, proved to treat each image on its own; changed in place."""
    write_entrance(graph, use)
    write_class_output(graph, use.classes or 0, use.activation or "softmax", use.codes)
    graph.graph.name, graph.graph.doc_string = "classifier", ""
    graph.producer_name, graph.producer_version, graph.doc_string = _PRODUCER, "", ""
    check_model(graph, full_check=True)
    check_batches(graph, use)
    return graph


def _input_shape(use: ModelUse, images: int | str) -> tuple[int | str, ...]:
    height, width = use.size_hw or (0, 0)
    channels = use.input.channels
    return (images, channels, height, width) if use.input.layout == "NCHW" else (images, height, width, channels)
