"""Synthetic defects: normal images made anomalous in places that are known.

A defect is a shape, a kind of change inside it, and a place, all drawn at random. A network that
learns to find them learns that a place does not belong, not what a particular defect looks like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from adcgan.errors import InputError

# What happens inside the shape of a defect.
KINDS = ("paste", "shade", "blur", "texture", "constant", "noise", "warp")
SHAPES = ("blob", "rectangle", "line")
# Sides, in pixels: a defect does not grow with the photograph that it is on.
LARGEST = 128
# A change of this much, on a scale of 0 to 1, is certain to be seen; less is labelled as less.
VISIBLE = 0.05
# Pixels that a blur takes in to each side.
BLUR_REACH = 4


def add_defects(
    x: Tensor,
    rng: torch.Generator,
    *,
    kinds: Sequence[str] = KINDS,
    clean: float = 0.0,
    most: int = 1,
) -> tuple[Tensor, Tensor]:
    """Damage images in random places.

    Nothing is read back from the device and nothing is decided on the host, so that a step which
    calls this can be captured as a CUDA graph.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W), floating point
        Normal images, in [0, 1]. With "paste", a defect shows a piece of this or another image of
        the batch.
    rng : torch.Generator
        Where every choice comes from; the same state gives the same defects on one kind of
        device.
    kinds : sequence of {"paste", "shade", "blur", "texture", "constant", "noise", "warp"}
        What a defect may be: a piece of an image elsewhere, lighter or darker, blurred, another
        texture, one colour, noise, or bent.
    clean : float
        The share of images that are left as they are, 0 to 1.
    most : int
        How many defects an image gets at most; each after the first with probability ½.

    Returns
    -------
    damaged : Tensor of shape (B, C, H, W)
        In [0, 1].
    mask : Tensor of shape (B, 1, H, W)
        How visible the damage of each pixel is, in [0, 1]: 0 where nothing changed, 1 where an
        eye would see it.

    Raises
    ------
    InputError
        If a kind is unknown or none is given.

    Notes
    -----
    Pasting follows CutPaste (Li et al. 2021) and NSA (Schlüter et al. 2022), noise-shaped
    textures follow DRAEM (Zavrtanik et al. 2021).
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(
            f"The 'kinds' parameter must be among {', '.join(map(repr, KINDS))}. "
            f"Got {list(kinds)!r} instead."
        )
    draw = _Draw(rng, x)
    changes = _changes(x, kinds, draw)
    spared = draw.uniform(0, 1) < clean
    damaged, defect = x, torch.zeros_like(x[:, :1])
    for number in range(most):
        use = ~spared if number == 0 else ~spared & (draw.uniform(0, 1) < 0.5)
        inside = _shape(draw) * use
        change = changes[draw.whole(len(kinds)).view(-1), torch.arange(draw.n, device=x.device)]
        defect = torch.maximum(defect, inside)
        damaged = damaged + (change - damaged) * inside
    return damaged, _visible(damaged - x) * (defect > 0.5)


class _Draw:
    """Random numbers, one for each image of a batch, on the device of the images."""

    def __init__(self, rng: torch.Generator, like: Tensor) -> None:
        self.rng, self.device = rng, like.device
        self.n, self.channels, self.height, self.width = like.shape

    def uniform(self, low: float, high: float, channels: int = 1) -> Tensor:
        """Return (B, channels, 1, 1) numbers from `low` to `high`."""
        shape = (self.n, channels, 1, 1)
        drawn = torch.rand(shape, generator=self.rng, device=self.rng.device)
        return drawn.to(self.device) * (high - low) + low

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Return (B, 1, 1, 1) numbers from `low` to `high`, their logarithms uniform."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def whole(self, n: int) -> Tensor:
        """Return (B, 1, 1, 1) whole numbers from 0 to n − 1."""
        return self.uniform(0, n).long().clamp(max=n - 1)

    def normal(self, channels: int, height: int, width: int) -> Tensor:
        """Return standard normal numbers (B, channels, height, width)."""
        shape = (self.n, channels, height, width)
        return torch.randn(shape, generator=self.rng, device=self.rng.device).to(self.device)

    def field(self, cell: int, channels: int = 1) -> Tensor:
        """Return noise (B, channels, H, W) that is smooth over about `cell` pixels."""
        down, across = (self._stretch(side, cell) for side in (self.height, self.width))
        coarse = self.normal(channels, down.shape[1], across.shape[1])
        return down @ coarse @ across.T

    def _stretch(self, side: int, cell: int) -> Tensor:
        """Return the matrix (side, n) that enlarges n values, `cell` pixels apart, as a cubic."""
        one_each = torch.eye(math.ceil(side / cell) + 1, device=self.device)[None, :, :, None]
        rows = F.interpolate(one_each, (side, 1), mode="bicubic", align_corners=True)
        return rows[0, :, :, 0].T


def _visible(difference: Tensor) -> Tensor:
    """Return how visible a difference (B, C, H, W) is, around each pixel: (B, 1, H, W), 0 to 1."""
    largest = difference.abs().amax(1, keepdim=True)
    # In a shape that is seen, a pixel that happens to be as it was is part of the defect.
    return (_largest_around(_mean_around(largest, 1), 4) / VISIBLE).clamp(0, 1)


def _mean_around(x: Tensor, reach: int) -> Tensor:
    """Return the mean of x (B, C, H, W) in the square `reach` pixels around each pixel."""
    for dim in (2, 3):
        shifted = _shifted(x, reach, dim)
        x = reduce(torch.add, shifted) / len(shifted)
    return x


