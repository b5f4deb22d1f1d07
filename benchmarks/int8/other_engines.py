"""Runs an int8 file in other engines than the one it was made with: how often they give the label of the fp32 file.

    python benchmarks/int8/other_engines.py INT8.onnx FP32.onnx IMAGES [--images 150] [--json]

Both files come from `edgeclf export` or `benchmarks/int8/recipes.py --save`; IMAGES is a folder of photographs. The reference is
the fp32 file in onnxruntime. OpenVINO is measured where `openvino` is installed, onnxruntime-web where Node and npm are:
the package is installed into a temporary folder, and runs with WebAssembly on one thread.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.int8.engines import openvino_engine
from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.session.session import ModelSession

_SEED = 0
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_WEB = """
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, images, out, count, height, width] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const pixels = new Uint8Array(readFileSync(images));
const [h, w] = [Number(height), Number(width)];
const rows = [];
for (let i = 0; i < Number(count); i++) {
  const image = new ort.Tensor("uint8", pixels.slice(i * h * w * 3, (i + 1) * h * w * 3), [1, h, w, 3]);
  const { probabilities } = await session.run({ image });
  rows.push(Buffer.from(new Float32Array(probabilities.data).buffer));
}
writeFileSync(out, Buffer.concat(rows));
"""


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("int8", type=Path)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    reference = ModelSession(given.fp32, device="cpu", threads=1)
    images = _images(given.photographs, given.images, reference)
    wanted = _in_batches(reference.run, images)
    own = _in_batches(ModelSession(given.int8, device="cpu", threads=1).run, images)
    rows: dict[str, dict[str, Any]] = {"onnxruntime": _figures(own, wanted, own)}
    if find_spec("openvino"):
        rows["OpenVINO"] = _figures(_in_batches(openvino_engine(given.int8.read_bytes()), images), wanted, own)
    else:
        print("left out, as not installed: openvino", file=sys.stderr)
    if shutil.which("node") and shutil.which("npm"):
        rows["onnxruntime-web"] = _figures(_on_the_web(given.int8, images), wanted, own)
    else:
        print("left out, as not installed: node and npm", file=sys.stderr)
    if given.json:
        print(json.dumps({"images": len(images), "engines": rows}, indent=2))
        return
    for name, figures in rows.items():
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{name:16} {shown}")
    print(f"{len(images)} images")


def _images(folder: Path, count: int, session: ModelSession) -> UInt8Array:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise SystemExit(f"no images under {folder}")
    chosen = np.random.default_rng(_SEED).permutation(len(paths))[:count]
    return np.stack([preprocess_bgr(load_image(paths[number]), session.spec.preprocess) for number in chosen])


def _in_batches(run: Callable[[UInt8Array], FloatArray], images: UInt8Array) -> FloatArray:
    return np.concatenate([run(images[start : start + 1]) for start in range(len(images))])


def _figures(got: FloatArray, wanted: FloatArray, own: FloatArray) -> dict[str, float]:
    same = got.argmax(axis=1) == wanted.argmax(axis=1)
    return {
        "agreement_with_fp32": float(same.mean()),
        "agreement_with_onnxruntime": float((got.argmax(axis=1) == own.argmax(axis=1)).mean()),
        "largest_difference_to_onnxruntime": float(np.abs(got - own).max()),
    }


def _on_the_web(model: Path, images: UInt8Array) -> FloatArray:
    with tempfile.TemporaryDirectory(prefix="edgeclf-web-") as name:
        folder = Path(name)
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "run.mjs").write_text(_WEB)
        (folder / "images.bin").write_bytes(images.tobytes())
        subprocess.run(["npm", "install", "--silent", "--no-audit", "onnxruntime-web"], cwd=folder, check=True)
        count, height, width, _ = map(str, images.shape)
        options = [str(model.absolute()), "images.bin", "out.bin", count, height, width]
        subprocess.run(["node", "run.mjs", *options], cwd=folder, check=True)
        return np.frombuffer((folder / "out.bin").read_bytes(), np.float32).reshape(len(images), -1)


if __name__ == "__main__":
    main()
