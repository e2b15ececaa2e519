"""Masks of defective pixels, and how they are aligned with anomaly maps.

Both are brought to the photograph's own size: to the part of it that the model sees (all of it, or
the centre square for ``resize="crop"``), with the longer side at most `longest_side`. So figures
of models that look at different sizes are figures of the same pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.data.image_file import (
    Target,
    decode_file,
    open_upright,
    quiet_pillow,
    reason,
    upright_size,
)
from adcgan.errors import InputError

# Pixels of the longer side that figures are computed at, at most; see `longest_side`.
LONGEST = 1024
_SMALLER = (LONGEST, 768, 512, 384, 256, 192, 128)
# Pixels of all photographs together: their figures take some 2 GB then.
MOST_PIXELS = 1 << 28
# A mask's pixel is defective above this, in 0 to 255.
_HALF = 127


def read_mask(path: str, image: str) -> NDArray[np.bool_]:
    """Read which pixels of an image are defective.

    Parameters
    ----------
    path : str
        The mask: an image whose values above 127 of 255 are defects or, where no value is above
        1, whose values above 0 are. Opacity is left out of account.
    image : str
        The image that it belongs to, which must have the mask's size.

    Returns
    -------
    ndarray of bool, shape (H, W)
        At the image's own size.

    Raises
    ------
    InputError
        If the mask cannot be read, has another size than its image, or holds other values.
    """
    try:
        if os.path.getsize(path) == 0:
            raise ValueError("the file is empty")
        with quiet_pillow(), open_upright(path) as mask:
            values = _levels(mask)
    except Exception as error:
        raise InputError(f"The mask {path!r} cannot be read: {reason(error)}.") from error
    height, width = values.shape
    expected = photograph_size(image)
    if (width, height) != expected:
        raise InputError(
            f"The mask {path!r} must have the size of its image, {expected[0]}×{expected[1]} "
            f"pixels. Got {width}×{height} instead."
        )
    most = int(values.max())
    if 1 < most <= _HALF:
        raise InputError(
            f"The mask {path!r} must hold 0 (normal) and 255 (defect), or 0 and 1. Its highest "
            f"value is {most} instead."
        )
    defective: NDArray[np.bool_] = values > (0 if most <= 1 else _HALF)
    return defective


def photograph_size(path: str) -> tuple[int, int]:
    """Return the width and height of an image file, upright; `InputError` if it is none."""
    try:
        with quiet_pillow():
            return upright_size(path)
    except Exception as error:
        raise InputError(f"The image {path!r} cannot be read: {reason(error)}.") from error


def seen_size(width: int, height: int, resize: str, longest: int = LONGEST) -> tuple[int, int]:
    """Return the size at which the part that a model sees of a photograph is compared.

    Parameters
    ----------
    width, height : int
        Of the photograph.
    resize : str
        How the model's images are made; see `adcgan.data.image_file.Target`.
    longest : int, default=LONGEST
        Of the longer side, at most.

    Returns
    -------
    width, height : int
    """
    if resize == "crop":
        width = height = min(width, height)
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def longest_side(
    sizes: Sequence[tuple[int, int]], resize: str, most_pixels: int = MOST_PIXELS
) -> int:
    """Return the longest side at which so many photographs are compared.

    Parameters
    ----------
    sizes : sequence of (int, int)
        Width and height of each photograph.
    resize : str
        As in `seen_size`.
    most_pixels : int, default=MOST_PIXELS
        Of all photographs together.

    Returns
    -------
    int
        `LONGEST`, or less where there would be more pixels than that.
    """
    for longest in _SMALLER:
        seen = (seen_size(width, height, resize, longest) for width, height in sizes)
        if sum(width * height for width, height in seen) <= most_pixels:
            return longest
    return _SMALLER[-1]


def seen_mask(mask: NDArray[np.bool_], resize: str, longest: int = LONGEST) -> NDArray[np.bool_]:
    """Return the part of a mask that a model sees, at `seen_size`; the nearest pixel decides."""
    height, width = mask.shape
    size = seen_size(width, height, resize, longest)
    picture = _seen(Image.fromarray(mask), resize)
    if picture.size == size:
        return np.asarray(picture)
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def seen_map(
    heat: NDArray[np.float32],
    width: int,
    height: int,
    resize: str,
    longest: int = LONGEST,
) -> NDArray[np.float32]:
    """Return an anomaly map at the size of the photograph that it was made of.

    Parameters
    ----------
    heat : ndarray of float32, shape (h, w)
        The map, of what the model saw.
    width, height : int
        Of the photograph.
    resize : str
        How the model's image was made. The bars of "pad" are cut off.
    longest : int, default=LONGEST
        Of the longer side, at most.

    Returns
    -------
    ndarray of float32, shape (H, W)
        At `seen_size`, interpolated linearly.
    """
    if resize == "pad":
        rows, columns = heat.shape
        inner = Target(rows, "pad").inner(width, height) if rows == columns else (columns, rows)
        left, top = (columns - inner[0]) // 2, (rows - inner[1]) // 2
        heat = heat[top : top + inner[1], left : left + inner[0]]
    size = seen_size(width, height, resize, longest)
    if heat.shape == (size[1], size[0]):
        return heat
    picture = Image.fromarray(np.ascontiguousarray(heat, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def photograph_map(
    heat: NDArray[np.float32], width: int, height: int, resize: str
) -> NDArray[np.float32]:
    """Return an anomaly map of the whole photograph, 0 where the model did not look.

    Parameters
    ----------
    heat, width, height, resize
        As in `seen_map`.

    Returns
    -------
    ndarray of float32, shape (height, width)
    """
    seen = seen_map(heat, width, height, resize, max(width, height))
    rows, columns = seen.shape
    if (rows, columns) == (height, width):
        return seen
    whole = np.zeros((height, width), np.float32)
    left, top = _corner(width, height)
    whole[top : top + rows, left : left + columns] = seen
    return whole


def seen_photograph(path: str, resize: str, longest: int) -> NDArray[np.uint8]:
    """Return the part of a photograph that a model sees, at its own size up to `longest`.

    Returns
    -------
    ndarray of uint8, shape (H, W, 1|3)

    Raises
    ------
    InputError
        If the file can no longer be read.
    """
    try:
        with quiet_pillow():
            pixels = decode_file(path, Target(None, "keep")).transpose(1, 2, 0)
    except Exception as error:
        raise InputError(f"The image {path!r} cannot be read: {reason(error)}.") from error
    size = seen_size(pixels.shape[1], pixels.shape[0], resize, longest)
    flat = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture = _seen(Image.fromarray(flat), resize)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(size[1], size[0], -1)


def _seen(picture: Image.Image, resize: str) -> Image.Image:
    """Cut out the centre square, as `adcgan.data.image_file` does, if a model sees only that."""
    if resize != "crop":
        return picture
    width, height = picture.size
    side = min(width, height)
    left, top = _corner(width, height)
    return picture.crop((left, top, left + side, top + side))


def _corner(width: int, height: int) -> tuple[int, int]:
    """Return the first column and row of the centre square."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2


def _levels(mask: Image.Image) -> NDArray[np.int64]:
    """Return the values (H, W) of a mask, 0 to 255; of 16 bits only where it uses them."""
    if mask.mode.startswith("I"):
        values = np.asarray(mask).astype(np.int64)
        return values if values.max() <= 255 else values // 257
    if mask.mode == "F":
        raise ValueError("floating-point pixels (mode F) have no fixed range")
    return np.asarray(mask.convert("L")).astype(np.int64)
