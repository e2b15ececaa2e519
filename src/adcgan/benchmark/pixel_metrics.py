"""Figures that say how well anomaly maps find the defective pixels that masks mark.

Everywhere a mask is True at defective pixels and all False for a normal image, a higher map value
means more anomalous, and pixel i of a mask belongs to pixel i of its map. Images may differ in
size. All figures are exact and pool the pixels of all images: a large image weighs more than a
small one, except in `pro`, where a small defect weighs as much as a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray

from adcgan.errors import InputError

# Pixels that touch at a corner belong to one region, as in MVTec AD's evaluation.
_TOUCHING = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class BestF1:
    """The best F1 of any threshold, chosen with the masks in view.

    Attributes
    ----------
    f1 : float
        In (0, 1].
    threshold : float
        Pixels above it are the ones flagged; the highest, where several thresholds do as well.
        It is chosen on test data, so it describes a map and is never used to decide anything:
        `adcgan.scoring.regions.pixel_threshold` gives the one that decides.
    """

    f1: float
    threshold: float


def pixel_auroc(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> float:
    """Return the area under the ROC curve of all pixels.

    It is the chance that a random defective pixel has a higher value than a random normal one,
    ties counting one half.

    Parameters
    ----------
    masks : sequence of array-like of bool, each of shape (H_i, W_i)
        True where the image is defective. Defective and normal pixels must both occur.
    maps : sequence of array-like of float, each of shape (H_i, W_i)
        Anomaly maps of the same images; finite, higher is more anomalous.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance. It is never flipped.

    Raises
    ------
    InputError
        If the numbers of masks and maps or the shapes of a pair differ, one is not
        two-dimensional, a mask is not boolean, a map is not finite, or no pixel is defective or
        none is normal.
    """
    return _auroc(_counted(masks, maps))


def pixel_average_precision(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> float:
    """Return the average precision over all pixels, defective ones being the positives.

    Parameters and errors are those of `pixel_auroc`. The value is in (0, 1]; chance is the share
    of defective pixels.
    """
    return _average_precision(_counted(masks, maps))


def pro(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike], max_fpr: float = 0.3) -> float:
    """Return the per-region overlap, averaged over false-positive rates up to `max_fpr`.

    A region is a set of defective pixels of one image that touch at a side or a corner. The
    overlap at a threshold is the share of a region's pixels that is above it, averaged over all
    regions, whatever their size. The curve of the overlap against the share of normal pixels (of
    all images) above the threshold is integrated from 0 to `max_fpr`, interpolated there, and
    divided by `max_fpr`: AU-PRO of Bergmann, Batzner, Fauser, Sattlegger and Steger, "The MVTec
    Anomaly Detection Dataset", IJCV 129 (2021).

    Parameters
    ----------
    masks, maps : sequence of array-like, each of shape (H_i, W_i)
        As in `pixel_auroc`.
    max_fpr : float, default=0.3
        Where the integral ends, in (0, 1].

    Returns
    -------
    float
        In [0, 1]; a map without any information has `max_fpr` / 2.

    Raises
    ------
    InputError
        As `pixel_auroc`, and if `max_fpr` is outside (0, 1].
    """
    if not 0 < max_fpr <= 1:
        raise InputError(
            f"The 'max_fpr' parameter of pro must be in (0, 1]. Got {max_fpr!r} instead."
        )
    return _pro(_counted(masks, maps), max_fpr)


def best_f1(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> BestF1:
    """Return the best F1 that one threshold for all pixels reaches, and that threshold.

    The threshold is chosen on test data and so is never used to decide anything: the figure is
    an upper bound of what a threshold chosen without the masks would reach.

    Parameters and errors are those of `pixel_auroc`.
    """
    return _best_f1(_counted(masks, maps))


def pixel_summary(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> dict[str, Any]:
    """Return every figure of this module, from one pass over the pixels.

    Parameters and errors are those of `pixel_auroc`.

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
    """What is above and at each of the k distinct values of defective pixels, highest first.

    No other threshold matters: between two such values only normal pixels come in, so the true
    positives stand still. Looking up few defective pixels among sorted normal ones takes a
    fraction of the time and memory of an argsort of all.

    Attributes
    ----------
    values : ndarray (k,)
        Falling.
    true : ndarray of int64 (k,)
        Defective pixels at or above each value; the last is all of them.
    overlap : ndarray of float64 (k,)
        Share of a region at or above each value, averaged over regions; the last is 1.
    false_above, false : ndarray of int64 (k,)
        Normal pixels above each value, and at or above it.
    n_normal, n_regions : int
        How many normal pixels and how many defective regions there are.
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
    """Return the share of pairs of a defective and a normal pixel that are in order."""
    at_value = np.diff(counts.true, prepend=0)
    lost = at_value @ ((counts.false_above + counts.false) / 2)
    return float(1 - lost / counts.n_normal / counts.n_defect)


def _average_precision(counts: _Counts) -> float:
    """Return the mean precision over defective pixels, each as the last that is flagged."""
    at_value = np.diff(counts.true, prepend=0)
    precision = counts.true / (counts.true + counts.false)
    return float(at_value @ precision / counts.n_defect)


def _best_f1(counts: _Counts) -> BestF1:
    """Return the best of the F1 at each value."""
    f1 = 2 * counts.true / (counts.true + counts.false + counts.n_defect)
    best = int(np.argmax(f1))
    # The pixels at this value are flagged, so the threshold is the number just below it.
    below = np.nextafter(counts.values[best], -np.inf, dtype=counts.values.dtype)
    return BestF1(float(f1[best]), float(below))


def _pro(counts: _Counts, max_fpr: float) -> float:
    """Return the area below the overlap up to `max_fpr`, over `max_fpr`."""
    # Two points a value: above it, and at or above it. From one to the other the curve rises, on
    # a slant where normal pixels tie; from there to the next value's first point it is level.
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
    """Check masks and maps, and count what lies above each value of a defective pixel."""
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
            "The 'masks' parameter must mark at least one pixel as defective and leave at least "
            f"one normal. Got {sum(map(len, defect))} defective and {n_normal} normal pixels "
            "instead."
        )
    ordered = np.concatenate(normal)
    normal.clear()
    ordered.sort()
    region, values = np.concatenate(regions), np.concatenate(defect)
    # Of one type, for the number just below a value to be above every smaller one.
    values = values.astype(np.promote_types(values.dtype, ordered.dtype), copy=False)
    falling = np.argsort(values)[::-1]
    values, region = values[falling], region[falling]
    share = (1 / np.bincount(region))[region]
    # The last pixel of each run of equal values.
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    overlap = np.cumsum(share)[last]
    values = values[last]
    return _Counts(
        values=values,
        true=last + 1,
        # By its own last entry, so that rounding leaves a perfect map at 1.
        overlap=overlap / overlap[-1],
        false_above=n_normal - np.searchsorted(ordered, values, side="right"),
        false=n_normal - np.searchsorted(ordered, values, side="left"),
        n_normal=n_normal,
        n_regions=n_regions,
    )


def _checked(
    index: int, mask: ArrayLike, anomaly_map: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return one image's mask and map as arrays that every figure here is defined for."""
    mask, values = np.asarray(mask), np.asarray(anomaly_map)
    if values.ndim != 2 or mask.shape != values.shape:
        raise InputError(
            "The 'masks' and 'maps' parameters must hold two-dimensional arrays, a mask of the "
            f"same shape for every map. Got shapes {mask.shape} and {values.shape} at index "
            f"{index} instead."
        )
    if mask.dtype != np.bool_:
        raise InputError(
            "The 'masks' parameter must hold boolean arrays. "
            f"Got {mask.dtype} at index {index} instead."
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            "The 'maps' parameter must hold arrays of floating-point numbers. "
            f"Got {values.dtype} at index {index} instead."
        )
    n_finite = int(np.isfinite(values).sum())
    if n_finite < values.size:
        raise InputError(
            "The 'maps' parameter must hold finite values only. "
            f"Got {values.size - n_finite} at index {index} that are not."
        )
    return mask, values
