"""Anomalies made from normal images, to judge detectors: defects, and other contents.

`adcgan.data.defects` makes what `adcgan-local` learns from: pieces pasted, shaded, blurred, bent.
No detector trains on the defects here. They imitate damage to surfaces, faint enough that good
detectors miss some; their lengths are pixels of a photograph, and shrink with images of less than
128 pixels. Other contents are whole images that show something other than a normal one; of these,
`adcgan-ss` trains on turns.
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
    image: NDArray[np.uint8], kind: str, rng: np.random.Generator, size: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one defect into a normal image.

    Parameters
    ----------
    image : ndarray of uint8 (H, W, C)
        Not changed.
    kind : str
        A name in `DEFECTS`.
    rng : numpy Generator
        Where every choice comes from.
    size : float, default 1.0
        Scales the defect's lengths, not its contrast nor the width of lines.

    Returns
    -------
    damaged : ndarray of uint8 (H, W, C)
    where : ndarray of bool (H, W)
        The pixels that changed by `SEEN` or more; drawn anew until there are any.
    """
    scale = size * min(1.0, min(image.shape[:2]) / 128)
    while True:
        changed = DEFECTS[kind](image.astype(np.float64), rng, scale)
        damaged = np.rint(changed).clip(0, 255).astype(np.uint8)
        where = np.abs(damaged.astype(int) - image).max(axis=2) >= SEEN
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
    """Turn what is within 10 to 25 pixels of a point by up to 2 radians, less with distance."""
    row, column = _middle(image, rng)
    rows, columns = np.indices(image.shape[:2])
    radius = max(3, scale * rng.uniform(10, 25))
    turn = rng.choice([-1, 1]) * rng.uniform(0.8, 2)
    angle = turn * np.exp(-((_distance(image, row, column) / radius) ** 2))
    from_row = row + (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    from_column = column + (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    return _sampled(image, from_row, from_column)


DEFECTS: dict[str, Callable[[Pixels, np.random.Generator, float], Pixels]] = {
    "crack": crack,
    "pits": pits,
    "stain": stain,
    "scratch": scratch,
    "swirl": swirl,
}


# -- other contents --------------------------------------------------------------------------------


def other_content(
    image: NDArray[np.uint8], kind: str, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return an image that shows something else, without local damage.

    Parameters
    ----------
    image : ndarray of uint8 (H, W, C)
        Not changed.
    kind : str
        A name in `CONTENTS`.
    rng : numpy Generator
        Where every choice comes from.

    Returns
    -------
    ndarray of uint8 (H, W, C)
    """
    made = CONTENTS[kind](image.astype(np.float64), rng)
    return np.rint(made).clip(0, 255).astype(np.uint8)


def turned(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Turn it by a quarter or a half; by a half if it is not square."""
    quarters = (1, 2, 3) if image.shape[0] == image.shape[1] else (2,)
    return np.rot90(image, int(rng.choice(quarters)))


def squeezed(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Compress it by 1.6 along one side and stretch it by 1.3 along the other."""
    rows, columns = np.indices(image.shape[:2]).astype(np.float64)
    by = (1.6, 1 / 1.3) if rng.random() < 0.5 else (1 / 1.3, 1.6)
    middle = [(side - 1) / 2 for side in image.shape[:2]]
    return _sampled(
        image, middle[0] + by[0] * (rows - middle[0]), middle[1] + by[1] * (columns - middle[1])
    )


def bent(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Move all its pixels by smooth noise, a 12th of its shorter side."""
    rows, columns = np.indices(image.shape[:2]).astype(np.float64)
    far = min(image.shape[:2]) / 12
    coarse = [rows / image.shape[0] * 4, columns / image.shape[1] * 4]
    down, right = (
        far * map_coordinates(rng.normal(0, 1, (5, 5)), coarse, order=3, mode="nearest")
        for _ in range(2)
    )
    return _sampled(image, rows + down, columns + right)


CONTENTS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "turned": turned,
    "squeezed": squeezed,
    "bent": bent,
}


def _sampled(image: Pixels, rows: Plane, columns: Plane) -> Pixels:
    """Return the image's values at these places (H, W), between pixels too."""
    planes = [
        map_coordinates(plane, [rows, columns], order=1, mode="reflect")
        for plane in np.moveaxis(image, 2, 0)
    ]
    sampled: Pixels = np.stack(planes, axis=2)
    return sampled


def _middle(image: Pixels, rng: np.random.Generator) -> tuple[float, float]:
    """Return a row and a column that are not at the very border."""
    height, width = image.shape[:2]
    return rng.uniform(height / 8, height * 7 / 8), rng.uniform(width / 8, width * 7 / 8)


def _distance(image: Pixels, row: float, column: float, across: float = 1.0) -> Plane:
    """Return each pixel's distance from a point, columns counting `across` as much as rows."""
    rows, columns = np.indices(image.shape[:2])
    far: Plane = np.hypot(rows - row, (columns - column) * across)
    return far


def _spread(plane: Plane, image: Pixels) -> Pixels:
    """Return a plane (H, W) for every channel of an image."""
    return np.broadcast_to(plane[..., None], image.shape)
