"""Run folders that nobody should trust: the module of their network came with them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.robustness.hostile_files.sandbox import Drawing, Kind
from benchmarks.robustness.hostile_files.specs import full_spec
from edgeclf.training.fit.checkpoint import Checkpoint, save_checkpoint
from edgeclf.training.fit.loop import Best, FitState
from edgeclf.training.options import TrainOptions


def _run(draw: Drawing) -> Path:
    """A run of a network of one's own, cut off and with all files of a finished one; its module lies in it or beside it."""
    run = draw.folder / "run"
    run.mkdir()
    # A process imports a module of one name once.
    name = f"network_{draw.rng.bytes(6).hex()}"
    code = f"open({str(draw.box.canary)!r}, 'w').close()\ndef build(classes, image_size): ...\n"
    module, named = draw.one(
        (
            (draw.folder / f"{name}.py", name),
            (draw.folder / name / "__init__.py", name),
            (draw.folder / name / "inner.py", f"{name}.inner"),
            (run / f"{name}.py", name),
            (run / f"{name}.py", f"run.{name}"),
            (run / "network.py", "run.network"),
            (run / name / "__init__.py", f"{name}.inner"),
        )
    )
    for path in (module, run / "network.py"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    if draw.rng.random() < 0.2:
        (run / "__init__.py").write_text(code, encoding="utf-8")
    places = (draw.folder, run, f"{run}/../run/..", f"{draw.folder}/./", module.parent, "/", ".", "..", "run")
    facts = {
        "data_root": str(draw.box.data),
        "data": str(draw.box.data),
        "options": TrainOptions(architecture=f"{named}:build", batch_size=8, epochs=3).to_json(),
        "module_folder": str(draw.one(places)),
    }
    if draw.rng.random() < 0.2:
        del facts["module_folder"]
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    images = sorted(draw.box.data.rglob("*.jpg"))
    rows = [f"{path.relative_to(draw.box.data)},{path.parent.name},train" for path in images]
    (run / "split.csv").write_text("\n".join(["path,label,split", *rows]) + "\n", encoding="utf-8")
    (run / "spec.json").write_text(full_spec(), encoding="utf-8")
    (run / "model.keras").write_bytes(draw.bases.keras)
    figures = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
    state = FitState(
        [{"epoch": 1, "stage": "fit", **figures, "val_macro_f1": 0.5, "learning_rate": 0.001}],
        best=Best(1.0, 1, [np.zeros(1, np.float32)]),
        variables=[np.zeros(1, np.float32)],
        seconds=[1.0],
    )
    save_checkpoint(Checkpoint("fit", state, "0"), run / "checkpoint.npz")
    return run


RUNS: Mapping[str, Kind] = {"run folder: a module that came with it": _run}
