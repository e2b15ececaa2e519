"""Defects that no detector trains on, drawn into normal images, and where they are.

`adcgan.data.defects` makes what `adcgan-local` learns from: pieces pasted, shaded, blurred, bent.
These are drawn as things happen to surfaces, and weak enough that good detectors miss some. Lengths
are pixels of a photograph; on an image of less than 128 pixels they shrink with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

# A pixel is part of a defect if it changed by so much, of 255.
SEEN = 4

Pixels = NDArray[np.float64]
Plane = NDArray[np.float64]


def planted(
    image: NDArray[np.uint8], kind: str, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one defect into a normal image.

    Parameters
    ----------
    image : ndarray of uint8 (H, W, C)
        Not changed.
    kind : str
        A name in `KINDS`.
    rng : numpy Generator
        Where every choice comes from.

    Returns
    -------
    damaged : ndarray of uint8 (H, W, C)
    where : ndarray of bool (H, W)
        The pixels that changed by `SEEN` or more; drawn anew until there are any.
    """
    scale = min(1.0, min(image.shape[:2]) / 128)
    while True:
        changed = KINDS[kind](image.astype(np.float64), rng, scale)
        damaged = np.rint(changed).clip(0, 255).astype(np.uint8)
        where = (np.abs(damaged.astype(int) - image) >= SEEN).any(2)
        if where.any():
            return damaged, where


def crack(image: Pixels, rng: np.random.Generator, scale: float) -> Pixels:
    """Darken a line that wanders, 1 to 2 pixels wide and 25 to 80 long."""
    height, width = image.shape[:2]
    row, column = _middle(image, rng)
    turn = rng.uniform(0, 2 * np.pi)
    dark = np.zeros((height, width))
    reach = int(rng.integers(1, 3))
    for _ in range(int(2 * max(4, scale * rng.uniform(25, 80)))):
        turn += rng.normal(0, 0.25)
        row, column = row + np.sin(turn) / 2, column + np.cos(turn) / 2
        first = max(0, round(row)), max(0, round(column))
        dark[first[0] : round(row) + reach, first[1] : round(column) + reach] = 1
    return image * (1 - _spread(dark * rng.uniform(0.25, 0.6), image))


def pits(image: Pixels, rng: np.random.Generator, scale: float) -> Pixels:
    """Put 2 to 5 dark dots with a brighter rim side by side."""
    row, column = _middle(image, rng)
    depth = np.zeros(image.shape[:2])
    for _ in range(int(rng.integers(2, 6))):
        radius = max(0.8, scale * rng.uniform(1, 2.5))
        away = rng.normal(0, 10 * scale, 2)
        far = _distance(image, row + away[0], column + away[1]) / radius
        depth += 12 * np.exp(-((far - 2) ** 2)) - rng.uniform(25, 70) * np.exp(-(far**2))
    return image + _spread(depth, image)


def stain(image: Pixels, rng: np.random.Generator, scale: float) -> Pixels:
    """Lighten or darken a round spot with soft edges, 16 to 44 pixels across, by 12 to 30."""
    radius = max(2.0, scale * rng.uniform(8, 22))
    row, column = _middle(image, rng)
    far = _distance(image, row, column, rng.uniform(0.5, 1)) / radius
    spot = (1 - np.tanh(2 * (far - 1))) / 2
    return image + _spread(rng.choice([-1, 1]) * rng.uniform(12, 30) * spot, image)


def scratch(image: Pixels, rng: np.random.Generator, scale: float) -> Pixels:
    """Lighten a straight line, about a pixel wide and 24 to 100 long, by 20 to 50."""
    row, column = _middle(image, rng)
    rows, columns = np.indices(image.shape[:2])
    angle = rng.uniform(0, np.pi)
    along = (columns - column) * np.cos(angle) + (rows - row) * np.sin(angle)
    across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    length = max(3, scale * rng.uniform(12, 50))
    line = np.exp(-((across / rng.uniform(0.5, 0.9)) ** 2)) * (np.abs(along) < length)
    return image + _spread(line * rng.uniform(20, 50), image)


def swirl(image: Pixels, rng: np.random.Generator, scale: float) -> Pixels:
    """Turn what lies around a point by up to 2 radians, less the farther away, to 10 to 25."""
    row, column = _middle(image, rng)
    rows, columns = np.indices(image.shape[:2])
    radius = max(3, scale * rng.uniform(10, 25))
    turn = rng.choice([-1, 1]) * rng.uniform(0.8, 2)
    angle = turn * np.exp(-((_distance(image, row, column) / radius) ** 2))
    from_row = row + (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    from_column = column + (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    return np.stack(
        [
            map_coordinates(plane, [from_row, from_column], order=1, mode="reflect")
            for plane in np.moveaxis(image, 2, 0)
        ],
        2,
    )


KINDS: dict[str, Callable[[Pixels, np.random.Generator, float], Pixels]] = {
    "crack": crack,
    "pits": pits,
    "stain": stain,
    "scratch": scratch,
    "swirl": swirl,
}


def _middle(image: Pixels, rng: np.random.Generator) -> tuple[float, float]:
    """Return a row and a column that are not at the very border."""
    height, width = image.shape[:2]
    return rng.uniform(height / 8, height * 7 / 8), rng.uniform(width / 8, width * 7 / 8)


def _distance(image: Pixels, row: float, column: float, across: float = 1.0) -> Plane:
    """Return each pixel's distance from a point, columns counting `across` as much as rows."""
    rows, columns = np.indices(image.shape[:2])
    return np.hypot(rows - row, (columns - column) * across)


def _spread(plane: Plane, image: Pixels) -> Pixels:
    """Return a plane (H, W) for every channel of an image."""
    return np.broadcast_to(plane[..., None], image.shape)
