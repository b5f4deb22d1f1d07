"""The JSON documents that edgeclf reads from files: specs, run folders, files beside models, records of data sets and of networks."""

import contextlib
import importlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.hostile_files.bases import onnx_file, properties_bytes
from benchmarks.robustness.hostile_files.documents import Document, Read
from benchmarks.robustness.hostile_files.specs import LABELS, full_spec

_SPLITS = ("train", "val", "test")
_FIGURES = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate")


def make_documents() -> list[Document]:
    """The kinds of documents, that of a model file's spec first."""
    model, foreign = onnx_file(own=True), onnx_file(own=False)
    return [
        Document("spec of a model file", _spec_of(model), _read_model(model)),
        *_of_a_run(),
        *_beside_a_model(foreign),
        *_of_data_sets(),
        *_of_networks(foreign),
    ]


def _with_metadata(model: bytes, **metadata: str) -> bytes:
    """A model file with properties, which take the place of those that it has: protocol buffers are joined by joining their bytes."""
    import onnx

    changed = onnx.load_model_from_string(model)
    del changed.metadata_props[:]
    bare: bytes = changed.SerializeToString()
    return bare + properties_bytes(metadata.items())


def _spec_of(model: bytes) -> str:
    import onnx

    (text,) = (
        str(item.value) for item in onnx.load_model_from_string(model).metadata_props if item.key == "edgeclf.spec"
    )
    return text


def _read_model(model: bytes) -> Read:
    from edgeclf.export.int8.qat_ranges import trained_scales
    from edgeclf.export.source.record import recorded_use
    from edgeclf.export.verify.verdict import recorded_limits
    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import InputError
    from edgeclf.runtime.session.self_test import run_self_test
    from edgeclf.runtime.spec import spec_from_json
    from edgeclf.toolkit.commands.info import info
    from edgeclf.toolkit.compare.sides import renamed_classes
    from edgeclf.toolkit.reports.cpu_warning import warn_of_other_cpu
    from edgeclf.training.data.seen_images import images_of_record

    def read(folder: Path, text: str) -> Sequence[object]:
        path = folder / "model.onnx"
        path.write_bytes(_with_metadata(model, **{"edgeclf.spec": text}))
        session = ModelSession(path, device="cpu", threads=1)
        if session.is_foreign:
            return []
        spec = session.spec
        values: list[object] = [spec]
        with contextlib.suppress(InputError):
            run_self_test(session)
        with contextlib.suppress(InputError):
            values.append(trained_scales(spec.training))
        values.append(recorded_limits(spec.parity))
        values.append(recorded_use(spec, path))
        if spec_from_json(spec.to_json(), "itself") != spec:
            raise AssertionError("another spec when it is written and read again")
        renamed_classes(spec, spec)
        warn_of_other_cpu(path, spec, cpu_info())
        if spec.seen_images is not None:
            images_of_record(spec.seen_images)
        info(model=path)
        info(model=path, as_json=True)
        return values

    return read


def _of_a_run() -> list[Document]:
    from edgeclf.training.fit.resolve import resolve_options
    from edgeclf.training.options import TrainOptions

    options = TrainOptions(architecture="seed-cnn", image_size=89, epochs=3)
    record = {
        "data_root": "/nowhere/data",
        "data": "/nowhere/data",
        "options": options.to_json(),
        "resolved": resolve_options(options).record(),
        "began_with": {},
    }
    diverged = {**record, "diverged": {"stage": "fit", "steps": 1, "epoch_steps": 7, "loss": 2.5}}
    report = {"accuracy": 0.9, "count": 20, "per_class": [{"label": "brick", "recall": 0.5}]}
    metrics: dict[str, Any] = {
        "validation": report,
        "test": report,
        "note": None,
        "training_after_last_epoch": {"epoch": 3, "images": 9, "loss": 0.5, "accuracy": 0.9},
        "calibration": {"temperature": 1.1},
        "parameters": 99,
        "unreadable": [],
    }
    splits = [f"{label}/{split}.jpg,{label},{split},{n:032x}" for n, label in enumerate(LABELS) for split in _SPLITS]
    files = {
        "run.json": json.dumps(record),
        "spec.json": full_spec(),
        "metrics.json": json.dumps(metrics),
        "history.csv": _history_csv(),
        "split.csv": "\n".join(["path,label,split,digest", *splits, ""]),
        "model.keras": "",
    }
    found = [
        Document(f"{name} of a run", text, _read_run(files, name), is_json=name.endswith(".json"))
        for name, text in files.items()
        if name != "model.keras"
    ]
    unfinished = {name: files[name] for name in ("split.csv", "history.csv")}
    return [
        *found,
        Document("run.json of a diverged run", json.dumps(diverged), _read_run({**unfinished}, "run.json")),
        Document(
            "run.json of an unfinished run", json.dumps(record), _read_unfinished(unfinished, is_checkpoint=False)
        ),
        Document(
            "facts of a checkpoint",
            json.dumps(_checkpoint_facts()),
            _read_unfinished({**unfinished, "run.json": files["run.json"]}, is_checkpoint=True),
        ),
    ]


