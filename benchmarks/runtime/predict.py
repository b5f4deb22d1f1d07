"""Measures `Classifier.predict` on a 640 x 480 frame against the same steps written by hand.

    python benchmarks/runtime/predict.py MODEL [--rounds 400] [--threads N] [--json]

By hand: cv2.resize (INTER_AREA, into an array of the right size), cv2.cvtColor and session.run, with the same threads in
both libraries; a model that crops is given the crop by hand too. Both run in turns, in alternating order; the ratio is
the median over the rounds of each round's ratio. Exit code 1 when it is above 1.05.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from edgeclf.runtime import Classifier
from edgeclf.runtime.cpus import cpu_info, usable_cpus
from edgeclf.runtime.images.fit_modes import kept_region
from edgeclf.runtime.timing.queries import synthetic_frame

_LIMIT = 1.05
_WARM_UP = 30


def main() -> int:
    """Prints a line, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="an .onnx file with an edgeclf spec, fit crop or stretch")
    parser.add_argument("--rounds", type=int, default=400, help="calls of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads inside one inference (default: usable CPUs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    threads = given.threads or usable_cpus()
    cv2.setNumThreads(threads)
    classifier = Classifier(given.model, device="cpu", threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(given.model), options, providers=["CPUExecutionProvider"])
    preprocess = classifier.spec.preprocess
    if preprocess.fit == "letterbox":
        parser.error("a model that pads its input is not what is written by hand here")
    frame_bgr = synthetic_frame()
    height, width = preprocess.size_hw
    region = kept_region(frame_bgr.shape[:2], preprocess)
    rows = slice(region.top, region.top + region.height)
    columns = slice(region.left, region.left + region.width)

    def by_hand() -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        image = cv2.resize(frame_bgr[rows, columns], (width, height), interpolation=cv2.INTER_AREA)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return np.asarray(session.run(None, {"image": image[None]})[0][0])

    def ours() -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return classifier.predict(frame_bgr).probabilities

    np.testing.assert_allclose(ours(), by_hand(), atol=1e-6)
    both = {"predict": ours, "by hand": by_hand}
    times_ms: dict[str, list[float]] = {name: [] for name in both}
    load = os.getloadavg()[0]
    for number in range(_WARM_UP + given.rounds):
        for name in both if number % 2 else reversed(both):
            start = time.perf_counter()
            both[name]()
            if number >= _WARM_UP:
                times_ms[name].append((time.perf_counter() - start) * 1e3)
    ratio = statistics.median(a / b for a, b in zip(times_ms["predict"], times_ms["by hand"], strict=True))
    medians = {name: statistics.median(values) for name, values in times_ms.items()}
    if given.json:
        facts = {"ratio": ratio, "limit": _LIMIT, "median_ms": medians, "threads": threads, "load_before": load}
        print(json.dumps({**facts, "rounds": given.rounds, "cpu": cpu_info().to_json()}, indent=2))
    else:
        print(
            f"predict {medians['predict']:.2f} ms, by hand {medians['by hand']:.2f} ms: {ratio:.3f} (at most {_LIMIT}), "
            f"{threads} threads, median of {given.rounds} rounds; load before: {load:.1f}; {cpu_info().model}"
        )
    return int(ratio > _LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
