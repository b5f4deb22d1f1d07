"""Finds where an int8 file loses accuracy: what the rounding of each part costs by itself, before and after fixed point.

    python benchmarks/int8/losses.py [RUN ...] [--arch NAME --images FOLDER] [--images-measured 100] [--calibration N]
                                     [--methods] [--plot PNG] [--quick] [--json]

RUN is a folder that `edgeclf train` wrote; --arch is a pretrained network with its own 1000 classes, on photographs. The
error of the logits is that of log-probabilities less their mean; its energy is given in millionths of the float
network's, or in decibels below it. `before` has the first layers in 8 bits, `after` in fixed point, as it is written.
A part's error is that of the float network with this part alone rounded, so that parts need not sum up to the file's.
Weights are by GPTQ with corrected biases, each layer fitted as if no other were quantized. --methods measures whole files
by other recipes. Parts are measured on --images-measured images, files on all images that neither trained nor calibrated.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, load_pixels, sample_images, working_folder
from benchmarks.int8.rounded import (
    Reference,
    layers_fitted_alone,
    rounded_model,
    rounded_values,
    run_model,
)
from benchmarks.synthetic import build_small_mobile_network, write_photographs
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import SEQUENTIAL_IMAGES, Calibrator, QuantizedNetwork, partition_network
from edgeclf.export.int8.float_prefix import float_prefixes
from edgeclf.export.int8.partition import QuantUnit
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.networks.efficientnet_lite import VARIANTS, build_lite_classifier

# TensorFlow reads this once; another rounding of the float network would be another set of figures.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
_BEFORE = QuantizationRecipe(fixed_point=False)
_WORST = 10
_MILLIONTHS = 1e6
# Difference of the two largest probabilities from which an image counts as sure, as for the gate.
_SURE = 0.3


@dataclass(frozen=True, eq=False)
class Case:
    """A float network and its images.

    Attributes:
        name: Of the run's folder, or of the network.
        model: The float model.
        calibration_rgb: (N, H, W, 3) uint8 RGB.
        held_rgb: (M, H, W, 3) uint8 RGB, images that neither trained nor calibrated.
    """

    name: str
    model: onnx.ModelProto
    calibration_rgb: UInt8Array
    held_rgb: UInt8Array


@dataclass(frozen=True)
class Part:
    """What the rounding of one part costs by itself, in millionths of the logits' energy.

    Attributes:
        name: The part.
        before: With the first layers in 8 bits.
        after: With the first layers in fixed point; None where the part is then no longer in 8 bits.
    """

    name: str
    before: float
    after: float | None


@dataclass(frozen=True)
class FileFigures:
    """A whole file, on all held images.

    Attributes:
        name: How it was made.
        db: Energy of the logits over that of their error, in decibels.
        agreement: Share of images with the float network's label.
        sure_flips: Images with another label although the float network is sure.
    """

    name: str
    db: float
    agreement: float
    sure_flips: int


@dataclass
class Losses:
    """All figures of one network.

    Attributes:
        name: The case's.
        images: How many the files were measured on.
        images_measured: How many the parts were measured on.
        fixed_point: Names of the layers in fixed point.
        files: Whole files.
        parts: By part.
        values: The worst of the values, by name: one rounded at a time.
        layers: The worst of the layers' weights.
        put_back: Layers of the file of `before` put back into float without calibrating again, what is left.
    """

    name: str
    images: int
    images_measured: int
    fixed_point: tuple[str, ...] = ()
    files: list[FileFigures] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)
    put_back: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Prints tables, or JSON."""
    arguments = Arguments(__doc__, quick={"images_measured": 4, "calibration": 6, "methods": True})
    arguments.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run folders")
    arguments.add_argument(
        "--arch", choices=list(VARIANTS), default="efficientnet-lite0", help="the network for --images"
    )
    arguments.add_argument("--images", type=Path, help="a folder of photographs, for a network with its own classes")
    arguments.add_argument("--images-measured", type=int, default=100, help="for the parts (default: %(default)s)")
    arguments.add_argument("--calibration", type=int, help="images (default: 256 of a run, 128 of --images)")
    arguments.add_argument("--methods", action="store_true", help="whole files by other recipes too, minutes more")
    arguments.add_argument("--plot", type=Path, help="a PNG of the parts before and after")
    given = arguments.parse()
    if not (given.runs or given.images or given.quick):
        arguments.error("the following arguments are required: RUN or --images")
    report = Report(given)
    found = []
    for make in cases(given):
        losses = measure(make(), given.images_measured, methods=given.methods)
        show(losses, report)
        found.append(losses)
    if given.plot is not None:
        draw(found, given.plot)
    report.close([asdict(losses) for losses in found])