def _history() -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "stage": "fit", **{name: 1 / (epoch + n) for n, name in enumerate(_FIGURES)}}
        for epoch in range(1, 4)
    ]


def _history_csv() -> str:
    rows = _history()
    return "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows), ""])


def _checkpoint_facts() -> dict[str, Any]:
    return {
        "version": 1,
        "stage": "fit",
        "fingerprint": "blake2b:00",
        "history": _history(),
        "first": 0,
        "seconds": [1.0, 1.0, 1.0],
        "best": {"value": 0.2, "epoch": 3},
        "variables": 1,
        "weights": 1,
    }


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(errors="surrogatepass"))


def _read_run(files: Mapping[str, str], changed: str) -> Read:
    from edgeclf.runtime.errors import DatasetError
    from edgeclf.runtime.spec.json_documents import json_text
    from edgeclf.toolkit.doctor.facts import Facts
    from edgeclf.toolkit.doctor.gather.run import gather_run, open_run
    from edgeclf.toolkit.doctor.registry import examine
    from edgeclf.training.data.discovery import folder_of
    from edgeclf.training.fit.resolve import resolve_options
    from edgeclf.training.options import options_from_json

    def read(folder: Path, text: str) -> Sequence[object]:
        _write_files(folder, {**files, changed: text})
        opened = open_run(folder)
        facts = gather_run(opened)
        for finding in examine(Facts(run=facts)):
            json_text(finding.to_json())
        options = options_from_json(opened.document["options"], folder / "run.json")
        values: list[object] = [options, *opened.samples]
        resolved = resolve_options(options, reads_backbone=False)
        with contextlib.suppress(ValueError):
            values.append(resolved.with_record(opened.document.get("resolved", {})).first)
        if opened.run is not None:
            values.extend((opened.run.spec, opened.run.recorded_spec))
        with contextlib.suppress(DatasetError):
            folder_of(folder / "split.csv", None)
        return values

    return read


def _read_unfinished(files: Mapping[str, str], *, is_checkpoint: bool) -> Read:
    from edgeclf.training.run.folder import open_unfinished

    def read(folder: Path, text: str) -> Sequence[object]:
        facts = text if is_checkpoint else json.dumps(_checkpoint_facts())
        arrays = {
            "facts": np.frombuffer(facts.encode(errors="surrogatepass"), np.uint8),
            "variable0": np.zeros(3, np.float32),
            "best0": np.zeros(3, np.float32),
        }
        with (folder / "checkpoint.npz").open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the keywords for an option
        _write_files(folder, files if is_checkpoint else {**files, "run.json": text})
        unfinished = open_unfinished(folder, None)
        rows = unfinished.checkpoint.state.history
        if not all(isinstance(row.get(name, 0.0), int | float) for row in rows for name in _FIGURES):
            raise AssertionError(f"a history that is no numbers: {rows}")
        return [unfinished.options, *unfinished.dataset.samples]

    return read


def _beside_a_model(foreign: bytes) -> list[Document]:
    from edgeclf.runtime.session.foreign.given import ForeignModel
    from edgeclf.runtime.session.foreign.labels import read_labels
    from edgeclf.runtime.session.foreign.resolution import resolve_foreign
    from edgeclf.runtime.session.graph_outline import read_graph_outline

    def use(folder: Path, given: ForeignModel | None = None) -> Sequence[object]:
        path = folder / "model.onnx"
        found = resolve_foreign(path, read_graph_outline(path), given or ForeignModel())
        found.sentence()
        json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False).encode()
        return [found, *([] if found.missing or found.labels is None else [found.spec])]

    def beside(name: str) -> Read:
        def read(folder: Path, text: str) -> Sequence[object]:
            (folder / "model.onnx").write_bytes(_with_metadata(foreign))
            _write_files(folder, {name: text})
            return use(folder)

        return read

    def labels(folder: Path, text: str) -> Sequence[object]:
        _write_files(folder, {"names.json": text})
        found = read_labels(folder / "names.json")
        "".join(found.labels).encode()
        if not all(isinstance(label, str) for label in found.labels):
            raise AssertionError("labels that are no text")
        return []

    def lines(folder: Path, text: str) -> Sequence[object]:
        (folder / "model.onnx").write_bytes(_with_metadata(foreign))
        _write_files(folder, {"labels.txt": text})
        return use(folder)

    def literal(folder: Path, text: str) -> Sequence[object]:
        try:
            values = {
                str(key): value if isinstance(value, str) else repr(value) for key, value in json.loads(text).items()
            }
        except (ValueError, RecursionError, AttributeError):
            values = {"names": text, "task": "classify"}
        (folder / "model.onnx").write_bytes(_with_metadata(foreign, **values))
        return use(folder)

    statistics = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    timm = {
        "architecture": "mobilenetv3",
        "num_classes": 3,
        "label_names": ["n01", "n02", "n03"],
        "label_descriptions": {"n01": "brick", "n02": "grass", "n03": "gravel"},
        "pretrained_cfg": {
            **statistics,
            "input_size": [3, 32, 32],
            "crop_pct": 0.9,
            "crop_mode": "border",
            "interpolation": "bicubic",
        },
    }
    hugging_face = {
        "architectures": ["ViTForImageClassification"],
        "id2label": {"0": "brick", "1": "grass", "2": "gravel"},
        "label2id": {"brick": 0},
        "image_size": 32,
    }
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 36},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "crop_pct": 0.9,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "rescale_offset": False,
        "do_normalize": True,
        "image_mean": statistics["mean"],
        "image_std": statistics["std"],
        "do_flip_channel_order": False,
    }
    ultralytics = {"names": {0: "brick", 1: "grass", 2: "gravel"}, "task": "classify", "imgsz": [32, 32], "stride": 1}
    return [
        Document("config.json of timm", json.dumps(timm), beside("config.json")),
        Document("config.json of Hugging Face", json.dumps(hugging_face), beside("config.json")),
        Document("preprocessor_config.json", json.dumps(processor), beside("preprocessor_config.json")),
        Document("properties of Ultralytics", json.dumps(ultralytics), literal),
        Document("labels in JSON", json.dumps(list(LABELS)), labels),
        Document("indices of labels in JSON", json.dumps({name: n for n, name in enumerate(LABELS)}), labels),
        Document("labels.txt", "0 brick\n1 grass\n2 gravel\n", lines, is_json=False),
    ]


