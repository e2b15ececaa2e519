"""How a notebook displays a set of images."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adcgan.data.thumbnails import contact_sheet, data_uri, reduced

if TYPE_CHECKING:
    from adcgan.data.imageset import ImageSet

_SHOWN, _SIDE, _COLUMNS = 16, 64, 8
_LISTED = 10


def html_of(images: ImageSet) -> str:
    """Return an HTML fragment: counts, a few evenly spaced images, what could not be read.

    It needs no other file, and takes colours and font from the page it is on.
    """
    channels, height, width = images.shape
    colour = "grey" if channels == 1 else "colour"
    facts = [f"{len(images):,} images of {height}×{width} pixels, {colour}"]
    facts += [f"{len(images.skipped):,} could not be read"] if images.skipped else []
    facts += [_classes(images)] if images.labels is not None and len(images) else []
    lines = "".join(f"<div>{escape(fact)}</div>" for fact in facts)
    title = f"<strong>ImageSet</strong> {escape(images.source)}"
    return f"<div><div>{title}</div>{lines}{_pictures(images)}{_skipped(images)}</div>"


def _classes(images: ImageSet) -> str:
    """Return the number of images of each class, in one line."""
    assert images.labels is not None
    names = dict(enumerate(images.class_names or []))
    found, counts = np.unique(images.labels, return_counts=True)
    parts = [
        f"{names.get(label, label)} ({count:,})"
        for label, count in zip(found[:_LISTED].tolist(), counts.tolist(), strict=False)
    ]
    more = f" and {len(found) - _LISTED:,} more" if len(found) > _LISTED else ""
    return f"classes: {', '.join(parts)}{more}"


def _pictures(images: ImageSet) -> str:
    """Return one picture of a few images, from the first to the last."""
    if not len(images):
        return ""
    places = np.unique(np.linspace(0, len(images) - 1, min(len(images), _SHOWN)).astype(np.intp))
    few = [reduced(images.images[i].transpose(1, 2, 0), _SIDE) for i in places]
    side = max(max(picture.shape[:2]) for picture in few)
    few = [_framed(picture, side) for picture in few]
    width = min(len(few), _COLUMNS) * (_SIDE + 2)
    return (
        f'<img src="{data_uri(contact_sheet(np.stack(few), _COLUMNS))}" '
        f'alt="{len(few)} of the images, evenly spaced" '
        f'style="width: {width}px; max-width: 100%; image-rendering: pixelated; margin: 6px 0">'
    )


def _framed(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a picture (H, W, C) in the middle of a black square."""
    height, width, channels = picture.shape
    frame = np.zeros((side, side, channels), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    frame[top : top + height, left : left + width] = picture
    return frame


def _skipped(images: ImageSet) -> str:
    """Return the first inputs that could not be read, each with its error."""
    if not images.skipped:
        return ""
    items = "".join(
        f"<li><code>{escape(item.name)}</code>: {escape(item.error)}</li>"
        for item in images.skipped[:_LISTED]
    )
    more = len(images.skipped) - _LISTED
    items += f"<li>and {more:,} more</li>" if more > 0 else ""
    return f"<details><summary>Could not be read</summary><ul>{items}</ul></details>"
