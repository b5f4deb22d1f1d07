"""Outlines of models."""

import pytest

from edgeclf.runtime.session.graph_outline import read_graph_outline


@pytest.fixture(scope="module")
def outline_of(tmp_path_factory):
    """The outline of a model, or of a file's bytes."""
    path = tmp_path_factory.mktemp("outlines") / "model.onnx"

    def outline(model):
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return read_graph_outline(path)

    return outline
