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
    values = _checked("anomaly_map", anomaly_map)
    mask = _above(values, threshold)
    runs = _Runs.of(mask)
    if len(runs.row) == 0:
        return []
    # Over all regions at once: noise makes too many of them for a loop that cuts each out.
    _, first, of_run = np.unique(runs.joined(), return_index=True, return_inverse=True)
    length = runs.stop - runs.start
    pixels, region = np.flatnonzero(mask), np.repeat(of_run, length)
    value = values.ravel()[pixels]
    left, right, bottom = runs.start[first], runs.stop[first], runs.row[first]
    np.minimum.at(left, of_run, runs.start)
    np.maximum.at(right, of_run, runs.stop)
    np.maximum.at(bottom, of_run, runs.row)
    area = np.bincount(region)
    peak = np.full(len(first), -np.inf, dtype=value.dtype)
    np.maximum.at(peak, region, value)
    at_peak = np.flatnonzero(value == peak[region])
    _, first_peak = np.unique(region[at_peak], return_index=True)
    rows, columns = np.unravel_index(pixels[at_peak[first_peak]], values.shape)
    top = runs.row[first]
    return [
        Region(
            left=int(left[i]),
            top=int(top[i]),
            width=int(right[i] - left[i]),
            height=int(bottom[i] + 1 - top[i]),
            area=int(area[i]),
            peak=float(peak[i]),
            peak_row=int(rows[i]),
            peak_column=int(columns[i]),
        )
        for i in np.argsort(-peak, kind="stable").tolist()
    ]


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of marked pixels in rows, in reading order: columns start to stop - 1.

    They are far fewer than pixels, and NumPy alone labels them: an exported file is scored
    without SciPy.
    """

    row: NDArray[np.intp]
    start: NDArray[np.intp]
    stop: NDArray[np.intp]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> _Runs:
        """Return the runs of a mask (H, W)."""
        # Nothing is marked beside the mask, so that no run goes on in the next row.
        ends = np.flatnonzero(np.diff(np.pad(mask, ((0, 0), (1, 1))).ravel()))
        row, column = np.divmod(ends, mask.shape[1] + 2)
        return cls(row[::2], column[::2], column[1::2])

    def joined(self) -> NDArray[np.intp]:
        """Return for each run the first one of its region, as an index."""
        # Positions on one line, where a run of the next row that touches begins and ends within
        # these bounds: those of the run itself and a pixel to either side, one row further down.
        width = int(self.stop.max()) + 2
        start, stop = self.row * width + self.start, self.row * width + self.stop
        lowest = np.searchsorted(stop, start + width)
        n_below = np.searchsorted(start, stop + width, side="right") - lowest
        above = np.repeat(np.arange(len(start)), n_below)
        below = np.arange(n_below.sum()) + np.repeat(lowest - np.cumsum(n_below) + n_below, n_below)
        first = np.arange(len(start))
        while len(above) > 0:
            np.minimum.at(first, np.maximum(above, below), np.minimum(above, below))
            while (first[first] != first).any():
                first = first[first]
            above, below = first[above], first[below]
            apart = above != below
            above, below = above[apart], below[apart]
        return first


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
