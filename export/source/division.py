"""Division of images into those that calibrate, those that choose, and those that are only reported, by their content."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SplitName = Literal["train", "val", "test"]

# Shares where no folder names a split: calibration takes two in five as long as it lacks images; of the rest two in three
# choose, because the verdict is theirs, and one in three is only reported.
_CALIBRATION_SHARE, _CHOOSING_SHARE = 2 / 5, 2 / 3
# The intervals of the gate are narrow enough with as many (docs/gate.md); more cost time for each recipe.
MOST_CHOOSING, MOST_REPORTED = 2000, 1000
# Ranges and corrections are fitted to as many, unless more are asked for.
_CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Division:
    """Images divided by use; an image of the same content as another is in the part of that one, or left out.

    Attributes:
        calibration: Positions of the images that int8 ranges are fitted to.
        validation: Positions of the images that decide, and choose among recipes.
        test: Positions of the images that are only reported.
        copies: Number of images left out because another has the same content.
    """

    calibration: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    copies: int


def divide_by_content(
    digests: Sequence[str], splits: Sequence[SplitName | None], *, calibration_images: int = _CALIBRATION_IMAGES
) -> Division:
    """Divides images by the digests of their files: the same on every machine, whatever the files are called.

    Args:
        digests: (N,) digest of each file, hexadecimal.
        splits: (N,) split that is known of each image: `train` calibrates, `val` chooses, `test` is reported. Where no
            image is known to be in `train`, or all are, the digests alone decide; where `val` or `test` is missing, the
            other is divided.
        calibration_images: As many images calibrate at least, if there are enough.
    """
    # The first use of a content wins, so that copies in several splits are never calibrated on and judged.
    order: tuple[SplitName | None, ...] = ("train", "val", "test", None)
    first: dict[str, int] = {}
    for position in sorted(range(len(digests)), key=lambda number: (order.index(splits[number]), number)):
        first.setdefault(digests[position], position)
    kept = sorted(first.values(), key=lambda position: digests[position])
    pools = {split: [position for position in kept if splits[position] == split] for split in order}
    most = max(calibration_images, _CALIBRATION_IMAGES)
    if not pools["train"] or len(pools["train"]) == len(kept):
        count = min(most, round(_CALIBRATION_SHARE * len(kept)))
        calibration = kept[:count]
        validation, test = _choosing_and_reported([], [], kept[count:])
    else:
        calibration = pools["train"][:most]
        validation, test = _choosing_and_reported(pools["val"], pools["test"], pools[None])
    return Division(
        tuple(sorted(calibration)),
        tuple(sorted(validation[:MOST_CHOOSING])),
        tuple(sorted(test[:MOST_REPORTED])),
        len(digests) - len(kept),
    )


def _choosing_and_reported(validation: list[int], test: list[int], rest: list[int]) -> tuple[list[int], list[int]]:
    """The images of both uses, out of those known to be validation and test images, and the rest."""
    if validation and (test or rest):
        return validation, [*test, *rest]
    pool = validation or [*test, *rest]
    # At least one chooses.
    count = -int(-_CHOOSING_SHARE * len(pool) // 1)
    return pool[:count], pool[count:]
