"""Metrics for how well anomaly maps find the defective pixels that masks mark.

Masks are True at defective pixels and all False for normal images. A higher map value means more
anomalous, and pixel i of a mask corresponds to pixel i of its map. Images may differ in size. All
metrics are exact and pool the pixels of all images, so a large image weighs more than a small one.
The exception is `pro`, in which a small defect weighs as much as a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray

from adcgan.errors import InputError

# 8-connectivity: pixels that touch at a corner belong to one region, as in MVTec AD's evaluation.
_TOUCHING = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class BestF1:
    """The best F1 over all thresholds, chosen with knowledge of the masks.

    Attributes
    ----------
    f1 : float
        F1 in (0, 1].
    threshold : float
        Pixels above it are flagged. If several thresholds are equally good, the highest. It is
        chosen on test data, so it only describes a map and is never used for decisions; for
        those, see `adcgan.scoring.regions.pixel_threshold`.
    """

    f1: float
    threshold: float


def pixel_auroc(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> float:
    """Compute the area under the ROC curve of all pixels.

    It is the probability that a random defective pixel has a higher value than a random normal
    one, where ties count one half.

    Parameters
    ----------
    masks : sequence of array-like of bool, each of shape (H_i, W_i)
        True at defective pixels. Both defective and normal pixels must occur.
    maps : sequence of array-like of float, each of shape (H_i, W_i)
        Anomaly maps of the same images, finite; higher is more anomalous.

    Returns
    -------
    float
        AUROC in [0, 1]; 0.5 is chance. It is never flipped.

    Raises
    ------
    InputError
        If the numbers of masks and maps or the shapes of a pair differ, an array is not
        two-dimensional, a mask is not boolean, a map is not finite, or there are no defective or
        no normal pixels.
    """
    return _auroc(_counted(masks, maps))


def pixel_average_precision(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> float:
    """Compute the average precision over all pixels, with defective pixels as positives.

    Parameters and errors are as for `pixel_auroc`. The value is in (0, 1]; chance is the fraction
    of defective pixels.
    """
    return _average_precision(_counted(masks, maps))


def pro(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike], max_fpr: float = 0.3) -> float:
    """Compute the per-region overlap, averaged over false-positive rates up to `max_fpr`.

    A region is a set of defective pixels of one image that touch at a side or a corner. The
    overlap at a threshold is the fraction of a region's pixels above it, averaged over all
    regions regardless of their size. The curve of the overlap against the fraction of normal pixels
    (of all images) above the threshold is integrated from 0 to `max_fpr`, with interpolation at the
    end, and divided by `max_fpr`. This is the AU-PRO of Bergmann, Batzner, Fauser, Sattlegger and
    Steger, "The MVTec Anomaly Detection Dataset", IJCV 129 (2021).

    Parameters
    ----------
    masks, maps : sequence of array-like, each of shape (H_i, W_i)
        See `pixel_auroc`.
    max_fpr : float, default=0.3
        Upper limit of the integral, in (0, 1].

    Returns
    -------
    float
        Value in [0, 1]; an uninformative map scores `max_fpr` / 2.

    Raises
    ------
    InputError
        As for `pixel_auroc`, or if `max_fpr` is outside (0, 1].
    """
    if not 0 < max_fpr <= 1:
        raise InputError(
            f"The 'max_fpr' parameter of pro must be in (0, 1]. Got {max_fpr!r} instead."
        )
    return _pro(_counted(masks, maps), max_fpr)


def best_f1(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> BestF1:
    """Find the best F1 of a single threshold for all pixels, and that threshold.

    The threshold is chosen on test data, so it is never used for decisions. The F1 is an upper
    bound for thresholds chosen without the masks.

    Parameters and errors are as for `pixel_auroc`.
    """
    return _best_f1(_counted(masks, maps))


def pixel_summary(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> dict[str, Any]:
    """Compute all metrics of this module in one pass over the pixels.

    Parameters and errors are as for `pixel_auroc`.

    Returns
    -------
    dict
        ``pixel_auroc``, ``pixel_average_precision``, ``pro30`` (up to a false-positive rate of
        0.3), ``pixel_best_f1``, ``pixel_best_f1_threshold_chosen_on_test``, ``n_regions``,
        ``n_defect_pixels`` and ``n_pixels``.
    """
    counts = _counted(masks, maps)
    best = _best_f1(counts)
    return {
        "pixel_auroc": _auroc(counts),
        "pixel_average_precision": _average_precision(counts),
        "pro30": _pro(counts, 0.3),
        "pixel_best_f1": best.f1,
        "pixel_best_f1_threshold_chosen_on_test": best.threshold,
        "n_regions": counts.n_regions,
        "n_defect_pixels": counts.n_defect,
        "n_pixels": counts.n_normal + counts.n_defect,
    }


@dataclass(frozen=True, eq=False)
class _Counts:
    """Counts above and at each of the k distinct values of defective pixels, highest first.

    No other threshold matters: between two such values only normal pixels are added, so the true
    positives stay constant. Looking up a few defective pixels among sorted normal ones takes a
    fraction of the time and memory of an argsort of all pixels.

    Attributes
    ----------
    values : ndarray (k,)
        Distinct values, in descending order.
    true : ndarray of int64 (k,)
        Number of defective pixels at or above each value; the last counts all of them.
    overlap : ndarray of float64 (k,)
        Fraction of a region at or above each value, averaged over regions; the last is 1.
    false_above, false : ndarray of int64 (k,)
        Number of normal pixels above each value, and at or above it.
    n_normal, n_regions : int
        Number of normal pixels and of defective regions.
    """

    values: NDArray[Any]
    true: NDArray[np.int64]
    overlap: NDArray[np.float64]
    false_above: NDArray[np.int64]
    false: NDArray[np.int64]
    n_normal: int
    n_regions: int

    @property
    def n_defect(self) -> int:
        return int(self.true[-1])


def _auroc(counts: _Counts) -> float:
    """Return the fraction of pairs of a defective and a normal pixel in the right order."""
    at_value = np.diff(counts.true, prepend=0)
    lost = at_value @ ((counts.false_above + counts.false) / 2)
    return float(1 - lost / counts.n_normal / counts.n_defect)


def _average_precision(counts: _Counts) -> float:
    """Return the precision at each defective pixel's value, averaged over these pixels."""
    at_value = np.diff(counts.true, prepend=0)
    precision = counts.true / (counts.true + counts.false)
    return float(at_value @ precision / counts.n_defect)


