"""SavedModel folders of TensorFlow: the serving signature of one, opened if its graph has nothing but arithmetic in it."""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeclf.export.keras_backend import UntypedModule, import_tensorflow
from edgeclf.export.source.keras_files.kinds import SAVED_MODEL_FILE
from edgeclf.runtime.errors import ModelFileError, UsageError

_DEFAULT, _TAG = "serving_default", "serve"
# Operations without a state of their own which yet read files, run Python or begin programs of other compilers.
_REACHING_OUT = re.compile(
    r"ReadFile|MatchingFiles|ImmutableConst|PyFunc.*|Debug.*|InitializeTableFromTextFile.*|Reader.*|.*Dataset.*|_?Xla.*"
)
# Operations with a state, or an effect, that lies inside the process and the model: variables, random numbers, calls, tables.
_HARMLESS = re.compile(
    r"VarHandleOp|ReadVariableOp|Assign(Add|Sub)?(VariableOp)?|VarIsInitializedOp|VariableShape|(Temporary)?Variable(V2)?|"
    r"IsVariableInitialized|StatefulPartitionedCall|While|If|Case|Assert|Random\w*|TruncatedNormal|"
    r"ParameterizedTruncatedNormal|Multinomial|Stateful(Standard|Truncated|Uniform|Random)\w*|StatelessRandomGetAlg|"
    r"Rng(ReadAndSkip|Skip)|ResourceApply\w+|ResourceStridedSliceAssign|IteratorGetNext|StatefulRandomBinomial|DummySeedGenerator|"
    r"(Mutable)?HashTable(V2)?|LookupTable(Find|Size|Import|Export|Insert)V2|GuaranteeConst|DisableCopyOnRead|AnonymousSeedGenerator"
)
_RESTORING = frozenset({"RestoreV2", "Restore", "RestoreSlice", "ShardedFilename", "ShardedFilespec"})
_SAVING = _RESTORING | {"SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints"}


class SavedSignature(NamedTuple):
    """A signature of an opened SavedModel.

    Attributes:
        function: Its concrete function, called with its input by name; gives a mapping of outputs.
        inputs: Names of its inputs with their `TensorSpec`.
        outputs: Names of its outputs, sorted.
        name: Its own name.
        writer: The TensorFlow that wrote it.
    """

    function: UntypedModule
    inputs: Mapping[str, Any]
    outputs: Sequence[str]
    name: str
    writer: str


def open_saved_model(folder: Path, *, signature: str | None = None, is_trusted: bool = False) -> SavedSignature:
    """Opens a signature of a SavedModel.

    Args:
        folder: The folder with `saved_model.pb` and `variables/`.
        signature: The signature's name; None takes `serving_default`, or the only one.
        is_trusted: Whether operations that read or write files, or run Python, may be in it.

    Raises:
        UsageError: There is no such signature.
        ModelFileError: The folder is damaged, has no or several signatures, or operations that are not to be run.
        MissingPackageError: TensorFlow is not installed.
    """
    graph = read_serving_graph(folder)
    if not is_trusted:
        _check(folder, graph)
    name = _chosen(folder, [item for item in graph.signature_def if not item.startswith("__")], signature)
    tensorflow = import_tensorflow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = tensorflow.saved_model.load(str(folder), tags=[_TAG])
            function = loaded.signatures[name]
    except (
        OSError,
        ValueError,
        LookupError,
        RuntimeError,
        TypeError,
        AttributeError,
        tensorflow.errors.OpError,
    ) as error:
        raise _unreadable(folder, " ".join(str(error).split())[:300] or type(error).__name__) from error
    inputs = dict(function.structured_input_signature[1])
    outputs = sorted(function.structured_outputs)
    # The function keeps no hold of the variables of what it was loaded from.
    function.edgeclf_keeps = loaded
    return SavedSignature(function, inputs, outputs, name, graph.meta_info_def.tensorflow_version)


def read_serving_graph(folder: Path) -> UntypedModule:
    """The graph of a SavedModel that serves, as TensorFlow's `MetaGraphDef`, without running any of it.

    Raises:
        ModelFileError: The file is missing or damaged, or none of its graphs is for serving.
    """
    import_tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    document = saved_model_pb2.SavedModel()
    try:
        document.ParseFromString((folder / SAVED_MODEL_FILE).read_bytes())
    except (OSError, DecodeError) as error:
        raise _unreadable(folder, f"a damaged {SAVED_MODEL_FILE} ({str(error)[:100]})") from error
    serving = [graph for graph in document.meta_graphs if set(graph.meta_info_def.tags) == {_TAG}]
    if not serving:
        tags = ["+".join(sorted(graph.meta_info_def.tags)) or "no tag" for graph in document.meta_graphs]
        raise _unreadable(folder, f"graphs for {', '.join(tags)}" if tags else "no graph in it")
    return serving[0]


