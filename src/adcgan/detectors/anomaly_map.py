"""Anomaly maps: where in an image the score comes from, without isolated hot pixels.

Reconstructions of normal images are slightly off along every edge, and the largest of these errors
often exceeds the anomaly itself. Anomalies are regions, so each value is averaged over its
neighbourhood (docs/heatmaps.md has the measurements).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Standard deviation of the smoothing, as a fraction of the image's side: 1.2 pixels at 28 px.
# Chosen on images of training splits.
SMOOTHING = 1 / 24


def residual_map(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return Σ|x − x̂| over the channels of images (B, C, H, W), smoothed: (B, H, W), ≥ 0."""
    return smoothed((x - x_hat).abs().sum(1))


def smoothed(maps: Tensor) -> Tensor:
    """Smooth maps (B, H, W) with a Gaussian kernel.

    Maps are reflected at their borders, so a constant map stays the same and so does the sum of any
    map.
    """
    height, width = maps.shape[1:]
    rows, columns = _weights(height, maps), _weights(width, maps)
    return rows @ maps @ columns.T


def enlarged(maps: Tensor, height: int, width: int, stride: int, first: float) -> Tensor:
    """Upsample maps with a stride of `stride` pixels to the size of the image, smoothly.

    Each pixel is the Gaussian-weighted mean of the values around it, with a standard deviation of
    half a stride: bilinear interpolation, slightly smoothed. A constant map stays the same.

    Parameters
    ----------
    maps : Tensor of shape (..., h, w)
    height, width : int
        Size of the image.
    stride : int
        Pixels between neighbouring values.
    first : float
        Row and column of the image pixel at the centre of the first value.

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
    """Return the mean (B,) of the largest values of maps (B, h, w), a fraction `share` rounded up.

    A region decides the score, neither the size of the image nor a single location.
    """
    ranked = maps.flatten(1).sort(dim=1, descending=True).values
    # Weights instead of a slice, whose length an exported graph would fix as a constant.
    counted = torch.arange(ranked.shape[1], device=maps.device) < share * ranked.shape[1]
    return (ranked * counted).sum(1) / counted.sum()


def _share_of_places(pixels: int, places: int, stride: int, first: float, like: Tensor) -> Tensor:
    """Return the weight of each map value (columns) at each pixel (rows) along one axis."""
    pixel = torch.arange(pixels, device=like.device, dtype=like.dtype)
    place = torch.arange(places, device=like.device, dtype=like.dtype) * stride + first
    # Beyond the last value all weights are close to 0; softmax divides by the largest.
    return torch.softmax(-2 * ((pixel[:, None] - place) / stride).square(), dim=1)


def _weights(side: int, like: Tensor) -> Tensor:
    """Return the weight of each value (columns) at each position (rows) along an axis of `side`."""
    place = torch.arange(side, device=like.device, dtype=like.dtype)
    # Distances to each position, to its reflection before the first, and beyond the last.
    direct, first = place[:, None] - place, place[:, None] + place + 1
    distances = torch.stack([direct, first, 2 * side - first]) / (SMOOTHING * side)
    weights = (-(distances**2) / 2).exp().sum(0)
    return weights / weights.sum(1, keepdim=True)
