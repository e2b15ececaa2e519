"""From anomaly maps to regions: where in an image the anomaly is.

A pixel is anomalous if and only if its value is above the threshold, so an image has a region
exactly when the largest value of its map is above. The threshold therefore follows from the
largest values of held-out normal images, as the threshold of an image's score does from their
scores; no test image is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adcgan.errors import InputError
from adcgan.scoring.verdict import Verdict


@dataclass(frozen=True)
class Region:
    """Anomalous pixels that touch at a side or a corner.

    Attributes
    ----------
    left, top, width, height : int
        The smallest upright box around the region, in pixels from the map's top left corner: it
        has columns `left` to `left + width - 1` and rows `top` to `top + height - 1`.
    area : int
        How many pixels are above the threshold, at most `width * height`.
    peak : float
        The largest value, in the map's units.
    peak_row, peak_column : int
        The first pixel with that value, in pixels from the map's top left corner.
    """

    left: int
    top: int
    width: int
    height: int
    area: int
    peak: float
    peak_row: int
    peak_column: int


def pixel_threshold(maps: Sequence[ArrayLike], fpr: float) -> Verdict:
    """Return the threshold above which a new normal image has a pixel at a rate of at most `fpr`.

    The largest values of the maps are what the conformal rule is applied to, so the rate is one
    of images: it holds for all pixels of an image together, however many there are. As for image
    scores, new normal images must be exchangeable with these. A map of another size is not: the
    more pixels there are, the larger the largest is likely to be.

    Parameters
    ----------
    maps : sequence of array-like of float, each of shape (H_i, W_i)
        Anomaly maps of normal images that were not trained on, at least one; finite, higher is
        more anomalous.
    fpr : float
        The false-positive budget, between 0 and 1, both excluded.

    Returns
    -------
    Verdict
        `threshold` is for pixels, in the maps' units. `anomalous` and `p_values` take the largest
        value of a map. Where there are too few images for the budget, the threshold is the
        largest value of all, `fpr` the smallest budget that they support, and `warning` says so.

    Raises
    ------
    InputError
        If there are no maps, one is not two-dimensional, has no pixels or is not finite, or
        `fpr` is outside (0, 1).
    """
    if len(maps) == 0:
        raise InputError("The 'maps' parameter must hold at least one map. Got none instead.")
    largest = [_checked(f"maps[{i}]", found).max() for i, found in enumerate(maps)]
    return Verdict.for_budget(np.array(largest, dtype=np.float64), fpr)


def region_mask(anomaly_map: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Return where a map is above a threshold.

    Parameters
    ----------
    anomaly_map : array-like of float, shape (H, W)
        Finite, with at least one pixel.
    threshold : float
        In the map's units; not nan.

    Returns
    -------
    ndarray of bool (H, W)
        True at anomalous pixels; a value equal to the threshold is normal.

    Raises
    ------
    InputError
        If the map is not two-dimensional, has no pixels or is not finite, or the threshold is nan.
    """
    return _above(_checked("anomaly_map", anomaly_map), threshold)


def regions(anomaly_map: ArrayLike, threshold: float) -> list[Region]:
    """Return the regions of a map above a threshold.

    Parameters and errors are those of `region_mask`.

    Returns
    -------
    list of Region
        Largest peak first; of equal peaks, the region that begins further up, then further left.
        Empty where no pixel is above the threshold.
    """
    # Imported here: scoring with an exported file does without SciPy.
    from scipy.ndimage import find_objects, label

    values = _checked("anomaly_map", anomaly_map)
    mask = _above(values, threshold)
    # Labels run from 1 in the order of the regions' first pixels.
    labels, n_regions = label(mask, structure=np.ones((3, 3), dtype=bool))
    if n_regions == 0:
        return []
    # Over all regions at once: noise makes too many of them for a loop that cuts each out.
    pixels = np.flatnonzero(mask)
    region, value = labels.ravel()[pixels] - 1, values.ravel()[pixels]
    area = np.bincount(region)
    peak = np.full(n_regions, -np.inf, dtype=value.dtype)
    np.maximum.at(peak, region, value)
    at_peak = np.flatnonzero(value == peak[region])
    _, first = np.unique(region[at_peak], return_index=True)
    rows, columns = np.unravel_index(pixels[at_peak[first]], values.shape)
    boxes = find_objects(labels)
    return [
        Region(
            left=boxes[i][1].start,
            top=boxes[i][0].start,
            width=boxes[i][1].stop - boxes[i][1].start,
            height=boxes[i][0].stop - boxes[i][0].start,
            area=int(area[i]),
            peak=float(peak[i]),
            peak_row=int(rows[i]),
            peak_column=int(columns[i]),
        )
        for i in np.argsort(-peak, kind="stable").tolist()
    ]


def _above(values: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Return where values (H, W) are above the threshold."""
    if np.isnan(threshold):
        raise InputError("The 'threshold' parameter must be a number. Got nan instead.")
    # An array and not a number, which NumPy would round to the map's float32: a map's largest
    # value must be above here exactly where it is above in `Verdict.anomalous`.
    mask: NDArray[np.bool_] = values > np.array([threshold], dtype=np.float64)
    return mask


def _checked(name: str, anomaly_map: ArrayLike) -> NDArray[Any]:
    """Return a map as an array, or refuse one that has no largest value."""
    values = np.asarray(anomaly_map)
    if values.ndim != 2 or values.size == 0 or not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            f"The {name!r} parameter must be a two-dimensional array of floating-point numbers "
            f"with at least one pixel. Got shape {values.shape} of {values.dtype} instead."
        )
    n_finite = int(np.isfinite(values).sum())
    if n_finite < values.size:
        raise InputError(
            f"The {name!r} parameter must have finite values only. "
            f"Got {values.size - n_finite} values that are not."
        )
    return values
