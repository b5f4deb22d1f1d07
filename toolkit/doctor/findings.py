"""Findings: cause, severity, evidence and remedy, and the order of their importance."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

Severity: TypeAlias = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

# Causes and their meaning, most fundamental first: among findings of one severity the earlier cause explains the later ones.
# The names are part of the JSON format.
CAUSES: Mapping[str, str] = {
    "refused": "training would refuse this data",
    "unreadable": "files that are no whole images",
    "layout": "class folders that look like parts, with the classes inside",
    "not-read": "files in class folders that are no images by their names",
    "changed-images": "images that are no longer what a run was trained with",
    "no-numbers": "the model gives NaN or infinity",
    "input-scale": "pixels reach the network on another scale than it was made for",
    "channel-order": "red and blue reach the network in each other's place",
    "label-order": "the labels are not in the order of the outputs",
    "output-activation": "what is taken for probabilities is not",
    "image-fit": "images are cut or resized otherwise than the network was trained",
    "constant-answer": "the model gives the same answer whatever the image",
    "dead-class": "a class that the model never gives",
    "diverged": "the loss stopped being a number",
    "lr-too-high": "the learning rate is too high",
    "lr-too-low": "the learning rate is too low",
    "label-noise": "labels that the images contradict",
    "stuck-at-chance": "the network never got better than guessing",
    "leakage": "test or validation images that are in the training data as well",
    "hidden-class": "a kind of image that only one split of the data has",
    "split-shift": "the splits were photographed, or prepared, differently",
    "prior-shift": "the splits have another mix of classes",
    "shortcut": "the label can be told from something that is not the object",
    "duplicates": "the same image more than once",
    "too-few": "too few images to learn from, or to tell two models apart",
    "imbalance": "one class is much rarer than another",
    "overfit": "the network learned its training images by heart",
    "underfit": "the network does not fit even its training images",
    "stopped-early": "training ended while it was still getting better",
    "not-best-weights": "the weights that were kept are not the best ones",
    "noisy-validation": "validation swings more than what is being compared",
    "dead-units": "units that give nothing, whatever the image",
    "over-regularized": "dropout or augmentation keeps the network from learning",
    "calibration": "the confidences do not say how often the model is right",
    "fragile": "mild changes of the image change the answer",
    "class-errors": "one class is recognized much worse than the others",
    "int8-gap": "the int8 model answers differently where errors gather",
    "blurred": "images without sharp edges",
    "exposure": "images that are much too dark or too bright",
    "blank": "images of one colour",
    "grey": "grey images among coloured ones",
    "odd-size": "images of extreme size or shape",
    "rotated": "images that are only upright by their EXIF orientation",
    "mixed-formats": "several file formats",
    "unchecked": "something that could not be looked at",
}


@dataclass(frozen=True)
class Finding:
    """A finding: one thing that is wrong, or worth knowing, with the figures that show it and what fixes it.

    Attributes:
        cause: A key of `CAUSES`.
        severity: `problem` (it will not work, or the figures cannot be trusted), `warning`, or `note`.
        title: One sentence without a full stop, with the figures that matter.
        fix: Command to run or step to take.
        evidence: Figures as JSON values; names say their unit.
        items: Paths of the images concerned, relative to the data's root, the worst first.
        groups: Groups of such paths that belong together, such as the copies of one image.
        details: Caption of each item; empty, or as long as `items`.
        weight: Rank among findings of the same severity and cause, 0..1, higher first.
    """

    cause: str
    severity: Severity
    title: str
    fix: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    details: tuple[str, ...] = ()
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.cause not in CAUSES or self.severity not in SEVERITIES:
            raise ValueError(f"unknown cause or severity: {self.cause!r}, {self.severity!r}")
        if self.details and len(self.details) != len(self.items):
            raise ValueError(f"{len(self.details)} details for {len(self.items)} items")

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        document = asdict(self)
        del document["weight"], document["details"]
        if not self.groups:
            del document["groups"]
        return {**document, "evidence": dict(self.evidence), "items": list(self.items)}


def most_important_first(findings: Sequence[Finding]) -> list[Finding]:
    """The findings ordered by severity, then by cause (see `CAUSES`), then by weight."""
    order = {cause: position for position, cause in enumerate(CAUSES)}
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), order[f.cause], -f.weight))


def split_remedy(sentence: str) -> tuple[str, str]:
    """Splits an error's sentence into problem and remedy.

    Args:
        sentence: Text of an `EdgeclfError`.

    Returns:
        The problem, and the remedy with a capital letter, empty where the sentence has none.
    """
    what, _, remedy = sentence.rstrip(".").rpartition("; ")
    return (what, f"{remedy[:1].upper()}{remedy[1:]}") if what else (remedy, "")


def summary(findings: Sequence[Finding], subject: str) -> str:
    """Title and remedy of the most important finding above a note, and how many more there are.

    Args:
        findings: Findings in the order of `most_important_first`.
        subject: Path of what was examined.
    """
    acted_on = [finding for finding in findings if finding.severity != "note"]
    if not acted_on:
        return f"Nothing wrong was found in {subject}."
    first = acted_on[0]
    others = len(acted_on) - 1
    more = f" ({others} more below)" if others else ""
    return f"{first.title}. {first.fix}{'' if first.fix.endswith('.') else '.'}{more}"
