"""What adopted models give, beside the same files opened as they are."""

import onnx
import onnxruntime

from edgeclf.export.graph.adopt.adoption import adopt_model
from edgeclf.export.graph.adopt.reading import read_foreign_model
from edgeclf.runtime.session.session import ModelSession


def adopted(path, given):
    """The session of a file as it is, and the model that it becomes."""
    session = ModelSession(path, foreign=given, threads=1)
    result = adopt_model(read_foreign_model(path), session.use)
    check_contract_types(result.model, session.spec)
    return session, result


def check_contract_types(model, spec):
    from edgeclf.export.graph.contract import check_contract

    check_contract(model, spec)


def run(model: onnx.ModelProto, images_rgb):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images_rgb})[0]
