"""Anomaly maps: where in an image the score comes from, free of lone hot pixels.

Reconstructions of normal images are a little off along every edge, and the largest such error is
often larger than what is wrong with the image. An anomaly is a region, so each value is averaged
over its surroundings (docs/heatmaps.md has the measurement).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Standard deviation of the averaging, as a share of the image's side: 1.2 pixels at 28 px. Chosen
# on images of training splits.
SMOOTHING = 1 / 24


def residual_map(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return Σ|x − x̂| over the channels of images (B, C, H, W), smoothed: (B, H, W), at least 0."""
    return smoothed((x - x_hat).abs().sum(1))


def smoothed(maps: Tensor) -> Tensor:
    """Average maps (B, H, W) over each place's surroundings, with Gaussian weights.

    Beyond the border a map goes on as its mirror image, so that a constant map stays as it is and
    the sum over a map stays the same.
    """
    height, width = maps.shape[1:]
    rows, columns = _weights(height, maps), _weights(width, maps)
    return rows @ maps @ columns.T


def _weights(side: int, like: Tensor) -> Tensor:
    """Return the weight of each place (columns) at each place (rows) of a line of `side`."""
    place = torch.arange(side, device=like.device, dtype=like.dtype)
    # From each place to another, to its mirror image beyond the first, and beyond the last.
    direct, first = place[:, None] - place, place[:, None] + place + 1
    distances = torch.stack([direct, first, 2 * side - first]) / (SMOOTHING * side)
    weights = (-(distances**2) / 2).exp().sum(0)
    return weights / weights.sum(1, keepdim=True)