def _best_f1(counts: _Counts) -> BestF1:
    """Return the best F1 over all values."""
    f1 = 2 * counts.true / (counts.true + counts.false + counts.n_defect)
    best = int(np.argmax(f1))
    # Pixels at this value are flagged, so the threshold is the next smaller number.
    below = np.nextafter(counts.values[best], -np.inf, dtype=counts.values.dtype)
    return BestF1(float(f1[best]), float(below))


def _pro(counts: _Counts, max_fpr: float) -> float:
    """Return the area under the overlap curve up to `max_fpr`, divided by `max_fpr`."""
    # Two points per value: above it, and at or above it. Between them the curve rises, at a slant
    # if normal pixels tie; from there to the first point of the next value it is flat.
    n_points = 2 * len(counts.values) + 1
    fpr, overlap = np.ones(n_points), np.ones(n_points)
    fpr[:-1:2] = counts.false_above / counts.n_normal
    fpr[1::2] = counts.false / counts.n_normal
    overlap[0] = 0
    overlap[2::2] = overlap[1::2] = counts.overlap
    wide = (fpr[1:] > fpr[:-1]) & (fpr[:-1] < max_fpr)
    left, right = fpr[:-1][wide], fpr[1:][wide]
    start, stop = overlap[:-1][wide], overlap[1:][wide]
    end = np.minimum(right, max_fpr)
    at_end = start + (stop - start) * ((end - left) / (right - left))
    return float(np.sum((end - left) * (start + at_end) / 2) / max_fpr)


def _counted(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> _Counts:
    """Check masks and maps, and count the pixels above each value of a defective pixel."""
    if len(masks) != len(maps):
        raise InputError(
            "The 'masks' and 'maps' parameters must be equally long. "
            f"Got {len(masks)} masks and {len(maps)} maps instead."
        )
    normal, defect, regions, n_regions = [], [], [], 0
    for index in range(len(masks)):
        mask, values = _checked(index, masks[index], maps[index])
        normal.append(values[~mask])
        if mask.any():
            labels, n_found = scipy.ndimage.label(mask, structure=_TOUCHING)
            defect.append(values[mask])
            regions.append(labels[mask] + (n_regions - 1))
            n_regions += n_found
    n_normal = sum(map(len, normal))
    if not defect or not n_normal:
        raise InputError(
            "The 'masks' parameter must mark at least one pixel as defective and at least one as "
            f"normal. Got {sum(map(len, defect))} defective and {n_normal} normal pixels "
            "instead."
        )
    ordered = np.concatenate(normal)
    normal.clear()
    ordered.sort()
    region, values = np.concatenate(regions), np.concatenate(defect)
    # Use one type, so that the number just below a value is at least any smaller value.
    values = values.astype(np.promote_types(values.dtype, ordered.dtype), copy=False)
    falling = np.argsort(values)[::-1]
    values, region = values[falling], region[falling]
    share = (1 / np.bincount(region))[region]
    # Last pixel of each run of equal values.
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    overlap = np.cumsum(share)[last]
    values = values[last]
    return _Counts(
        values=values,
        true=last + 1,
        # Divide by the last entry, so that a perfect map gives 1 despite rounding.
        overlap=overlap / overlap[-1],
        false_above=n_normal - np.searchsorted(ordered, values, side="right"),
        false=n_normal - np.searchsorted(ordered, values, side="left"),
        n_normal=n_normal,
        n_regions=n_regions,
    )


def _checked(
    index: int, mask: ArrayLike, anomaly_map: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return an image's mask and map as valid arrays, or raise `InputError`."""
    mask, values = np.asarray(mask), np.asarray(anomaly_map)
    if values.ndim != 2 or mask.shape != values.shape:
        raise InputError(
            "The 'masks' and 'maps' parameters must contain two-dimensional arrays, with the same "
            f"shape for each mask and its map. Got shapes {mask.shape} and {values.shape} at index "
            f"{index} instead."
        )
    if mask.dtype != np.bool_:
        raise InputError(
            "The 'masks' parameter must contain boolean arrays. "
            f"Got {mask.dtype} at index {index} instead."
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            "The 'maps' parameter must contain floating-point arrays. "
            f"Got {values.dtype} at index {index} instead."
        )
    n_finite = int(np.isfinite(values).sum())
    if n_finite < values.size:
        raise InputError(
            "The 'maps' parameter must contain only finite values. "
            f"Got {values.size - n_finite} at index {index} that are not finite."
        )
    return mask, values
