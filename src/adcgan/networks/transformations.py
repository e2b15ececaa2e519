"""The transformations of images that a self-supervised critic tells apart."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

# How many answers each question has: quarter turns, and shifts to the right and down.
ANSWERS = {"turns": 4, "right": 3, "down": 3}


class Transformation(NamedTuple):
    """A shift followed by quarter turns.

    Attributes
    ----------
    turns : int
        Quarter turns counterclockwise, 0 to 3.
    right, down : int
        Shifted to the right (1), to the left (2) or not at all (0); so too down, up.
    """

    turns: int = 0
    right: int = 0
    down: int = 0

    def __call__(self, x: Tensor, share: float) -> Tensor:
        """Return square images (B, C, H, H) transformed.

        A shift is by `share` of the side, in whole pixels and at least one. What it uncovers is
        filled by reflection.
        """
        if self.right or self.down:
            d = max(1, int(x.shape[2] * share))
            left, top = (d - (0, d, -d)[shift] for shift in (self.right, self.down))
            x = F.pad(x, (d, d, d, d), mode="reflect")
            x = x[:, :, top : top + x.shape[2] - 2 * d, left : left + x.shape[3] - 2 * d]
        if self.turns == 2:
            return x.flip((2, 3))
        return x if self.turns == 0 else x.transpose(2, 3).flip(2 if self.turns == 1 else 3)


TURNS = tuple(Transformation(turns) for turns in range(ANSWERS["turns"]))
# The score takes every turn with at most one shift.
SCORED = tuple(
    Transformation(turns, right, down)
    for turns in range(ANSWERS["turns"])
    for right, down in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2))
)
