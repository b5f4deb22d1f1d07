"""Simulates int8 files of known accuracy loss, and counts what the parity gate says of each, by its older rule and now.

    python benchmarks/int8/gate.py [--repetitions 200] [--images 100 400 1000 4000] [--plot PNG] [--quick] [--json]

Nothing is trained: a network is a distribution of logits. `sure` is like cats against dogs (two classes, accuracy 0.987,
98 % of images sure), `unsure` like recycling (six classes, accuracy 0.88, 88 % sure). A file loses accuracy by `noise` on
all logits, as rounding does, or by `wrong`: rounding as measured, and confident nonsense on some images. `drop` is the
true loss, over images without end; the older rule is agreement >= 0.99 and accuracy drop <= 0.01 as measured. `hard 2` and
`hard 10` are sure of no image, and nobody knows the classes of these: files that are rounded, and files that have nothing to
do with the network.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report
from edgeclf.export.verify.parity import INT8_LIMITS, SURE_MARGIN, compare_probabilities, parity_failures
from edgeclf.export.verify.verdict import DEFAULT_RULE, OUTCOMES, judge_parity
from edgeclf.runtime.arrays import Float64Array, IntArray

_DROPS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05)
# Standard deviation of an int8 file's logits around those of the float file, as measured with recycling.
_ROUNDING = 0.12
# Images by which the loss of accuracy is set.
_POPULATION = 200_000


@dataclass(frozen=True)
class Network:
    """A calibrated network: the logits of an image's class are raised by the variance of all logits.

    Attributes:
        name: For tables.
        classes: Number of classes.
        deviation: Standard deviation of each logit around its mean.
    """

    name: str
    classes: int
    deviation: float

    def draw(self, count: int, random: np.random.Generator) -> tuple[Float64Array, IntArray]:
        """(N, C) logits of new images, and (N,) their classes."""
        true = random.integers(0, self.classes, count)
        logits = random.normal(0.0, self.deviation, (count, self.classes))
        logits[np.arange(count), true] += self.deviation**2
        return logits, true


_NETWORKS = (Network("sure", 2, 3.15), Network("unsure", 6, 2.5))


@dataclass(frozen=True)
class HardNetwork:
    """A network that is sure of none of its images, whose classes are not known.

    Attributes:
        name: For tables.
        classes: Number of classes.
        deviation: Standard deviation of the logits, before those images are left out of which it is sure.
    """

    name: str
    classes: int
    deviation: float

    def draw(self, count: int, random: np.random.Generator) -> tuple[Float64Array, None]:
        """(N, C) logits of new images, and None for their classes."""
        logits = np.empty((0, self.classes))
        while len(logits) < count:
            drawn = random.normal(0.0, self.deviation, (count, self.classes))
            largest = np.sort(softmax(drawn), axis=1)
            logits = np.concatenate([logits, drawn[largest[:, -1] - largest[:, -2] <= SURE_MARGIN]])
        return logits[:count], None


_HARD_NETWORKS = (HardNetwork("hard 2", 2, 0.4), HardNetwork("hard 10", 10, 0.6))

# Logits of the float file to those of a candidate.
_Change = Callable[[Float64Array, np.random.Generator], Float64Array]


def noise_of(network: Network, drop: float, random: np.random.Generator) -> _Change:
    """Noise of the size that costs so much accuracy; at no loss, that of rounding."""
    logits, true = network.draw(_POPULATION, random)
    noise = random.normal(0.0, 1.0, logits.shape)
    before = (logits.argmax(axis=1) == true).mean()
    low, high = _ROUNDING, 50.0
    while drop > 0 and high - low > 1e-3:
        middle = (low + high) / 2
        lost = before - ((logits + middle * noise).argmax(axis=1) == true).mean()
        low, high = (middle, high) if lost < drop else (low, middle)
    return lambda values, generator: values + generator.normal(0.0, low, values.shape)


def wrong_of(network: Network, drop: float, random: np.random.Generator) -> _Change:
    """Rounding, and the logits of other images in the places of some, so many that it costs so much accuracy."""
    logits, true = network.draw(_POPULATION, random)
    accuracy = (logits.argmax(axis=1) == true).mean()
    share = drop / (accuracy - 1 / network.classes)

    def change(values: Float64Array, generator: np.random.Generator) -> Float64Array:
        rounded = values + generator.normal(0.0, _ROUNDING, values.shape)
        wrong = generator.random(len(values)) < share
        rounded[wrong] = network.draw(int(wrong.sum()), generator)[0]
        return rounded

    return change


_WAYS: dict[str, Callable[[Network, float, np.random.Generator], _Change]] = {"noise": noise_of, "wrong": wrong_of}


def flipped_of(share: float) -> _Change:
    """Rounding, and this share of the sure images with their two most probable classes exchanged."""

    def change(values: Float64Array, generator: np.random.Generator) -> Float64Array:
        rounded = values + generator.normal(0.0, _ROUNDING, values.shape)
        largest = np.sort(softmax(values), axis=1)
        flipped = (largest[:, -1] - largest[:, -2] > SURE_MARGIN) & (generator.random(len(values)) < share)
        first, second = np.argsort(-rounded, axis=1)[:, :2].T
        rows = np.flatnonzero(flipped)
        rounded[rows, first[rows]], rounded[rows, second[rows]] = (
            rounded[rows, second[rows]],
            rounded[rows, first[rows]],
        )
        return rounded

    return change


def swapped(values: Float64Array, generator: np.random.Generator) -> Float64Array:
    """Rounding, and the outputs of the first two classes exchanged."""
    rounded = values + generator.normal(0.0, _ROUNDING, values.shape)
    rounded[:, [0, 1]] = rounded[:, [1, 0]]
    return rounded


def identical(values: Float64Array, _: np.random.Generator) -> Float64Array:
    """The float file itself."""
    return values


_FAULTS: dict[str, _Change] = {
    "the float file itself": identical,
    "1 % of sure images flipped": flipped_of(0.01),
    "2 % of sure images flipped": flipped_of(0.02),
    "5 % of sure images flipped": flipped_of(0.05),
    "two classes exchanged": swapped,
}


def one_answer(values: Float64Array, generator: np.random.Generator) -> Float64Array:
    """The same unsure answer to all images."""
    return np.tile(generator.normal(0.0, 0.2, values.shape[1]), (len(values), 1))


def one_class(values: Float64Array, _: np.random.Generator) -> Float64Array:
    """The first class of every image, and sure of it."""
    return np.tile(5.0 * np.eye(values.shape[1])[0], (len(values), 1))


def nonsense_of(share: float, deviation: float) -> _Change:
    """Logits that have nothing to do with the image, of this share of the images."""

    def change(values: Float64Array, generator: np.random.Generator) -> Float64Array:
        other = generator.normal(0.0, deviation, values.shape)
        return np.where(generator.random((len(values), 1)) < share, other, values)

    return change


def uniform(values: Float64Array, generator: np.random.Generator) -> Float64Array:
    """All classes alike to within a thousandth."""
    return generator.normal(0.0, 1e-3, values.shape)


def rounded_by(deviation: float) -> _Change:
    """Noise of this standard deviation on all logits."""
    return lambda values, generator: values + generator.normal(0.0, deviation, values.shape)


_HARD_FILES: dict[str, _Change] = {
    "the float file itself": identical,
    "rounding alone": rounded_by(_ROUNDING),
    "noise of 0.2": rounded_by(0.2),
    "noise of 0.3": rounded_by(0.3),
    "sure nonsense": nonsense_of(1.0, 8.0),
    "sure nonsense on 30 %": nonsense_of(0.3, 8.0),
    "unsure nonsense": nonsense_of(1.0, 0.4),
    "one unsure answer": one_answer,
    "one sure answer": one_class,
    "all classes alike": uniform,
    "two classes exchanged": swapped,
}


def softmax(logits: Float64Array) -> Float64Array:
    """(N, C) probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def count_verdicts(
    network: Network | HardNetwork, change: _Change, images: int, repetitions: int, random: np.random.Generator
) -> Counter[tuple[str, str]]:
    """How often which verdict of the older rule meets which of the rule of today."""
    verdicts: Counter[tuple[str, str]] = Counter()
    for _ in range(repetitions):
        logits, true = network.draw(images, random)
        candidate = softmax(change(logits, random))
        facts = compare_probabilities(softmax(logits), candidate, "validation", true)
        older = "failed" if parity_failures(facts, INT8_LIMITS) else "passed"
        verdicts[older, judge_parity(facts, DEFAULT_RULE).outcome] += 1
    return verdicts


