"""Measures the throughput of `Classifier.stream` on a folder of photographs against the CPUs' best and a plain loop.

    python benchmarks/runtime/pipeline.py MODEL IMAGES [--images 600] [--large 60] [--rounds 5] [--memory] [--quick] [--json]

For photographs as they are and for 12-megapixel ones made of them: the ideal is the CPUs this process may use, divided by
the time one image takes alone to decode, preprocess and infer on one thread, one after the other; the plain loop is
cv2.imread, cv2.resize, and session.run with ONNX Runtime's defaults. All three are taken in turns and their ratios are
medians over the rounds. On a machine that others use too, the CPUs are not all there for the stream. Two figures that
such neighbours hardly touch stand beside: its CPU time for an image next to that of the stages alone, and how many
threads were running or, where Linux says so, waiting for a CPU, next to the CPUs. Then the peak memory of streams of
different lengths, each in a process of its own.
Exit code 1 when a limit is missed.
"""

import argparse
import itertools
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, image_files, median, run_script, sample_images, working_folder
from benchmarks.synthetic import write_model, write_photographs
from edgeclf.runtime import Classifier, ModelSession, preprocess_bgr
from edgeclf.runtime.batch.jobs import Job
from edgeclf.runtime.batch.pipeline import classify_jobs
from edgeclf.runtime.cpus import cpu_info, usable_cpus
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.preprocess import load_image

# Images for one figure of the stages alone.
_ALONE = 24
_LARGE_PIXELS = 12_000_000
_QUALITY = 92
_STREAM_LENGTHS = (1_000, 20_000)
# Images for each CPU that are streamed before.
_WARM_UP = 150


@dataclass(frozen=True)
class Rates:
    """Images per second over one folder, medians, and their ratios to the ideal and to the plain loop.

    Attributes:
        name: The photographs.
        images: Images in one pass.
        megabytes: Mean size of a file.
        decode_ms: Reading and decoding one image alone, on one thread.
        preprocess_ms: Preprocessing it.
        infer_ms: One inference of it on one thread.
        ideal: CPUs divided by the sum of the three.
        stream: What `Classifier.stream` reaches.
        plain: What the plain loop reaches.
        of_ideal: Median over the rounds of stream to ideal in the same round.
        of_plain: The same to the plain loop.
        least_of_ideal: What of_ideal must reach.
        least_of_plain: What of_plain must reach.
        cpu_of_alone: Median over the rounds of the CPU time of an image in the stream, all threads together, to that of
            the three stages alone.
        kept_busy: Median over the rounds of the threads that ran or waited for a CPU during the stream, to the CPUs.
        strategy: How the stream shared the CPUs.
    """

    name: str
    images: int
    megabytes: float
    decode_ms: float
    preprocess_ms: float
    infer_ms: float
    ideal: float
    stream: float
    plain: float
    of_ideal: float
    of_plain: float
    least_of_ideal: float
    least_of_plain: float
    cpu_of_alone: float
    kept_busy: float
    strategy: str


def measure(
    model: Path, name: str, paths: Sequence[Path], rounds: int, *, least_of_plain: float, warm_up: int
) -> Rates:
    """Takes the stages alone, the stream, the stages again and the plain loop, one after the other in every round."""
    classifier, alone = Classifier(model), ModelSession(model, threads=1)
    plain = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    # Opens what the strategy needs, and warms up.
    for _ in classifier.stream(itertools.islice(itertools.cycle(paths), warm_up * usable_cpus())):
        pass
    stages: list[tuple[float, float, float]] = []
    figures: list[tuple[float, float, float]] = []
    cpu: list[float] = []
    busy: list[float] = []
    for number in range(rounds):
        before, cpu_before = _alone(alone, paths, number)
        stream, cpu_stream, threads_busy = _stream(classifier, paths)
        after, cpu_after = _alone(alone, paths, number + 1)
        loop = _plain(plain, paths, alone.spec.preprocess.size_hw)
        # The clock speed at the time of the stream lies between those before and after it.
        stages.append(tuple((a + b) / 2 for a, b in zip(before, after, strict=True)))  # type: ignore[arg-type]
        cpu.append(cpu_stream / ((cpu_before + cpu_after) / 2))
        busy.append(threads_busy / usable_cpus())
        figures.append((usable_cpus() / sum(stages[-1]) * 1e3, stream, loop))
    jobs = (Job(str(path), lambda path=path: load_image(path)) for path in paths[:1])  # type: ignore[misc]
    strategy = str(classify_jobs(classifier.session, jobs).strategy)
    decode_ms, preprocess_ms, infer_ms = (median(values) for values in zip(*stages, strict=True))
    ideal, streamed, looped = (median(values) for values in zip(*figures, strict=True))
    return Rates(
        name=name,
        images=len(paths),
        megabytes=statistics.mean(path.stat().st_size for path in paths) / 1e6,
        decode_ms=decode_ms,
        preprocess_ms=preprocess_ms,
        infer_ms=infer_ms,
        ideal=ideal,
        stream=streamed,
        plain=looped,
        of_ideal=median(b / a for a, b, _ in figures),
        of_plain=median(b / c for _, b, c in figures),
        least_of_ideal=0.95,
        least_of_plain=least_of_plain,
        cpu_of_alone=median(cpu),
        kept_busy=median(busy),
        strategy=strategy,
    )