def _chosen(folder: Path, names: Sequence[str], wanted: str | None) -> str:
    expected = " or ".join(sorted(names))
    if wanted is not None:
        if wanted not in names:
            raise UsageError(f"{folder} has no signature {wanted!r}", expected=expected or "none: it has no signature")
        return wanted
    if _DEFAULT in names or len(names) == 1:
        return _DEFAULT if _DEFAULT in names else names[0]
    if not names:
        raise ModelFileError(
            f"{folder} has no signature to be called by",
            got="a SavedModel without signatures",
            expected="one, with images as its only input",
            hint="save it with model.export(FOLDER), or with tf.saved_model.save(model, FOLDER, signatures=...)",
        )
    raise ModelFileError(
        f"{folder} has several signatures and none is called {_DEFAULT}",
        got=", ".join(sorted(names)),
        expected="the name of one",
        hint="pass --signature NAME",
    )


def _check(folder: Path, graph: UntypedModule) -> None:
    """Checks that loading and running a graph reads and writes nothing but its own variables."""
    reasons = dict.fromkeys(forbidden_operations(graph))
    if reasons:
        raise ModelFileError(
            f"{folder} has operations in it that do more than compute",
            got=", ".join(list(reasons)[:5]),
            expected="arithmetic on images alone",
            hint="pass --unsafe-load if you trust whoever made it, or save it without them",
        )


def forbidden_operations(graph: UntypedModule) -> Iterator[str]:
    """The operations of a graph, and of its functions, that may read, write or run something outside it.

    What saves and restores the variables, by the graph's own word, may do that and is called by nothing else.

    Args:
        graph: A `MetaGraphDef`.
    """
    known = _registered()
    functions = {item.signature.name: list(item.node_def) for item in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    saver = graph.saver_def
    restoring = _reached(nodes, [saver.restore_op_name])
    saving = _reached(nodes, [saver.save_tensor_name, saver.filename_tensor_name]) - restoring
    of_saving = _called(functions, [nodes[name] for name in saving])
    of_restoring = _called(functions, [nodes[name] for name in restoring])
    exposed = set(graph.object_graph_def.concrete_functions)

    def allowed(op: str, extra: Collection[str]) -> bool:
        if op in extra:
            return True
        return op in known and bool(_HARMLESS.fullmatch(op)) if known.get(op, True) else not _REACHING_OUT.fullmatch(op)

    places: list[tuple[Sequence[Any], Collection[str], bool]] = [
        ([nodes[name] for name in restoring], _RESTORING, True),
        ([nodes[name] for name in saving], _SAVING, True),
        ([node for name, node in nodes.items() if name not in restoring | saving], (), False),
    ]
    for name, body in functions.items():
        extra: Collection[str] = ()
        if name in of_restoring | of_saving:
            extra = _RESTORING if name in of_restoring else _SAVING if name not in exposed else ()
        places.append((body, extra, name in of_restoring | of_saving))
    for items, extra, is_saver in places:
        for node in items:
            if not allowed(node.op, extra):
                yield f"{node.op} ({node.name})"
            elif not is_saver and (of_saving | of_restoring) & set(_functions_of(node)):
                yield f"a call of what saves the variables ({node.name})"


def _registered() -> Mapping[str, bool]:
    """Every operation of TensorFlow, and whether it has a state or an effect."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    operations = op_def_pb2.OpList()
    operations.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return {item.name: item.is_stateful for item in operations.op}


def _reached(nodes: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """The nodes that those of the names need, with these."""
    left = [_node_name(name) for name in names]
    found: set[str] = set()
    while left:
        name = left.pop()
        if name in nodes and name not in found:
            found.add(name)
            # Variables, which are read to be saved, are the model's too.
            left.extend(_node_name(value) for value in nodes[name].input)
    return {
        name
        for name in found
        if not re.fullmatch(r"VarHandleOp|Variable(V2)?|.*ReadVariableOp|Identity|Const", nodes[name].op)
    }


def _called(functions: Mapping[str, Sequence[Any]], nodes: Sequence[Any]) -> set[str]:
    """The names of the functions that nodes call, and these in turn."""
    left = [name for node in nodes for name in _functions_of(node)]
    found: set[str] = set()
    while left:
        name = left.pop()
        if name in functions and name not in found:
            found.add(name)
            left.extend(inner for node in functions[name] for inner in _functions_of(node))
    return found


def _functions_of(node: Any) -> list[str]:  # noqa: ANN401 - a NodeDef
    names = [value.func.name for value in node.attr.values() if value.HasField("func")]
    return names + [item.name for value in node.attr.values() for item in value.list.func]


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").split(":", 1)[0]


def _unreadable(folder: Path, got: str) -> ModelFileError:
    return ModelFileError(
        f"cannot open the SavedModel {folder}",
        got=got,
        expected="a folder that model.export or tf.saved_model.save wrote",
        hint="save or copy it again, with its variables folder",
    )
