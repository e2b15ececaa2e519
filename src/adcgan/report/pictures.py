"""Arrays and figures as files and as parts of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import matplotlib
import numpy as np
import scipy.ndimage
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adcgan.report.plots import COLOURS

# Perceptually uniform, and dark where nothing is wrong.
HEAT_COLOURS = "inferno"
# How much of the picture the hottest pixel covers.
_OPACITY = 0.8
# Lines around what a mask calls a defect and around what was found: of no heatmap and few
# photographs; and how many pixels wide.
DEFECT, FOUND = (0, 229, 255), (255, 107, 255)
_OUTLINE_WIDTH = 2


def svg(
    draw: Callable[[Axes], Axes], description: str, size: tuple[float, float] = (4.1, 3.1)
) -> str:
    """Draw one plot as an inline SVG element that follows the page's colours and font.

    Parameters
    ----------
    draw : callable
        Draws on the axes it is given.
    description : str
        The plot in words, for readers who cannot see it.
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    str
        One ``<svg>`` element; the same input gives the same text.
    """
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    buffer = io.StringIO()
    # Text stays text. Ids come from the content and the description: the same each time, and of
    # no other plot on the page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        draw(figure.add_subplot())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata)
    return _inline(buffer.getvalue(), description)


def to_uint8(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Turn values in [0, 1] into 0 to 255; values beyond are clipped."""
    levels: NDArray[np.uint8] = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return levels


def overlay(
    image: NDArray[np.uint8], heat: NDArray[np.float32], hottest: float
) -> NDArray[np.uint8]:
    """Lay a heatmap on an image, more opaque where it is hotter.

    Parameters
    ----------
    image : ndarray of shape (H, W, 1|3), uint8
        What the model saw.
    heat : ndarray of shape (H, W), float32
        At least 0.
    hottest : float
        The value, above 0, that gets the top colour; what lies above it is clipped. Give
        pictures that will be compared the same one.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        The picture.
    """
    level = np.clip(heat / hottest, 0, 1)
    colour = matplotlib.colormaps[HEAT_COLOURS](level)[..., :3]
    opacity = _OPACITY * level[..., None]
    grey = image.mean(axis=-1, keepdims=True) / 255
    return to_uint8((1 - opacity) * grey + opacity * colour)


def outlined(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int] = DEFECT
) -> NDArray[np.uint8]:
    """Draw a line around the marked pixels of an image.

    Parameters
    ----------
    image : ndarray of shape (H, W, 1|3), uint8
    mask : ndarray of shape (H, W), bool
        True at the pixels to outline; they stay visible, except at the image's border.
    colour : (int, int, int)
        Red, green and blue of the line, 0 to 255.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
    """
    around = scipy.ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=_OUTLINE_WIDTH)
    picture = np.broadcast_to(image, (*mask.shape, 3)).copy()
    # Where they go on to the border, the line lies on it: they may be the whole image.
    border = np.ones_like(mask)
    border[_OUTLINE_WIDTH:-_OUTLINE_WIDTH, _OUTLINE_WIDTH:-_OUTLINE_WIDTH] = False
    picture[(around & ~mask) | (mask & border)] = colour
    return picture


def enlarged(image: NDArray[np.uint8], at_least: int = 256) -> NDArray[np.uint8]:
    """Repeat pixels until the shorter side has `at_least` of them."""
    times = -(-at_least // min(image.shape[:2]))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def _inline(text: str, description: str) -> str:
    """Strip what only a file needs, and replace colours by the page's variables."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
