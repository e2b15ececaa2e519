"""Heatmaps as files: one picture for each image, all on one colour scale."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adcgan.data.ragged import Maps
from adcgan.data.thumbnails import png
from adcgan.errors import InputError
from adcgan.files import replacing
from adcgan.progress import Progress, terminal_progress
from adcgan.report.gallery import hottest_value
from adcgan.report.pictures import enlarged, overlay

if TYPE_CHECKING:
    from adcgan.data import ImageSet

# Images that the colour scale comes from.
_SCALE_IMAGES = 256


def write_heatmaps(
    folder: str | Path,
    images: ImageSet,
    maps: Maps,
    scores: NDArray[np.float64],
    progress: Progress | None = None,
) -> float:
    """Write the image the model saw with its anomaly map on top, as ``<folder>/<name>.png``.

    Parameters
    ----------
    folder : str or Path
        Sub-folders in the images' names are kept; pictures of the same name are replaced.
    images : ImageSet
        The images, at the size that the detector takes.
    maps : ndarray of float32, shape (n, H, W), or Ragged of n
        Their anomaly maps, as `Scorer.assess` keeps them.
    scores : ndarray of shape (n,), float64
        Their scores. The colour scale comes from up to 256 images spread evenly over them, so
        that the least and the most anomalous take part.
    progress : Progress, optional
        Where progress is shown; None means the terminal.

    Returns
    -------
    float
        The anomaly value at and above which pictures have the top colour.

    Raises
    ------
    InputError
        If an image's name leads out of `folder`.
    """
    progress = terminal_progress() if progress is None else progress
    paths = [picture_path(Path(folder), name) for name in images.names]
    order = np.argsort(scores, kind="stable")
    spread = np.linspace(0, len(order) - 1, min(len(order), _SCALE_IMAGES)).round().astype(np.intp)
    hottest = hottest_value(maps[np.sort(order[spread])])
    progress.start("heatmaps", len(images))
    try:
        for path, image, heat in zip(paths, images.images, maps, strict=True):
            picture = overlay(image.transpose(1, 2, 0), heat, hottest)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(png(enlarged(picture)))
            progress.advance()
    finally:
        progress.finish()
    return hottest


def picture_path(folder: Path, name: str) -> Path:
    """Return where the picture of the image called `name` goes."""
    relative = PurePosixPath(name + ".png")
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(f"An image's name must stay inside its folder. Got {name!r} instead.")
    return folder / relative
