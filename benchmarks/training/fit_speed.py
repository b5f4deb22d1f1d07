"""Measures images/s of fitting a network, edgeclf against stock Keras: fresh processes by turns, medians.

    python benchmarks/training/fit_speed.py [--arch seed-cnn] [--size 120] [--batch-size 16] [--images 960] [--rounds 5]
                                             [--quick] [--json]

Both sides fit the same network with the same optimizer to the same uint8 images without augmentation: one through
edgeclf's loop, one through `keras.Model.fit` as it comes, with TensorFlow's own defaults. The first epoch, in which the
network is traced, is not counted.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, median, round_ratio, run_in_turns, run_script, stock_environment

if TYPE_CHECKING:
    from edgeclf.training.networks.registry import Architecture


def fit_once(side: str, given: argparse.Namespace) -> float:
    """Images/s of the second epoch of a fit in this process."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (given.images, given.size, given.size, 3), dtype=np.uint8)
    true = np.arange(given.images) % 2
    if side == "stock":
        # Before edgeclf's own import, which would turn oneDNN on.
        import keras

        from edgeclf.training.networks.registry import get_architecture

        network = _build(get_architecture(given.arch), given.size)
        network.compile("nadam", "sparse_categorical_crossentropy", metrics=["accuracy"])

        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        network.fit(images, true, batch_size=given.batch_size, epochs=2, verbose=0, callbacks=[clock])
        return float(given.images / (ends[1] - ends[0]))
    from edgeclf.runtime.progress import no_progress
    from edgeclf.training.data.loader import BatchLoader, Subset
    from edgeclf.training.fit.loop import fit_network
    from edgeclf.training.networks.registry import get_architecture
    from edgeclf.training.options import FitOptions

    options = FitOptions(
        epochs=2, batch_size=given.batch_size, optimizer="nadam", learning_rate=1e-3, patience=10, seed=0
    )
    data = Subset(images, np.arange(given.images), true)
    # One image validates, so that fitting is what is timed.
    validation = Subset(images, np.arange(1), true[:1])
    result = fit_network(
        _build(get_architecture(given.arch), given.size),
        BatchLoader(data, 2, options),
        validation,
        options,
        progress=no_progress,
    )
    return float(given.images / result.seconds[1])


def _build(architecture: "Architecture", size: int) -> Any:  # noqa: ANN401 - keras carries no types
    if architecture.build is None:
        raise SystemExit(f"{architecture.name} is not trained from scratch")
    return architecture.build((size, size), 2)


def main() -> None:
    """Prints images/s of both and their ratio, or JSON."""
    quick = {"arch": "small-cnn", "size": 32, "images": 32, "rounds": 1}
    arguments = Arguments(__doc__, quick=quick)
    arguments.add_argument("--arch", default="seed-cnn")
    arguments.add_argument("--size", type=int, default=120)
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--images", type=int, default=960)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument(
        "--onednn", choices=["default", "off"], default="default", help="oneDNN on the side of stock Keras"
    )
    arguments.add_argument("--side", choices=["edgeclf", "stock"], help=argparse.SUPPRESS)
    given = arguments.parse()
    if given.side:
        print(fit_once(given.side, given))
        return

    def rate_of(side: str, onednn: str) -> float:
        done = run_script(__file__, *sys.argv[1:], "--side", side, environment=stock_environment(onednn))
        return float(done.stdout.split()[-1])

    rates = run_in_turns(
        {"edgeclf": lambda: rate_of("edgeclf", "default"), "stock": lambda: rate_of("stock", given.onednn)},
        given.rounds,
    )
    spread = round_ratio(rates["edgeclf"], rates["stock"])
    figures = {side: median(values) for side, values in rates.items()}
    figures["ratio"] = figures["edgeclf"] / figures["stock"]
    figures |= {"ratio_low": spread.low, "ratio_high": spread.high}
    report = Report(given)
    report.line(
        f"{given.arch}, {given.size} px, batch {given.batch_size}: edgeclf {figures['edgeclf']:.1f} images/s, "
        f"stock Keras {figures['stock']:.1f}, ratio {figures['ratio']:.2f} (medians of {given.rounds} rounds; "
        f"half of them {spread.low:.2f} to {spread.high:.2f})"
    )
    report.close({"arch": given.arch, "images_per_second": rates, "medians": figures})


if __name__ == "__main__":
    main()
