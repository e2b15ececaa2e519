"""The transformations of images that a self-supervised critic tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import lcm, prod
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
        Shift to the right (1), to the left (2) or none (0); likewise down, up or none.
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


def _place_maps(transformations: Sequence[Transformation], side: int, share: float) -> Tensor:
    """Return where each transformation takes the pixels of images of `side` from.

    Parameters
    ----------
    transformations : sequence of T Transformation
    side : int
        H, at most 4,096.
    share : float
        How far a shift moves an image, as a share of its side.

    Returns
    -------
    Tensor of int64 (T, H·H)
        For each pixel of the transformed image, row by row, its place in the image.
    """
    # In float32, which reflection takes, and which holds these numbers exactly.
    places = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    return torch.cat([t(places, share) for t in transformations]).flatten(1).long()


def _view_places(shifts: Tensor, side: int) -> Tensor:
    """Return where views of images of `side`, shifted a little, take their pixels from.

    Parameters
    ----------
    shifts : Tensor of int64 (2, B)
        Where the window of each begins, from the left and from the top: 0 to twice `_view_reach`,
        which is in the middle.
    side : int
        H.

    Returns
    -------
    Tensor of int64 (B, H·H)
        As of `_place_maps`.
    """
    start = (shifts - _view_reach(side))[:, :, None]
    last = side - 1
    seen = (torch.arange(side, device=shifts.device) + start).abs()
    left, top = last - (last - seen).abs()  # continued by reflection
    places: Tensor = top[:, :, None] * side + left[:, None]
    return places.flatten(1)


def _view_reach(side: int) -> int:
    """Return how many pixels a view of images of `side` is shifted by at most."""
    return max(1, int(side * VIEW_SHIFT))


def _taken_from(x: Tensor, places: Tensor) -> Tensor:
    """Return images (B, C, H, W) whose pixels are those of `x` at `places` (B, H·W)."""
    index = places[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view(x.shape)


def _in_other_light(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] with brightness and contrast drawn for each."""
    drawn = torch.rand(2, len(x), 1, 1, 1, device=x.device)
    brightness, contrast = 1 + VIEW_LIGHT * (2 * drawn - 1)
    view: Tensor = ((x * brightness - 0.5) * contrast + 0.5).clamp(0, 1)
    return view


def _window(x: Tensor, d: int, left: int, top: int) -> Tensor:
    """Return a window as large as the images, on images continued by `d` by reflection."""
    wider = F.pad(x, (d, d, d, d), mode="reflect")
    return wider[:, :, top : top + x.shape[2], left : left + x.shape[3]]


class Task(NamedTuple):
    """The questions that a self-supervised critic answers about a transformed image.

    Attributes
    ----------
    values : tuple of int
        How many values each of the first fields of `Transformation` takes.
    scored : tuple of Transformation
        What the score looks at.
    together : bool
        Whether one question asks for all fields together, rather than one for each.
    """

    values: tuple[int, ...]
    scored: tuple[Transformation, ...]
    together: bool = False

    @property
    def answers(self) -> tuple[int, ...]:
        """How many answers each question has."""
        return (prod(self.values),) if self.together else self.values

    @property
    def transformations(self) -> tuple[Transformation, ...]:
        """All that there are, the last field's values changing first."""
        return tuple(Transformation(*t) for t in product(*map(range, self.values)))

    @property
    def steps(self) -> tuple[int, ...]:
        """By how much one more of each field changes a transformation's number among all."""
        return tuple(prod(self.values[i + 1 :]) for i in range(len(self.values)))

    def truth(self, done: Sequence[Transformation]) -> Tensor:
        """Return the right answers (S, Q) to what was done, S transformations."""
        fields = torch.tensor([t[: len(self.values)] for t in done])
        return (fields * torch.tensor(self.steps)).sum(1, keepdim=True) if self.together else fields


TURNS = tuple(Transformation(turns) for turns in range(4))
_CHANGES = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2))
_SHIFTED = tuple(Transformation(t.turns, *shift) for t in TURNS for shift in _CHANGES)
_MIRRORED = tuple(Transformation(t.turns, mirrored=1) for t in TURNS)

TURNS_AND_SHIFTS = Task((4, 3, 3), _SHIFTED)
WITH_MIRRORING = Task((4, 3, 3, 2), _SHIFTED + _MIRRORED)


def asked_together(task: Task) -> Task:
    """Return `task` with one question for all of its transformations, each of which is scored."""
    return Task(task.values, task.transformations, together=True)


class Transformer:
    """Transforms images at random: each pixel of a batch is taken from its place in one operation.

    Parameters
    ----------
    task : Task
        What there is to choose from.
    side : int
        H of the images.
    share : float
        How far a shift moves an image, as a share of its side.
    alike : int
        How many images in a row are transformed alike; with more than one, all second views of a
        batch are shifted alike.
    device : torch.device
        Of the images. What is chosen is drawn from its own random numbers.
    """

    def __init__(
        self, task: Task, side: int, share: float, alike: int, device: torch.device
    ) -> None:
        self.task, self.side, self.alike = task, side, alike
        self.maps = _place_maps(task.transformations, side, share).to(device)
        self._values = torch.tensor(task.values, device=device)
        self._steps = torch.tensor(task.steps, device=device)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform images (B, C, H, H); return them and the right answers (B, Q)."""
        places, truth = self._draw(len(x), x.device)
        return _taken_from(x, places), truth

    def in_two_views(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform images (B, C, H, H) in [0, 1], and make another view of what comes out.

        Returns both (2B, C, H, H), and the right answers (2B, Q).
        """
        turned, truth = self(x)
        reach, n = _view_reach(self.side), len(x) if self.alike == 1 else 1
        window = torch.randint(2 * reach + 1, (2, n), device=x.device)
        places = _view_places(window, self.side).expand(len(x), -1)
        return torch.cat([turned, _in_other_light(_taken_from(turned, places))]), truth.repeat(2, 1)

    def _draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw transformations for `n` images; return places (n, H·H) and right answers (n, Q)."""
        # Any multiple of a number of values has remainders as uniform as its own.
        size = -(-n // self.alike), len(self._values)
        drawn = torch.randint(lcm(*self.task.values), size, device=device).remainder(self._values)
        fields = drawn.repeat_interleave(self.alike, 0)[:n]
        numbers = (fields * self._steps).sum(1)
        return self.maps[numbers], numbers[:, None] if self.task.together else fields