def _of_data_sets() -> list[Document]:
    import pyarrow as pa
    from pyarrow import parquet

    from edgeclf.training.data.packed.rows import find_columns, find_image_column, read_facts, read_images
    from edgeclf.training.data.packed.shards import Shard, find_shards

    table = pa.table({"image": [{"bytes": b"x", "path": "x.png"}], "label": [1], "split": ["train"]})

    def arrow(folder: Path) -> None:
        with pa.OSFile(str(folder), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)

    def state(folder: Path, text: str) -> Sequence[object]:
        arrow(folder / "data-00000-of-00001.arrow")
        _write_files(folder, {"state.json": text})
        return find_shards(folder)

    def splits(folder: Path, text: str) -> Sequence[object]:
        for name in ("train", "test"):
            (folder / name).mkdir(exist_ok=True)
            arrow(folder / name / "data-00000-of-00001.arrow")
            _write_files(folder / name, {"state.json": saved})
        _write_files(folder, {"dataset_dict.json": text})
        return find_shards(folder)

    def features(folder: Path, text: str) -> Sequence[object]:
        described = table.replace_schema_metadata({"huggingface": text.encode(errors="surrogatepass")})
        parquet.write_table(described, folder / "x.parquet")
        shards = [Shard(folder / "x.parquet", "x")]
        columns = find_columns(shards)
        list(read_images(shards[0], find_image_column(shards)))
        return [columns, *read_facts(shards, columns)]

    saved = json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_format_type": None})
    described = {
        "info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}}
    }
    return [
        Document("state.json of datasets", saved, state),
        Document("dataset_dict.json of datasets", json.dumps({"splits": ["train", "test"]}), splits),
        Document("features of a Parquet file", json.dumps(described), features),
    ]


def _of_networks(foreign: bytes) -> list[Document]:
    # What is checked of a config may load Keras and TensorFlow, which is no memory of the document.
    importlib.import_module("keras")

    from edgeclf.export.source.keras_files.model_config import read_model_config
    from edgeclf.export.source.keras_files.safety import check_config
    from edgeclf.runtime.session.foreign.given import ForeignModel
    from edgeclf.training.networks.onnx_backbone import read_onnx_backbone

    def backbone(place: Path, text: str) -> Sequence[object]:
        path = place / "backbone.onnx"
        path.write_bytes(_with_metadata(foreign, **{"edgeclf.backbone": text}))
        return [read_onnx_backbone(path, None, ForeignModel())]

    def keras(place: Path, text: str) -> Sequence[object]:
        path = place / "model.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", text.encode(errors="surrogatepass"))
            archive.writestr("metadata.json", text.encode(errors="surrogatepass"))
        config = read_model_config(path)
        check_config(path, config.document, ())
        return []

    network = {
        "keras_version": "3.14.0",
        "class_name": "Sequential",
        "module": "keras",
        "config": {
            "name": "net",
            "layers": [
                {"class_name": "InputLayer", "module": "keras.layers", "config": {"batch_shape": [None, 8, 8, 3]}},
                {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3, "activation": "softmax"}},
            ],
        },
    }
    record = {"name": "onnx:x", "content": "x (blake2b-128 00)", "preprocess": {"size_hw": [32, 32]}}
    return [
        Document("record of a backbone", json.dumps(record), backbone),
        Document("config of a Keras file", json.dumps(network), keras),
    ]
