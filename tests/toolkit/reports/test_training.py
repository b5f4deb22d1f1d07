"""What `edgeclf train` says of old classes and of the rejection threshold."""

from pathlib import Path

import numpy as np
import pytest

from edgeclf.export.verify.paired import PairedCounts
from edgeclf.toolkit.reports.training import calibration_text, old_classes_warning
from edgeclf.training.calibration.report import calibrate
from edgeclf.training.fit.old_classes import OldClasses


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([("cat", PairedCounts(100, 80, 0, 0)), ("dog", PairedCounts(100, 80, 3, 2))], None),
        (
            [("cat", PairedCounts(100, 60, 20, 0)), ("dog", PairedCounts(100, 70, 10, 20))],
            "cat 0.8000 -> 0.6000; edgeclf",
        ),
        # Too little in each class, and too much in all.
        (
            [(name, PairedCounts(60, 50, 4, 0)) for name in "abcde"],
            "all together 0.9000 -> 0.8333; edgeclf compare runs/old runs/new",
        ),
        ([("cat", PairedCounts(0, 0, 0, 0))], None),
    ],
)
def test_a_loss_beyond_chance_is_a_warning(classes, words):
    total = PairedCounts(*(sum(getattr(its, key) for _, its in classes) for key in ("images", "both", "lost", "won")))
    text = old_classes_warning(OldClasses(total, tuple(classes)), Path("runs/old"), Path("runs/new"))
    assert text is None if words is None else words in text


@pytest.mark.parametrize(
    ("images", "rate", "words"),
    [
        (200, 0.02, "0.00% of the validation images; at most 1.49% of all such images (95 % sure)"),
        (100, 0.02, "100 validation images are too few to promise 2.00%, only 2.95% (95 % sure); 149 would be enough"),
        (
            100,
            0.0,
            "100 validation images are too few to promise 0.00%, only 2.95% (95 % sure); no number of them is enough",
        ),
    ],
)
def test_a_rejection_threshold_is_told_with_what_it_promises(images, rate, words):
    top = np.linspace(0.6, 0.9, images, dtype=np.float32)
    result = calibrate({"val": (np.stack([top, 1 - top], axis=1), np.arange(images) % 2)}, rate)
    assert words in calibration_text(result)