def cases_of(network: Network | HardNetwork, random: np.random.Generator) -> list[tuple[str, float | None, _Change]]:
    """The kinds of files of a network: name, true loss where it is set, and what becomes of the logits."""
    if isinstance(network, HardNetwork):
        return [(name, None, change) for name, change in _HARD_FILES.items()]
    of_loss: list[tuple[str, float | None, _Change]] = [
        (way, drop, make(network, drop, random)) for way, make in _WAYS.items() for drop in _DROPS
    ]
    return [*of_loss, *((name, None, change) for name, change in _FAULTS.items())]


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"repetitions": 3, "images": [100, 400]})
    arguments.add_argument("--repetitions", type=int, default=200, help="simulated files of each kind")
    arguments.add_argument("--images", type=int, nargs="+", default=[100, 400, 1000, 4000], help="validation images")
    arguments.add_argument("--plot", type=Path, help="a PNG of the power curves")
    given = arguments.parse()
    report = Report(given)
    verdict_columns = {"older passed": ">14.3f", **{str(name): ">11.3f" for name in OUTCOMES}}
    report.columns({"network": "<9", "how": "<28", "drop": ">6.3f", "images": ">8d", **verdict_columns})
    rows, changed, changed_hard = [], Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    of_known_loss, hard = np.random.default_rng(0), np.random.default_rng(1)
    for network in (*_NETWORKS, *_HARD_NETWORKS):
        random = hard if isinstance(network, HardNetwork) else of_known_loss
        for way, drop, change in cases_of(network, random):
            for images in given.images:
                verdicts = count_verdicts(network, change, images, given.repetitions, random)
                if isinstance(network, HardNetwork):
                    changed_hard += verdicts
                else:
                    changed += verdicts
                shares: dict[str, float] = {
                    "older_passed": sum(n for (older, _), n in verdicts.items() if older == "passed")
                    / given.repetitions,
                    **{
                        str(name): sum(verdicts[older, name] for older in OUTCOMES) / given.repetitions
                        for name in OUTCOMES
                    },
                }
                rows.append({"network": network.name, "how": way, "drop": drop, "images": images, **shares})
                report.row(*rows[-1].values())
    for title, counts in (("", changed), (", networks that are sure of nothing", changed_hard)):
        report.line(f"Verdicts of the older rule and of this one{title}, files:")
        for (older, now), number in sorted(counts.items()):
            report.line(f"  {older:>7} -> {now:<10}{number}")
    if given.plot is not None:
        draw(rows, given.plot)
    changes, changes_hard = (
        [{"older": older, "now": now, "files": number} for (older, now), number in sorted(counts.items())]
        for counts in (changed, changed_hard)
    )
    report.close({"repetitions": given.repetitions, "rows": rows, "changes": changes, "changes_hard": changes_hard})


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Draws the share of files that pass against the true loss, by number of images, for both rules."""
    from edgeclf.training.drawing import new_figure, save_figure

    sizes = sorted({int(str(row["images"])) for row in rows})
    figure = new_figure((9.0, 3.4))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, network in zip(panels, _NETWORKS, strict=True):
        for number, images in enumerate(sizes):
            curve = [
                row
                for row in rows
                if (row["network"], row["how"], row["images"]) == (network.name, "noise", images)
                and row["drop"] is not None
            ]
            drops = [100 * float(str(row["drop"])) for row in curve]
            colour = ("#94a3b8", "#0ea5e9", "#7c3aed", "#c2410c")[number % 4]
            axes.plot(drops, [row["passed"] for row in curve], color=colour, label=f"{images} images")
            axes.plot(drops, [row["older_passed"] for row in curve], color=colour, linestyle=":", linewidth=1)
        axes.axvline(1.0, color="#94a3b8", linewidth=0.8)
        axes.set_title(f"{network.name} network")
        axes.set_xlabel("true loss of accuracy, points")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("share of files that pass")
    panels[1].legend(frameon=False, fontsize=8, title="dotted: the older rule")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
