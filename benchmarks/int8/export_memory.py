"""Measures peak memory and seconds of whole int8 exports, each in one process: ResNet50 and VGG16, from Keras and ONNX files.

    python benchmarks/int8/export_memory.py [--networks resnet50 vgg16] [--sources keras onnx] [--photographs 96] [--size 224]
                                            [--effort quick] [--quick] [--json]

The networks have 1000 classes and random weights; the ONNX files are those of `memory.py`. An export opens, and from Keras
converts, the network, compares it with the original, calibrates and quantizes it, compares again, times and writes the file.
Each phase has a peak of its own, of resident memory, what is mapped of libraries and files among it; columns of phases are
empty where the system cannot start such a peak anew (Linux can). `ready` is the memory once everything is imported.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, run_script, working_folder
from benchmarks.int8.memory import resnet50, vgg16
from benchmarks.synthetic import write_photographs

if TYPE_CHECKING:
    from edgeclf.export.keras_backend import KerasModel

_CLASSES = 1000
_WRITERS = {"resnet50": resnet50, "vgg16": vgg16}
_PHASES = ("open", "verify", "quantize", "finish")
# The phase that a stage of the export begins, by the first words of its name.
_STAGES = {
    **dict.fromkeys(("reference on", "convert", "fp32 on", "int8 on"), "verify"),
    **dict.fromkeys(("choose", "recipe", "observe", "quantize"), "quantize"),
    "time": "finish",
}
_COLUMNS = {
    "weights_mb": ">12.0f",
    "peak_mb": ">9.0f",
    "seconds": ">9.0f",
    "ready_mb": ">10.0f",
    **{f"{phase}_mb": ">13.0f" for phase in _PHASES},
    **{f"{phase}_s": ">12.0f" for phase in _PHASES},
}


class PhasePeaks:
    """Peaks of resident memory and seconds of this process by phase."""

    def __init__(self) -> None:
        self.megabytes: dict[str, float | None] = {}
        self.seconds: dict[str, float] = {}
        self._phase = ""
        self._begun = time.perf_counter()

    def begin(self, phase: str) -> None:
        """Ends the phase that goes on, and begins another, or goes on with one that was interrupted."""
        if phase == self._phase:
            return
        now = time.perf_counter()
        if self._phase:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._begun
            peak = _peak_mb()
            if peak is not None:
                self.megabytes[self._phase] = max(peak, self.megabytes.get(self._phase) or 0.0)
        self._phase, self._begun = phase, now
        _forget_peak()

    def on_progress(self, stage: str, _done: int, _total: int) -> None:
        """Begins the phase of a stage of the export."""
        for words, phase in _STAGES.items():
            if stage.startswith(words):
                self.begin(phase)


def _peak_mb() -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), None)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        # The peaks are then those of all phases so far.
        return


def keras_network(name: str, size_px: int, shrink: int) -> "KerasModel":
    """A Keras model with random weights: of keras.applications, or VGG16 with fewer channels."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    if name == "resnet50":
        return keras.applications.ResNet50(weights=None, input_shape=(size_px, size_px, 3))
    if shrink == 1:
        return keras.applications.VGG16(weights=None, input_shape=(size_px, size_px, 3))
    x = image = keras.Input((size_px, size_px, 3))
    for stage, convolutions in enumerate((2, 2, 3, 3, 3)):
        for _ in range(convolutions):
            x = layers.Conv2D(min(64 << stage, 512) // shrink, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(4096 // shrink, activation="relu")(x)
    return keras.Model(image, layers.Dense(_CLASSES, activation="softmax")(x))


def write_network(name: str, source: str, path: Path, size_px: int, shrink: int) -> None:
    """Writes a network as a Keras or ONNX file."""
    if source == "onnx":
        onnx.save(_WRITERS[name](size_px, shrink), str(path))
        return
    from edgeclf.export.keras_backend import import_tensorflow

    import_tensorflow()
    keras_network(name, size_px, shrink).save(str(path))


def export(path: Path, photographs: Path, out: Path, effort: str) -> dict[str, float | None]:
    """Exports a file in this process, and says what that took."""
    from edgeclf.export import ExportOptions, ParityLimits, export_classifier
    from edgeclf.export.cache_folder import chosen_cache_folder
    from edgeclf.export.source.keras_files.source import open_keras_source
    from edgeclf.export.source.onnx_file import open_onnx_source
    from edgeclf.runtime import ForeignModel
    from edgeclf.runtime.progress import no_progress
    from edgeclf.toolkit.export.photographs import load_photographs

    labels = tuple(f"class {number}" for number in range(_CLASSES))
    is_keras = path.suffix == ".keras"
    if is_keras:
        from edgeclf.export.keras_backend import import_tensorflow, import_tf2onnx

        import_tensorflow()
        import_tf2onnx()
    started, peaks = time.perf_counter(), PhasePeaks()
    ready = _peak_mb()
    peaks.begin("open")
    if is_keras:
        classifier = open_keras_source(path, ForeignModel(labels=labels, preset="keras-caffe"))
    else:
        classifier = open_onnx_source(path, ForeignModel(labels=labels))
    peaks.begin("verify")
    # Random networks need not agree with anything.
    options = ExportOptions(precision="int8", effort=effort, limits=ParityLimits(min_agreement=0.0))  # type: ignore[arg-type]  # one of the option's choices
    cache = chosen_cache_folder(out.parent / "cache", None)
    images = load_photographs(
        photographs,
        classifier.spec,
        precision="int8",
        calibration_images=options.calibration_images,
        cache_folder=cache,
        progress=no_progress,
    ).images
    export_classifier(classifier, images, out, options, progress=peaks.on_progress)
    peaks.begin("")
    # Kilobytes, on macOS bytes. A peak that was started anew is not in it.
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return {
        "weights_mb": path.stat().st_size / 1e6,
        "peak_mb": max(highest, ready or 0.0, *(peak or 0.0 for peak in peaks.megabytes.values())),
        "seconds": time.perf_counter() - started,
        "ready_mb": ready,
        **{f"{phase}_mb": peaks.megabytes.get(phase) for phase in _PHASES},
        **{f"{phase}_s": peaks.seconds.get(phase) for phase in _PHASES},
    }


def measure(cases: Sequence[tuple[str, str]], given: Any, report: Report) -> list[Any]:  # noqa: ANN401 - argparse's namespace
    """One row for each network and source."""
    rows = []
    with working_folder() as folder:
        photographs = write_photographs(folder / "photographs", given.photographs)
        for name, source in cases:
            path = folder / f"{name}.{source}"
            shape = ("--size", given.size, "--shrink", given.shrink)
            run_script(__file__, "--write", path, "--networks", name, "--sources", source, *shape)
            arguments = ("--file", path, "--folder", photographs, "--effort", given.effort)
            rows.append({"network": name, "source": source, **run_script(__file__, *arguments).document})
            path.unlink()
            report.row(*rows[-1].values())
    return rows


def main() -> None:
    """Prints a line for each network and source, or JSON."""
    quick = {"networks": ["vgg16"], "photographs": 20, "size": 32, "shrink": 8}
    arguments = Arguments(__doc__, quick=quick)
    arguments.add_argument("--networks", nargs="+", choices=list(_WRITERS), default=list(_WRITERS))
    arguments.add_argument("--sources", nargs="+", choices=["keras", "onnx"], default=["keras", "onnx"])
    arguments.add_argument("--photographs", type=int, default=96, help="two in five of them calibrate")
    arguments.add_argument("--size", type=int, default=224, help="height and width of images in pixels")
    arguments.add_argument(
        "--shrink", type=int, default=1, help="divide all channels by this (ResNet50: of ONNX files)"
    )
    arguments.add_argument("--effort", choices=["quick", "normal", "max"], default="quick")
    arguments.add_argument("--write", type=Path, help="write one network to this file")
    arguments.add_argument("--file", type=Path, help="export this file, in this process")
    arguments.add_argument("--folder", type=Path, help="its photographs")
    given = arguments.parse()
    if given.write is not None:
        write_network(given.networks[0], given.sources[0], given.write, given.size, given.shrink)
        return
    if given.file is not None:
        print(json.dumps(export(given.file, given.folder, given.file.with_name("exported.onnx"), given.effort)))
        return
    report = Report(given)
    report.columns({"network": "<10", "source": "<7", **_COLUMNS})
    cases = [(name, source) for name in given.networks for source in given.sources]
    report.close(measure(cases, given, report))


if __name__ == "__main__":
    main()
