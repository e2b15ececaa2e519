"""The transformations of images that a self-supervised critic tells apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Transformation(NamedTuple):
    """Mirroring followed by a shift and quarter turns.

    Attributes
    ----------
    turns : int
        Quarter turns counterclockwise, 0 to 3.
    right, down : int
        Shifted to the right (1), to the left (2) or not at all (0); so too down, up.
    mirrored : int
        Left and right exchanged (1) or not (0).
    """

    turns: int = 0
    right: int = 0
    down: int = 0
    mirrored: int = 0

    def __call__(self, x: Tensor, share: float) -> Tensor:
        """Return square images (B, C, H, H) transformed.

        A shift is by `share` of the side, in whole pixels and at least one. What it uncovers is
        filled by reflection.
        """
        if self.mirrored:
            x = x.flip(3)
        if self.right or self.down:
            d = max(1, int(x.shape[2] * share))
            left, top = (d - (0, d, -d)[shift] for shift in (self.right, self.down))
            x = _window(x, d, left, top)
        if self.turns == 2:
            return x.flip((2, 3))
        return x if self.turns == 0 else x.transpose(2, 3).flip(2 if self.turns == 1 else 3)


# How far another view of an image is shifted at most, as a share of the side, and by which share
# its brightness and its contrast change.
VIEW_SHIFT, VIEW_LIGHT = 1 / 8, 0.4


def other_view(x: Tensor) -> Tensor:
    """Return another view of images (B, C, H, H) in [0, 1]: shifted a little, in other light.

    All are shifted alike; brightness and contrast are drawn for each.
    """
    d = max(1, int(x.shape[2] * VIEW_SHIFT))
    left, top = torch.randint(2 * d + 1, (2,)).tolist()
    x = _window(x, d, left, top)
    light = 1 + VIEW_LIGHT * (2 * torch.rand(2, len(x), 1, 1, 1) - 1)
    brightness, contrast = light.to(x.device, non_blocking=True)
    view: Tensor = ((x * brightness - 0.5) * contrast + 0.5).clamp(0, 1)
    return view


def _window(x: Tensor, d: int, left: int, top: int) -> Tensor:
    """Return what a window as large as the images sees of them, continued by `d` by reflection."""
    wider = F.pad(x, (d, d, d, d), mode="reflect")
    return wider[:, :, top : top + x.shape[2], left : left + x.shape[3]]


class Task(NamedTuple):
    """What a self-supervised critic is asked of a transformed image.

    Attributes
    ----------
    answers : tuple of int
        How many answers each question has: one question for each of the first fields of
        `Transformation`.
    scored : tuple of Transformation
        What the score looks at: every turn, with at most one other change.
    """

    answers: tuple[int, ...]
    scored: tuple[Transformation, ...]


TURNS = tuple(Transformation(turns) for turns in range(4))
_CHANGES = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2))
_SHIFTED = tuple(Transformation(t.turns, *shift) for t in TURNS for shift in _CHANGES)
_MIRRORED = tuple(Transformation(t.turns, mirrored=1) for t in TURNS)

TURNS_AND_SHIFTS = Task((4, 3, 3), _SHIFTED)
WITH_MIRRORING = Task((4, 3, 3, 2), _SHIFTED + _MIRRORED)
