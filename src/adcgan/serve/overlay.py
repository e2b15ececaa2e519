"""Heatmaps as small pictures, with NumPy alone: a service need not install matplotlib."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Matplotlib's "inferno", as in the reports, at 18 evenly spaced points from cold to hot. Linear
# interpolation between them is within 6 of 255.
COLOURS = (
    *("#000004", "#0a0722", "#1e0c45", "#380962", "#510e6c", "#69166e"),
    *("#801f6c", "#982766", "#b0315b", "#c63d4d", "#d94d3d", "#e9612b"),
    *("#f47918", "#fa9407", "#fcb014", "#f8cd37", "#f2ea69", "#fcffa4"),
)
# How much of the picture the hottest pixel covers.
OPACITY = 0.8
# Share of a map's pixels below the top colour.
_HOTTEST = 0.995

_RGB = np.array([list(bytes.fromhex(colour[1:])) for colour in COLOURS]) / 255


def top_of(heat: NDArray[np.float32]) -> float:
    """Return the anomaly value, above 0, for the top colour of a map (H, W) shown alone."""
    return max(float(np.quantile(heat, _HOTTEST)), float(np.finfo(np.float32).tiny))


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32], top: float) -> NDArray[np.uint8]:
    """Lay a heatmap over a grey version of an image, more opaque where it is hotter.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (C, H, W)
        What the model saw.
    heat : ndarray of float32, shape (H, W)
        At least 0.
    top : float
        The anomaly value, above 0, that gets the top colour.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    """
    level = _level(heat, top)
    places = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(level, places, _RGB[:, i]) for i in range(3)], axis=-1)
    opacity = OPACITY * level[..., None]
    grey = pixels.mean(axis=0)[..., None] / 255
    return _levels((1 - opacity) * grey + opacity * colour)


def grey_map(heat: NDArray[np.float32], top: float) -> NDArray[np.uint8]:
    """Return a map (H, W) as grey levels: 0 for 0, 255 for `top` and above."""
    return _levels(_level(heat, top))


def _level(heat: NDArray[np.float32], top: float) -> NDArray[np.float64]:
    """Return a map on a scale from 0 to 1, which is `top` and above, however small or large."""
    # In float64, as tops below or above the range of float32 would become 0 or infinite.
    return np.minimum(heat.astype(np.float64), top) / top


def _levels(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Scale values from [0, 1] to 0 to 255."""
    levels: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return levels