def cases(given: argparse.Namespace) -> list[Callable[[], Case]]:
    """The networks that were asked for, each loaded when its turn has come."""
    makers: list[Callable[[], Case]] = [
        partial(load_run_case, run, given.calibration or SEQUENTIAL_IMAGES) for run in given.runs
    ]
    if given.images is not None:
        makers.append(partial(load_pretrained_case, given.arch, given.images, given.calibration or 128))
    return makers or [partial(make_small_case, given.calibration)]


def load_run_case(folder: Path, calibration: int) -> Case:
    """The network of a run; measured on its validation and test images, calibrated on training images."""
    from edgeclf.training import load_run

    run = load_run(folder)
    images = run.load_images()
    splits = [images.validation, *([images.test] if images.test is not None else [])]
    held_rgb = np.concatenate([np.asarray(split.images_rgb[:]) for split in splits])
    return Case(
        folder.name, onnx_from_keras(run.load_classifier().model), images.sample_training(calibration), held_rgb
    )


def load_pretrained_case(arch: str, folder: Path, calibration: int) -> Case:
    """A pretrained network with its 1000 classes; calibrated on photographs drawn at random, measured on the others."""
    size = VARIANTS[arch].size
    preprocess = Preprocess((size, size), "crop", crop_fraction=size / (size + 32))
    images_rgb = load_pixels(sample_images(folder), preprocess)
    model = onnx_from_keras(build_lite_classifier(arch, (size, size)))
    return Case(f"{arch}, 1000 classes", model, images_rgb[:calibration], images_rgb[calibration:])


def make_small_case(calibration: int) -> Case:
    """A small network with random weights."""
    preprocess = Preprocess((32, 32), "crop")
    with working_folder() as folder:
        images_rgb = load_pixels(sample_images(write_photographs(folder / "photographs", 16)), preprocess)
    model = onnx_from_keras(build_small_mobile_network(32, 10))
    return Case("random weights", model, images_rgb[:calibration], images_rgb[calibration:])


def measure(case: Case, images_measured: int, *, methods: bool) -> Losses:
    """All figures of a network."""
    probabilities = run_model(case.model, case.held_rgb)
    rows = np.random.default_rng(0).permutation(len(case.held_rgb))[:images_measured]
    whole, few = Reference(case.held_rgb, probabilities), Reference(case.held_rgb[rows], probabilities[rows])
    losses = Losses(case.name, len(case.held_rgb), len(rows))
    calibrator = Calibrator(case.model, case.calibration_rgb)
    say(f"{case.name}: calibrating")
    before, after = calibrator.network(_BEFORE), calibrator.network(QuantizationRecipe())
    written = after.write()
    losses.fixed_point = tuple(written.recipe["fixed_point"])
    files = {"first layers in 8 bits": before.write().model, "first layers in fixed point": written.model}
    for prefix in float_prefixes(list(before.layers))[1:][-1:]:
        network = calibrator.network(replace(_BEFORE, float_prefix=prefix))
        files[f"first {len(prefix)} layers in float"] = network.write().model
        files[f"first {len(prefix)} layers put back into float"] = before.write(prefix).model
    if methods:
        files |= other_files(case, calibrator, before, losses.fixed_point)
    say(f"{case.name}: measuring")
    losses.files = [file_figures(name, model, whole) for name, model in files.items()]
    measure_parts(losses, before, after, case.calibration_rgb, few)
    measure_put_back(losses, before, few)
    return losses