def _largest_around(x: Tensor, reach: int) -> Tensor:
    """Return the maximum of x (B, C, H, W) in the square `reach` pixels around each pixel."""
    for dim in (2, 3):
        x = reduce(torch.maximum, _shifted(x, reach, dim))
    return x


def _shifted(x: Tensor, reach: int, dim: int) -> list[Tensor]:
    """Return x moved by −reach to reach pixels along a side, its last values repeated beyond.

    Sums or maxima of these are far faster on a CPU than a pooling layer.
    """
    sides = [0, 0, reach, reach] if dim == 2 else [reach, reach, 0, 0]
    padded = F.pad(x, sides, mode="replicate")
    return [padded.narrow(dim, first, x.shape[dim]) for first in range(2 * reach + 1)]


def _shape(draw: _Draw) -> Tensor:
    """Return how much each pixel (B, 1, H, W) is inside of a shape, in [0, 1]."""
    side = min(LARGEST, draw.height, draw.width)
    rows = torch.arange(draw.height, device=draw.device, dtype=torch.float32)[:, None]
    columns = torch.arange(draw.width, device=draw.device, dtype=torch.float32)
    ragged = draw.log_uniform(0.3, 6)
    y = rows - draw.uniform(0, draw.height) + ragged * draw.field(12)
    x = columns - draw.uniform(0, draw.width) + ragged * draw.field(12)
    angle = draw.uniform(0, math.pi)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    # Half axes of blob and rectangle; half length, half thickness and bend of a line.
    long = draw.log_uniform(2, max(3, side / 4))
    short = (long * draw.uniform(0.3, 1)).clamp(min=1.2)
    length, thickness = draw.log_uniform(5, max(6, side / 2)), draw.log_uniform(0.6, 3)
    bend = draw.uniform(-0.35, 0.35) / length
    # Distances to the edge, in pixels, below 0 inside.
    blob = ((u / long).square() + (v / short).square()).sqrt() * short - short
    rectangle = torch.maximum(u.abs() - long, v.abs() - short)
    line = torch.maximum(u.abs() - length, (v - bend * u.square()).abs() - thickness)
    shape = draw.whole(len(SHAPES))
    distance = torch.where(shape == 0, blob, torch.where(shape == 1, rectangle, line))
    return torch.sigmoid(-1.5 * distance / draw.log_uniform(0.3, 2))


def _changes(x: Tensor, kinds: Sequence[str], draw: _Draw) -> Tensor:
    """Return images with each kind of change everywhere: (kinds, B, C, H, W)."""
    sign = draw.whole(2).to(x.dtype) * 2 - 1
    # How much of a piece or a colour covers the image.
    opacity = draw.uniform(0.35, 1)
    blurred = _mean_around(x, BLUR_REACH)
    made = []
    for kind in kinds:
        if kind == "paste":
            made.append(x + (_elsewhere(x, draw) - x) * opacity)
        elif kind == "shade":
            made.append(x * (1 + sign * draw.uniform(0.1, 0.6)) + sign * draw.uniform(0, 0.25))
        elif kind == "blur":
            made.append(blurred)
        elif kind == "texture":
            pattern = draw.field(3) * draw.uniform(0, 1) + draw.field(10)
            colour = draw.uniform(0.05, 0.25) * draw.uniform(0.5, 1, draw.channels)
            made.append(x + (blurred + pattern * colour - x) * opacity)
        elif kind == "constant":
            made.append(x + (draw.uniform(0, 1, draw.channels) - x) * opacity)
        elif kind == "noise":
            grain = draw.normal(draw.channels, draw.height, draw.width)
            made.append(x + grain * draw.uniform(0.05, 0.3))
        else:
            made.append(_bent(x, draw))
    return torch.stack(made).clamp(0, 1)


def _elsewhere(source: Tensor, draw: _Draw) -> Tensor:
    """Return the images, or the batch's others, moved around and mirrored at random."""
    n, height, width = draw.n, draw.height, draw.width
    image = torch.arange(n, device=draw.device)
    neighbour = image.roll(1)
    image = torch.where(draw.uniform(0, 1).view(n) < 0.3, image, neighbour)
    rows = (torch.arange(height, device=draw.device) + draw.whole(height).view(n, 1)) % height
    columns = (torch.arange(width, device=draw.device) + draw.whole(width).view(n, 1)) % width
    rows = torch.where(draw.uniform(0, 1).view(n, 1) < 0.5, height - 1 - rows, rows)
    columns = torch.where(draw.uniform(0, 1).view(n, 1) < 0.5, width - 1 - columns, columns)
    channels = torch.arange(draw.channels, device=draw.device)[:, None, None]
    return source[
        image[:, None, None, None], channels, rows[:, None, :, None], columns[:, None, None, :]
    ]


def _bent(x: Tensor, draw: _Draw) -> Tensor:
    """Return images whose pixels are moved by smooth noise of 3 to 9 pixels."""
    far = draw.uniform(3, 9)
    rows = torch.arange(draw.height, device=draw.device, dtype=x.dtype)[:, None]
    columns = torch.arange(draw.width, device=draw.device, dtype=x.dtype)
    down, right = (far * draw.field(9, 2)).unbind(1)
    y = (rows + down) * 2 / (draw.height - 1) - 1
    across = (columns + right) * 2 / (draw.width - 1) - 1
    grid = torch.stack([across, y], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