def _alone(session: ModelSession, paths: Sequence[Path], number: int) -> tuple[tuple[float, float, float], float]:
    """Milliseconds an image takes to decode, to preprocess and to infer, in turn on one thread; CPU time of all."""
    preprocess = session.spec.preprocess
    input_rgb = np.empty((1, *preprocess.size_hw, 3), np.uint8)
    spent = [0.0, 0.0, 0.0]
    # Other images each time, spread over the folder.
    chosen = [paths[(number + step * max(1, len(paths) // _ALONE)) % len(paths)] for step in range(_ALONE)]
    cpu = time.process_time()
    with opencv_threads_at_most(1):
        for path in chosen:
            start = time.perf_counter()
            image_bgr = load_image(path, reduce_for=preprocess)
            decoded = time.perf_counter()
            preprocess_bgr(image_bgr, preprocess, out=input_rgb[0])
            preprocessed = time.perf_counter()
            session.run(input_rgb)
            end = time.perf_counter()
            for stage, seconds in enumerate((decoded - start, preprocessed - decoded, end - preprocessed)):
                spent[stage] += seconds
    decode_ms, preprocess_ms, infer_ms = (seconds / len(chosen) * 1e3 for seconds in spent)
    return (decode_ms, preprocess_ms, infer_ms), (time.process_time() - cpu) / len(chosen) * 1e3


def _stream(classifier: Classifier, paths: Sequence[Path]) -> tuple[float, float, float]:
    """Images per second, CPU milliseconds of an image, and mean number of threads that ran or waited for a CPU."""
    start, cpu = time.perf_counter(), time.process_time()
    begun, busy = 0.0, 0.0
    for number, _ in enumerate(classifier.stream(paths)):
        # Between the first result and the last, while the workers are there.
        if number == 0:
            begun, busy = time.perf_counter(), _wanted_cpu_s()
        elif number == len(paths) - 1:
            busy = (_wanted_cpu_s() - busy) / (time.perf_counter() - begun)
    elapsed = time.perf_counter() - start
    return len(paths) / elapsed, (time.process_time() - cpu) / len(paths) * 1e3, busy


def _wanted_cpu_s() -> float:
    """Seconds that this process's threads have run or waited for a CPU; run alone, where the system counts no waiting."""
    tasks = list(Path("/proc/self/task").glob("*/schedstat"))
    if not tasks:
        return time.process_time()
    return sum(sum(map(int, task.read_text().split()[:2])) for task in tasks) / 1e9


def _plain(session: "onnxruntime.InferenceSession", paths: Sequence[Path], size_hw: tuple[int, int]) -> float:
    """Images per second of a loop of cv2.imread, cv2.resize and session.run."""
    start = time.perf_counter()
    for path in paths:
        image = cv2.resize(cv2.imread(str(path)), size_hw[::-1])
        session.run(None, {"image": cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None]})
    return len(paths) / (time.perf_counter() - start)


def enlarge(paths: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """Makes 12-megapixel JPEGs of the first photographs."""
    made: list[Path] = []
    for path in paths[:count]:
        image_bgr = load_image(path)
        scale = (_LARGE_PIXELS / (image_bgr.shape[0] * image_bgr.shape[1])) ** 0.5
        size = round(image_bgr.shape[1] * scale), round(image_bgr.shape[0] * scale)
        made.append(folder / f"{len(made):04}.jpg")
        large_bgr = cv2.resize(image_bgr, size, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(made[-1]), large_bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return made


def peak_memory(model: Path, folder: Path, lengths: Sequence[int]) -> dict[int, float]:
    """Peak memory in MB of a process that streams so many images; files come more than once."""
    return {length: float(run_script(__file__, model, folder, "--stream-only", length).stdout) for length in lengths}


def _stream_only(model: Path, paths: Sequence[Path], length: int) -> None:
    endless: Iterator[Path] = itertools.cycle(paths)
    for _ in Classifier(model).stream(itertools.islice(endless, length)):
        pass
    print(_peak_mb())


def _peak_mb() -> float:
    """Peak memory of this process in MB; getrusage would include the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"images": 16, "large": 2, "rounds": 1})
    arguments.add_input("model", "an .onnx file with an edgeclf spec")
    arguments.add_input("images_folder", "folder of photographs, searched recursively", metavar="IMAGES")
    arguments.add_argument("--images", type=int, default=600, help="photographs in one pass (default: %(default)s)")
    arguments.add_argument("--large", type=int, default=60, help="12-megapixel photographs, 0 for none")
    arguments.add_argument("--rounds", type=int, default=5, help="passes of each kind (default: %(default)s)")
    arguments.add_argument("--memory", action="store_true", help="also peak memory of 1,000 and of 20,000 images")
    arguments.add_argument("--stream-only", type=int, help=argparse.SUPPRESS)
    given = arguments.parse()
    if given.stream_only:
        _stream_only(given.model, image_files(given.images_folder), given.stream_only)
        return 0
    load = os.getloadavg()[0]
    with working_folder() as folder:
        model = given.model or write_model(folder / "model.onnx")
        source = given.images_folder or write_photographs(folder / "photographs", given.images)
        chosen = sample_images(source, given.images)
        warm_up = 10 if given.quick else _WARM_UP
        rates = [measure(model, "as they are", chosen, given.rounds, least_of_plain=1.4, warm_up=warm_up)]
        if given.large:
            large = enlarge(chosen, given.large, folder)
            rates.append(measure(model, "12 megapixels", large, given.rounds, least_of_plain=2.5, warm_up=warm_up))
        peaks = peak_memory(model, source, _STREAM_LENGTHS) if given.memory else {}
    report = Report(given)
    _print(report, rates, peaks)
    report.line(f"{cpu_info().model}, {usable_cpus()} CPUs; load before: {load:.1f}")
    facts = {"cpu": cpu_info().to_json(), "load_before": load, "peak_mb": peaks}
    report.close({**facts, "rates": [asdict(item) for item in rates]})
    grows = bool(peaks) and peaks[_STREAM_LENGTHS[1]] > 1.05 * peaks[_STREAM_LENGTHS[0]]
    missed = any(item.of_ideal < item.least_of_ideal or item.of_plain < item.least_of_plain for item in rates)
    return int(not given.quick and (grows or missed))


def _print(report: Report, rates: Sequence[Rates], peaks: dict[int, float]) -> None:
    stages = {"decode ms": ">10.2f", "prep ms": ">8.2f", "infer ms": ">9.2f"}
    speeds = {"ideal/s": ">9.1f", "stream/s": ">9.1f", "plain/s": ">9.1f"}
    ratios = {"of ideal": ">10.3f", "least": ">7.2f", "of plain": ">10.2f", "least ": ">7.2f"}
    report.columns({"": "<16", **stages, **speeds, **ratios, "CPU": ">7.3f", "busy": ">7.3f", "  strategy": "<12"})
    for item in rates:
        report.row(
            *(item.name, item.decode_ms, item.preprocess_ms, item.infer_ms, item.ideal, item.stream, item.plain),
            *(item.of_ideal, item.least_of_ideal, item.of_plain, item.least_of_plain),
            *(item.cpu_of_alone, item.kept_busy, f"  {item.strategy}"),
        )
    for length, peak in peaks.items():
        report.line(f"peak memory of {length:,} images: {peak:.1f} MB")


if __name__ == "__main__":
    raise SystemExit(main())
