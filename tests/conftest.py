"""Models and programs that the tests of several folders share."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test: no example is timed.
settings.register_profile("edgeclf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgeclf")

COLOURS = ("red", "green", "blue")


def write_colour_model(
    path: Path,
    *,
    size_hw: tuple[int, int] = (32, 32),
    spec_changes: dict[str, object] | None = None,
    with_spec: bool = True,
) -> Path:
    """Writes a classifier of 0.5 KB that keeps the contract: softmax of the mean colour / 16 over red, green, blue."""
    import onnx
    from onnx import TensorProto, helper

    from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["means", "sixteen"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *size_hw, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("sixteen", TensorProto.FLOAT, [], [16.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if with_spec:
        spec = ModelSpec(labels=COLOURS, preprocess=Preprocess(size_hw), architecture="mean-colour")
        entry = model.metadata_props.add()
        entry.key, entry.value = SPEC_KEY, spec.with_changes(**(spec_changes or {})).to_json()
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that says red, green or blue, whichever an image has most of; 32 x 32 input."""
    return write_colour_model(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture(scope="session")
def make_colour_model() -> Callable[..., Path]:
    """`write_colour_model`, for variants: another size, other spec fields, no spec."""
    return write_colour_model


@pytest.fixture(scope="session")
def run_edgeclf() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own: `run_edgeclf("infer", model, image)`."""

    def run(*arguments: object, timeout_s: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [sys.executable, "-m", "edgeclf.toolkit", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)

    return run
