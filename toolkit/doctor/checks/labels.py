"""Check of label noise: suspect labels ranked, with the predicted class. Nothing is deleted or relabelled."""

from collections import Counter
from pathlib import Path

import numpy as np

from edgeclf.runtime.errors import command_line
from edgeclf.runtime.metrics import Z_95, wilson_interval
from edgeclf.toolkit.doctor.checks.suspects import FOLDS, Suspects, find_suspects
from edgeclf.toolkit.doctor.facts import Check, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import list_images, train_data
from edgeclf.toolkit.doctor.statistics import binomial_tail

# Fraction of wrong labels that is a problem where the lower end of its interval is above: test figures are off by as much.
PROBLEM_FRACTION = 0.02
# Suspect labels relative to undecided images, and significance of their surplus, for a warning. Of two normal distributions of
# equal covariance with correct labels, no more than this share of suspect and undecided images are suspect: under a class, the
# density of the log odds z of its probability is N(d^2 / 2, d^2), which below z = 0 falls no slower than exp(z / 2).
TIMES_UNDECIDED = 2.0
LARGEST_SHARE = 3 / 7
SIGNIFICANCE = 0.05


def find_suspect_labels(facts: Facts) -> list[Finding]:
    """Labels that a model trained without the image contradicts with high confidence."""
    data = facts.data
    if data is None:
        return []
    if data.features is None:
        return [_not_checked(data)]
    found = data.derived(find_suspects)
    if found is None:
        return []
    flagged = np.flatnonzero(found.flagged)
    findings = _inseparable(data, found)
    if not len(flagged):
        return findings
    targets = np.searchsorted(found.classes, data.images.labels[found.rows])
    own = found.probabilities[np.arange(len(targets)), targets]
    ranked = flagged[np.argsort(own[flagged], kind="stable")]
    count, looked_at = len(flagged), len(found.rows)
    low, high = wilson_interval(count, looked_at, z=Z_95)
    significant = is_surplus(count, found.undecided)
    severity: Severity = "note" if not significant else "problem" if low > PROBLEM_FRACTION else "warning"
    likes = found.probabilities[ranked].argmax(axis=1)
    classes = [data.classes[number] for number in found.classes]
    mixed_up = Counter(f"{classes[targets[row]]} -> {classes[like]}" for row, like in zip(ranked, likes, strict=True))
    verb = "contradicts its image" if count == 1 else "contradict their images"
    title = f"{count:,} of {looked_at:,} labels ({count / looked_at:.1%}) {verb}"
    if not significant:
        title += f", no more than classes that overlap may give ({found.undecided:,} undecided)"
    findings.append(
        Finding(
            "label-noise",
            severity,
            title,
            f"Look at them, most suspect first (`{list_images(data)}` lists them), and move those that are "
            "wrong to their class",
            evidence={
                "kind": "suspects",
                "images": count,
                "looked_at": looked_at,
                "undecided": found.undecided,
                "share": round(count / looked_at, 4),
                "share_95": [round(low, 4), round(high, 4)],
                "mixed_up": dict(mixed_up.most_common(20)),
                "classes_too_small": [data.classes[number] for number in found.too_small],
                "network": data.features.network,
            },
            items=tuple(data.images.paths[row] for row in found.rows[ranked]),
            details=tuple(
                f"labelled {classes[targets[row]]} ({own[row]:.0%}), looks like {classes[like]} "
                f"({found.probabilities[row, like]:.0%})"
                for row, like in zip(ranked, likes, strict=True)
            ),
            weight=min(1.0, 5.0 * count / looked_at),
        )
    )
    return findings


def is_surplus(count: int, undecided: int) -> bool:
    """Whether there are more suspect labels than classes that overlap have with correct labels (binomial test).

    Args:
        count: Suspect labels.
        undecided: Images whose label is neither suspect nor confirmed.
    """
    tail = binomial_tail(count, count + undecided, LARGEST_SHARE)
    return count >= TIMES_UNDECIDED * undecided and tail < SIGNIFICANCE


def _inseparable(data: DataFacts, found: Suspects) -> list[Finding]:
    if not found.inseparable:
        return []
    pairs = [tuple(data.classes[found.classes[number]] for number in pair) for pair in found.inseparable]
    shown = ", ".join(f"{first} and {second}" for first, second in pairs[:5])
    return [
        Finding(
            "label-noise",
            "note",
            f"Wrong labels cannot be told from right ones between {shown}{' and others' if len(pairs) > 5 else ''}: the "
            "pretrained features hardly separate them",
            f"Train with `{train_data(Facts(data), '--fine-tune')}` and look at the per-class errors",
            evidence={"kind": "inseparable", "pairs": [list(pair) for pair in pairs]},
        )
    ]


def _not_checked(data: DataFacts) -> Finding:
    return Finding(
        "label-noise",
        "note",
        "Labels were not looked at: that needs the pretrained network",
        f'Run `pip install "edgeclf[train,doctor]"` and `{command_line("doctor", Path(data.given))}` again',
        evidence={"kind": "not-looked-at"},
    )


CHECKS: tuple[Check, ...] = (
    Check(
        "suspect-labels",
        "labels",
        ("label-noise",),
        f"a logistic regression on frozen features, {FOLDS}-fold, copies kept together, gives another class 0.7 or more and "
        "confident learning counts the label as an issue; a warning where these are twice as many as undecided images and more "
        f"than overlapping classes have (binomial test of 3 in 7 of both, {SIGNIFICANCE:g}), a problem where their share is above 2 % with 97.5 % confidence, else a note",
        find_suspect_labels,
    ),
)
