"""An `.onnx` file as what is exported: one that others made, or an fp32 file that edgeclf wrote."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.export.int8.qat_ranges import without_ranges
from edgeclf.export.source.classifier import ForeignClassifier
from edgeclf.export.source.record import architecture_of, source_record
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.runtime.session.session import ModelSession

if TYPE_CHECKING:
    from edgeclf.export._onnx import onnx
    from edgeclf.runtime.session.foreign.given import ForeignModel
    from edgeclf.runtime.spec import ModelSpec


def open_onnx_source(path: Path | str, foreign: "ForeignModel | None" = None) -> ForeignClassifier:
    """Opens an `.onnx` file that is to be exported, and brings its graph into the model contract.

    Args:
        path: A file that others made, or an fp32 file of edgeclf's own, whose spec says everything.
        foreign: What is known of a file without a spec; None leaves all of it to the file.

    Raises:
        ModelFileError: The file is missing, damaged, no image classifier, not in float, or something is not known without
            which it cannot be run.
        UsageError: What is said contradicts the file, or the file describes itself.
        InputError: Its graph cannot be brought into the contract.
        MissingPackageError: A package of the extra [export] is not installed.
    """
    from edgeclf.export.graph.adopt.adoption import adopt_model
    from edgeclf.export.graph.adopt.reading import read_foreign_model
    from edgeclf.export.graph.light.folder import StoredModel
    from edgeclf.runtime import ForeignModel

    path = Path(path)
    session = ModelSession(path, device="cpu", foreign=foreign or ForeignModel())
    # Of others, float16 is float as well.
    if session.spec.precision == "int8" or (session.use is None and session.spec.precision != "fp32"):
        raise ModelFileError(
            f"cannot export {path}",
            got=f"an {session.spec.precision} file",
            expected="one in float: what was rounded away does not come back",
            hint="export the float model that it was made from",
        )
    # Read once more as a light model: the whole one goes with this statement.
    stored = StoredModel(read_foreign_model(path))
    model = stored.read()
    runtime = f"onnxruntime {onnxruntime.__version__}"
    if session.use is None:
        return ForeignClassifier(
            _own_spec(session, model), StoredModel(_without_metadata(model)), session, path.name, runtime
        )
    adopted = adopt_model(model, session.use)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    spec = session.spec.with_changes(
        architecture=architecture_of(path.stem, producer),
        source=source_record(path, producer=producer, used_as=session.use.to_json()),
        package_versions={},
    )
    how = f"{path} has no edgeclf spec; {session.use.sentence()}"
    notes = (how, *session.use.notes, *adopted.notes)
    return ForeignClassifier(spec, StoredModel(adopted.model), session, path.name, runtime, notes)


def _own_spec(session: ModelSession, model: "onnx.ModelProto") -> "ModelSpec":
    """The spec of edgeclf's own file, without what was measured of that file; its training, thresholds and images are kept."""
    spec = session.spec
    producer = f"{model.producer_name} {model.producer_version}".strip()
    record = source_record(session.path, producer=producer, used_as=None)
    return spec.with_changes(
        source={**record, "source": spec.source},
        training=without_ranges(spec.training),
        quantization=None,
        parity=None,
        latency=None,
        self_test=None,
    )


def _without_metadata(model: "onnx.ModelProto") -> "onnx.ModelProto":
    del model.metadata_props[:]
    return model
