"""Measures `Classifier.predict` on a 640 x 480 frame against the same steps written by hand.

    python benchmarks/runtime/predict.py MODEL [--rounds 200] [--threads N] [--quick] [--json]

By hand: cv2.resize (INTER_AREA, into an array of the right size), cv2.cvtColor and session.run, with the same threads in
both libraries; a model that crops is given the crop by hand too. Both run in turns, forwards and backwards; the ratio is
the median over the rounds of each round's ratio, with its 99 % interval. Exit code 1 when it is above 1.05.
"""

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, median, timed, working_folder
from benchmarks.synthetic import write_model
from edgeclf.runtime import Classifier
from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.cpus import cpu_info, usable_cpus
from edgeclf.runtime.images.fit_modes import kept_region
from edgeclf.runtime.spec import AREA
from edgeclf.runtime.timing.comparison import measure_in_turns, ratio_of_rounds
from edgeclf.runtime.timing.queries import synthetic_frame

_LIMIT = 1.05
_WARM_UP_ROUNDS = 15


def main() -> int:
    """Prints a line, or JSON."""
    arguments = Arguments(__doc__, quick={"rounds": 8})
    arguments.add_input("model", "an .onnx file with an edgeclf spec, fit crop or stretch")
    arguments.add_argument("--rounds", type=int, default=200, help="two calls of each in one (default: %(default)s)")
    arguments.add_argument("--threads", type=int, help="threads inside one inference (default: usable CPUs)")
    given = arguments.parse()
    with working_folder() as folder:
        figures = measure(given.model or write_model(folder / "model.onnx"), given.rounds, given.threads)
    medians = figures["median_ms"]
    report = Report(given)
    report.line(
        f"predict {medians['predict']:.2f} ms, by hand {medians['by hand']:.2f} ms: {figures['ratio']:.3f} "
        f"({figures['ratio_low']:.3f} to {figures['ratio_high']:.3f}; at most {_LIMIT}), "
        f"{figures['threads']} threads, median of {given.rounds} rounds; load before: {figures['load_before']:.1f}; "
        f"{cpu_info().model}"
    )
    report.close(figures)
    return int(not given.quick and figures["ratio"] > _LIMIT)


def measure(model: Path, rounds: int, threads: int | None) -> dict[str, Any]:
    """Times both sides in turns, after a check that they give the same probabilities."""
    threads = threads or usable_cpus()
    cv2.setNumThreads(threads)
    classifier = Classifier(model, device="cpu", threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    preprocess = classifier.spec.preprocess
    if preprocess.fit == "letterbox" or preprocess.interpolation != AREA:
        raise SystemExit("a model that pads its input or is not resized by area is not what is written by hand here")
    frame_bgr = synthetic_frame()
    height, width = preprocess.size_hw
    region = kept_region(frame_bgr.shape[:2], preprocess)
    rows = slice(region.top, region.top + region.height)
    columns = slice(region.left, region.left + region.width)

    def by_hand() -> FloatArray:
        image = cv2.resize(frame_bgr[rows, columns], (width, height), interpolation=cv2.INTER_AREA)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return np.asarray(session.run(None, {"image": image[None]})[0][0])

    def predict() -> FloatArray:
        return classifier.predict(frame_bgr).probabilities

    np.testing.assert_allclose(predict(), by_hand(), atol=1e-6)
    load = os.getloadavg()[0]
    measured = measure_in_turns(
        {"predict": timed(predict), "by hand": timed(by_hand)}, rounds=rounds, warmup_rounds=_WARM_UP_ROUNDS
    )
    times_ms = {name: np.array(values) for name, values in measured.items()}
    ratio = ratio_of_rounds(times_ms["predict"], times_ms["by hand"])
    return {
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "limit": _LIMIT,
        "median_ms": {name: median(values) for name, values in times_ms.items()},
        "threads": threads,
        "load_before": load,
        "rounds": rounds,
        "cpu": cpu_info().to_json(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
