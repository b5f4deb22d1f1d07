"""Names of nodes: each has one of its own, and layers are named after their weights where their own names say nothing."""

import re

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, is_standard

# What joins the names of modules.
_JOINTS = re.compile(r"[./]")
# What a weight is called within its layer.
_WEIGHT = re.compile(r"[./_](weights?|kernel|w|W|filter)(_\w+)?$")


def name_nodes(model: onnx.ModelProto) -> None:
    """Gives every node a name of its own, in place; the same graph gives the same names.

    A layer keeps a name that says in which module it is, such as `/layer1/conv1/Conv`. One that is called after its operator and
    a number takes the name of its weights, `layer1.conv1.weight`, without their last part. Nodes without a name, or with that of
    another, are called by their operator and a number.
    """
    editor = GraphEditor(model)
    taken: set[str] = set()
    for node in editor.graph.node:
        name = node.name
        if is_standard(node, "Conv", "Gemm", "MatMul") and not _JOINTS.search(name):
            weights = [item for item in node.input[1:2] if item in editor.constants]
            module = _WEIGHT.sub("", weights[0]) if weights else ""
            if module and module != weights[0] and module not in taken:
                name = module
        if not name or name in taken:
            name = editor.new_name(node.name or node.op_type.lower())
        node.name = name
        taken.add(name)
