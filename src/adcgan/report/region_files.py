"""Anomalous regions as files: a mask for each image, and a table of all regions."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adcgan.data.masks import photograph_map, photograph_size
from adcgan.data.ragged import Maps
from adcgan.data.thumbnails import png
from adcgan.files import replacing
from adcgan.progress import Progress, terminal_progress
from adcgan.report.heatmap_files import picture_path
from adcgan.scoring.regions import Region, region_mask, regions

if TYPE_CHECKING:
    from adcgan.data import ImageSet

COLUMNS = ("path", "region", *(field.name for field in fields(Region)))


@dataclass(frozen=True)
class Found:
    """The regions of one image.

    Attributes
    ----------
    name : str
        Of the image.
    regions : list of Region
        In pixels of the photograph, most anomalous first.
    mask : ndarray of bool (H, W)
        Where they are.
    """

    name: str
    regions: list[Region]
    mask: NDArray[np.bool_]


def regions_of(images: ImageSet, maps: Maps, resize: str, threshold: float) -> Iterator[Found]:
    """Yield the anomalous regions of each image.

    Parameters
    ----------
    images : ImageSet
        What was scored.
    maps : ndarray of float32, shape (n, H, W), or Ragged of n
        Their anomaly maps. Those of images that were read from files are brought to the size of
        the photograph, with nothing anomalous where the model did not look (``resize="crop"``).
    resize : str
        How the model's images were made.
    threshold : float
        For pixels.
    """
    for i, (name, heat) in enumerate(zip(images.names, maps, strict=True)):
        if images.files is not None and images.resized:
            width, height = photograph_size(images.files[i])
            heat = photograph_map(heat, width, height, resize)
        yield Found(name, regions(heat, threshold), region_mask(heat, threshold))


def write_regions(
    images: ImageSet,
    maps: Maps,
    resize: str,
    threshold: float,
    *,
    masks: Path | None = None,
    table: Path | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the anomalous regions of images; other parameters are those of `regions_of`.

    Parameters
    ----------
    masks : Path or None
        A folder for ``<name>.png`` of each image, 255 where a pixel is above the threshold and 0
        elsewhere.
    table : Path or None
        A CSV file with a row for each region: the image's name, the number of the region (the
        most anomalous is 1), and the fields of `Region`.
    progress : Progress, optional
        Where progress is shown; None means the terminal.

    Returns
    -------
    int
        How many regions there are.

    Raises
    ------
    InputError
        If an image's name leads out of the folder.
    """
    progress = terminal_progress() if progress is None else progress
    rows: list[tuple[object, ...]] = []
    progress.start("regions", len(images))
    try:
        for found in regions_of(images, maps, resize, threshold):
            if masks is not None:
                path = picture_path(masks, found.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary:
                    temporary.write_bytes(png(found.mask.astype(np.uint8)[..., None] * 255))
            numbered = enumerate(found.regions, 1)
            rows += [(found.name, number, *astuple(region)) for number, region in numbered]
            progress.advance()
    finally:
        progress.finish()
    if table is not None:
        with (
            replacing(table) as temporary,
            # A name that UTF-8 cannot hold must not make the other rows unreadable.
            open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return len(rows)
