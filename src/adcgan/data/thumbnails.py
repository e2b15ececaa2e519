"""Small pictures, as PNG and as ``data:`` addresses: for notebooks and pages."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Of JPEG: losses are hard to see, and thin cracks and coloured lines stay.
_QUALITY = 88


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image of shape (H, W) or (H, W, 1|3|4) as PNG."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: NDArray[np.uint8]) -> str:
    """Return an image of shape (H, W) or (H, W, 1|3|4) as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")


def photograph_uri(image: NDArray[np.uint8]) -> str:
    """Return a photograph of shape (H, W, 1|3) as a ``data:`` address, in a fifth of the bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        buffer, format="JPEG", quality=_QUALITY, subsampling=0
    )
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def reduced(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Return an image of shape (H, W, 1|3) with no side above `longest` pixels."""
    if max(image.shape[:2]) <= longest:
        return image
    small = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small.thumbnail((longest, longest))
    return np.asarray(small).reshape(small.height, small.width, -1)


def contact_sheet(images: NDArray[np.uint8], n_columns: int = 8, gap: int = 1) -> NDArray[np.uint8]:
    """Put images of one size in rows, with see-through gaps between them.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, 1|3), uint8
        At least one.
    n_columns : int, default=8
        Images in a row, at most.
    gap : int, default=1
        Pixels between two images.

    Returns
    -------
    ndarray of shape (height, width, 4), uint8
        Colour and opacity.
    """
    n, height, width, _ = images.shape
    n_columns = min(n, n_columns)
    n_rows = -(-n // n_columns)
    sheet = np.zeros((n_rows * (height + gap) - gap, n_columns * (width + gap) - gap, 4), np.uint8)
    for i, image in enumerate(images):
        top, left = (
            place * side
            for place, side in zip(divmod(i, n_columns), (height + gap, width + gap), strict=True)
        )
        sheet[top : top + height, left : left + width, :3] = image
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet
