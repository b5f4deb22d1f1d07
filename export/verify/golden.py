"""The self-test that goes into a file: which inputs, what they gave, and how far another device may be from that."""

from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.light.whole_file import write_model
from edgeclf.runtime.session.self_test import GoldenImage, GoldenInput, SelfTest, log_error
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec

# From coarse to fine, and mixtures, as photographs have structure of every size: docs/self-test.md has what they detect.
_GRIDS = ((2,), (4,), (8,), (16,), (32,), (2, 8), (4, 16), (2, 8, 32))
GOLDEN_IMAGES = tuple(GoldenImage(seed, grids) for seed, grids in enumerate(_GRIDS, start=1))
# Probabilities of an input that are recorded: eight inputs of 625 float32 are 27 kB of base64.
_MAX_CLASSES = 625
# Integer sums are the same bits everywhere; this is for the last bits of a softmax.
_SAME_BITS = 1e-4
# The order of additions in float32.
_FLOAT32 = 1e-3
# Products of 11 bits (TF32, float16), which is how GPUs and NPUs multiply floats unless told otherwise.
_FEWER_BITS = 0.05


def make_self_test(model: onnx.ModelProto, spec: ModelSpec, fp32: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    """The self-test of a finished model, as JSON values for its spec.

    Args:
        model: The model.
        spec: Its spec.
        fp32: The float model that it was rounded from; itself for an fp32 file.
        folder: Folder for temporary files.
    """
    session = _open(model, spec, folder / "golden.onnx")
    images = [image.pixels(spec.preprocess.size_hw) for image in GOLDEN_IMAGES]
    outputs = [session.run(pixels[None])[0] for pixels in images]
    tolerance, other = _FLOAT32, _FEWER_BITS
    if spec.precision != "fp32":
        reference = _open(fp32, spec, folder / "golden-fp32.onnx")
        # Values of float layers that another CPU rounds up and not down: on emulated ARM cores up to a 25th of what rounding
        # itself changed. Elsewhere all sums differ, and what is rounded otherwise may be as much as rounding itself.
        rounding = max(
            log_error(reference.run(pixels[None])[0], got) for pixels, got in zip(images, outputs, strict=True)
        )
        other = max(rounding, _FEWER_BITS)
        is_portable = (spec.quantization or {}).get("portable")
        tolerance = _SAME_BITS if is_portable else max(rounding / 4, _FEWER_BITS)
    step = -(-len(spec.labels) // _MAX_CLASSES)
    inputs = [
        GoldenInput(image, int(got.argmax()), np.ascontiguousarray(got[number % step :: step]))
        for number, (image, got) in enumerate(zip(GOLDEN_IMAGES, outputs, strict=True))
    ]
    return SelfTest(tuple(inputs), tolerance, other, step).to_json()


def _open(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> ModelSession:
    attach_spec(model, spec)
    write_model(model, path)
    return ModelSession(path, device="cpu")
