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


def enlarged(maps: Tensor, height: int, width: int, stride: int, first: float) -> Tensor:
    """Give maps of places `stride` pixels apart the size of the image, without steps.

    Each pixel is the mean of the places around it with Gaussian weights, whose standard deviation
    is half a stride: bilinear interpolation, a little smoothed. A constant map stays as it is.

    Parameters
    ----------
    maps : Tensor of shape (..., h, w)
    height, width : int
        Of the image.
    stride : int
        Pixels from a place to the next.
    first : float
        Row, and column, of the image at the centre of the first place.

    Returns
    -------
    Tensor of shape (..., height, width)
    """
    rows, columns = (
        _share_of_places(pixels, places, stride, first, maps)
        for pixels, places in zip((height, width), maps.shape[-2:], strict=True)
    )
    return rows @ maps @ columns.T


def mean_of_largest(maps: Tensor, share: float) -> Tensor:
    """Return the mean (B,) of the largest values of maps (B, h, w), a `share` of them, rounded up.

    A region of an image decides, not its size nor a lone place.
    """
    ranked = maps.flatten(1).sort(dim=1, descending=True).values
    # Weights instead of a slice, whose length an exported graph would take for a constant.
    counted = torch.arange(ranked.shape[1], device=maps.device) < share * ranked.shape[1]
    return (ranked * counted).sum(1) / counted.sum()


def _share_of_places(pixels: int, places: int, stride: int, first: float, like: Tensor) -> Tensor:
    """Return the weight of each place (columns) at each pixel (rows) of a line."""
    pixel = torch.arange(pixels, device=like.device, dtype=like.dtype)
    place = torch.arange(places, device=like.device, dtype=like.dtype) * stride + first
    # Beyond the last place all weights are next to nothing; softmax divides by the largest.
    return torch.softmax(-2 * ((pixel[:, None] - place) / stride).square(), dim=1)


def _weights(side: int, like: Tensor) -> Tensor:
    """Return the weight of each place (columns) at each place (rows) of a line of `side`."""
    place = torch.arange(side, device=like.device, dtype=like.dtype)
    # From each place to another, to its mirror image beyond the first, and beyond the last.
    direct, first = place[:, None] - place, place[:, None] + place + 1
    distances = torch.stack([direct, first, 2 * side - first]) / (SMOOTHING * side)
    weights = (-(distances**2) / 2).exp().sum(0)
    return weights / weights.sum(1, keepdim=True)
