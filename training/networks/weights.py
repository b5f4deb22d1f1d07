"""What pretrained networks have in common: the names of their weights."""

from typing import TypeAlias

PRETRAINED, RANDOM = "imagenet", "none"
# Input height and width in pixels, None for any.
Size: TypeAlias = tuple[int | None, int | None]