def other_files(
    case: Case, calibrator: Calibrator, before: QuantizedNetwork, fixed_point: Sequence[str]
) -> dict[str, onnx.ModelProto]:
    """Files by other recipes, all with the first layers in fixed point."""
    plain = QuantizationRecipe()
    convolutions = [name for name, layer in before.layers.items() if layer.layer.kind == "Conv"]
    recipes = {
        "min-max ranges": replace(plain, ranges="extremes"),
        "nearest rounding": replace(plain, gptq=False),
        "no bias correction": replace(plain, correct_bias=False),
        "neither": replace(plain, gptq=False, correct_bias=False),
        "equalized": replace(plain, equalize=True),
        "full 8-bit weights": replace(plain, target="x86-vnni"),
        "three more layers in fixed point": replace(
            plain, exact=tuple(convolutions[len(fixed_point) : len(fixed_point) + 3])
        ),
    }
    files = {}
    for name, recipe in recipes.items():
        say(f"{case.name}: calibrating, {name}")
        files[name] = calibrator.network(recipe).write().model
    half = Calibrator(case.model, case.calibration_rgb, sequential_images=len(case.calibration_rgb) // 2)
    files["rounding and biases fitted to half the images"] = half.network(plain).write().model
    return files


def file_figures(name: str, model: onnx.ModelProto, reference: Reference) -> FileFigures:
    """Figures of a file."""
    got, wanted = run_model(model, reference.images_rgb), reference.probabilities
    two = np.sort(wanted, axis=1)[:, -2:]
    flips = got.argmax(axis=1) != wanted.argmax(axis=1)
    sure = two[:, 1] - two[:, 0] > _SURE
    return FileFigures(name, decibels(reference.share(got)), float(1 - flips.mean()), int((flips & sure).sum()))


def measure_parts(
    losses: Losses, before: QuantizedNetwork, after: QuantizedNetwork, calibration_rgb: UInt8Array, reference: Reference
) -> None:
    """Measures each part's rounding alone, every value's and every layer's."""
    values = rounded_values(before)
    still = {value for value, unit in values.items() if unit.name not in losses.fixed_point} | (
        rounded_values(after).keys() & values.keys()
    )
    layers = layers_fitted_alone(before, calibration_rgb[:SEQUENTIAL_IMAGES])
    first = set(losses.fixed_point)
    prefix_values = values.keys() - still

    def cost(of_values: Sequence[str] | set[str], of_layers: set[str]) -> float:
        chosen = {name: layer for name, layer in layers.items() if name in of_layers}
        model = rounded_model(before, set(of_values), chosen)
        return _MILLIONTHS * reference.share_of(model)

    def add(name: str, of_values: set[str], of_layers: set[str]) -> None:
        total = cost(of_values, of_layers)
        kept_values, kept_layers = of_values & still, of_layers - first
        if (kept_values, kept_layers) == (of_values, of_layers):
            losses.parts.append(Part(name, total, total))
        else:
            losses.parts.append(
                Part(name, total, cost(kept_values, kept_layers) if kept_values or kept_layers else None)
            )

    everything = [_MILLIONTHS * reference.share_of(network.write().model) for network in (before, after)]
    losses.parts.append(Part("the file", *everything))
    if first:
        # Residual adds too: one that reads the prefix would be in 8 bits otherwise.
        units = partition_network(after.graph, after.recipe).units
        prefix = after.write([unit.name for unit in units if not unit.exact]).model
        losses.parts.append(Part("first layers", cost(prefix_values, first), _MILLIONTHS * reference.share_of(prefix)))
        losses.parts.append(Part("  their outputs in 8 bits", cost(prefix_values, set()), None))
    add("activations", set(values), set())
    for name, members in group_values(values).items():
        if members:
            add(f"  {name}", members, set())
    add("weights", set(), set(layers))
    dense = [name for name, layer in layers.items() if layer.layer.kind != "Conv"]
    add("  last dense layer", set(), set(dense[-1:]))
    losses.values = worst({unit.name: cost([value], set()) for value, unit in values.items()})
    losses.layers = worst({name: cost((), {name}) for name in layers})


def group_values(values: Mapping[str, QuantUnit]) -> dict[str, set[str]]:
    """The rounded values by the kind of unit that gives them."""

    def kind_of(unit: QuantUnit) -> str:
        if unit.layer is None:
            return {"Add": "residual adds", "GlobalAveragePool": "pooled features"}.get(unit.nodes[0].op_type, "others")
        if unit.layer.depthwise:
            return "depthwise layers"
        return "layers with an activation function" if len(unit.nodes) > 1 else "layers without one"

    names = ("layers with an activation function", "depthwise layers", "layers without one", "residual adds")
    groups: dict[str, set[str]] = {name: set() for name in (*names, "pooled features", "others")}
    for value, unit in values.items():
        groups[kind_of(unit)].add(value)
    return groups


def measure_put_back(losses: Losses, before: QuantizedNetwork, reference: Reference) -> None:
    """Measures the file with layers put back into float: each alone, the first and the last ones."""
    names = list(before.layers)
    counts = [count for count in (1, 2, 3, 6, 8, 16) if count < len(names)]

    def left(kept: Sequence[str]) -> float:
        return _MILLIONTHS * reference.share_of(before.write(kept).model)

    alone = {name: left([name]) for name in names}
    losses.put_back = {"none": left([])}
    losses.put_back |= dict(sorted(alone.items(), key=lambda item: item[1])[:_WORST])
    losses.put_back |= {f"first {count}": left(names[:count]) for count in counts}
    losses.put_back |= {f"last {count}": left(names[-count:]) for count in counts}


def worst(costs: Mapping[str, float]) -> dict[str, float]:
    """The largest, in descending order."""
    return dict(sorted(costs.items(), key=lambda item: -item[1])[:_WORST])


def decibels(share: float) -> float:
    """A share of the energy as decibels below it; 200 for less than can be told."""
    return float(-10 * np.log10(max(share, 1e-20)))


def say(text: str) -> None:
    """Tells on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


def show(losses: Losses, report: Report) -> None:
    """Prints the tables of a network."""
    report.line(f"\n{losses.name}; in fixed point: {', '.join(losses.fixed_point) or 'none'}")
    report.columns(
        {f"files, {losses.images} images": "<50", "dB": ">8.2f", "agreement": ">12.4f", "sure flips": ">12d"}
    )
    for item in losses.files:
        report.row(*asdict(item).values())
    report.columns({f"parts, {losses.images_measured} images, 1e-6": "<50", "before": ">10.1f", "after": ">10.1f"})
    for part in losses.parts:
        report.row(part.name, part.before, part.after)
    for title, figures in (
        ("one value in 8 bits, 1e-6", losses.values),
        ("one layer's weights in 8 bits, 1e-6", losses.layers),
        ("put back into float, what is left, 1e-6", losses.put_back),
    ):
        report.columns({title: "<80", "": ">10.1f"})
        for name, figure in figures.items():
            report.row(name, figure)


def draw(found: Sequence[Losses], path: Path) -> None:
    """Draws the parts of each network as bars, before and after."""
    from edgeclf.training.drawing import TRAINING_COLOUR, VALIDATION_COLOUR, new_figure, save_figure

    names = {
        "the file": "the whole file",
        "first layers": "first layers, alone",
        "activations": "all activations, alone",
        "weights": "all weights, alone",
        "  residual adds": "residual adds",
        "  pooled features": "pooled features",
        "  last dense layer": "weights of the last layer",
    }
    figure = new_figure((3.4 * len(found) + 1.6, 3.2))
    panels: Any = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, losses in zip(panels, found, strict=True):
        parts = {part.name: part for part in losses.parts}
        shown = [name for name in names if name in parts]
        for at, name in enumerate(shown):
            part = parts[name]
            for offset, share, colour in ((-0.2, part.before, TRAINING_COLOUR), (0.2, part.after, VALIDATION_COLOUR)):
                if share is not None:
                    axes.barh(at + offset, share, height=0.36, color=colour)
                    axes.text(share, at + offset, f" {share:.0f}", va="center", fontsize=7, color="#334155")
        axes.set_yticks(range(len(shown)), [names[name] for name in shown])
        axes.set_title(losses.name, fontsize=10)
        axes.set_xlabel("millionths of the logits' energy", fontsize=8)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    for label, colour in (("first layers in 8 bits", TRAINING_COLOUR), ("in fixed point", VALIDATION_COLOUR)):
        panels[-1].barh(0, 0, color=colour, label=label)
    panels[-1].legend(frameon=False, fontsize=8, loc="lower right")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
