"""What `edgeclf train` says of old classes."""

from pathlib import Path

import pytest

from edgeclf.export.verify.paired import PairedCounts
from edgeclf.toolkit.reports.training import old_classes_warning
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
