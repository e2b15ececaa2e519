"""Metrics for how well scores separate anomalous images from normal ones.

Labels are 1 for anomalous images and 0 for normal ones, and a higher score means more anomalous.
Metrics are never flipped: a detector worse than chance has an AUROC below 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray

from adcgan.errors import InputError

# Resampled images per chunk, so that the interval for a million scores fits in memory.
_CHUNK = 2_000_000


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute the area under the ROC curve.

    It is the probability that a random anomalous image scores above a random normal one, where
    ties count one half.

    Parameters
    ----------
    labels : array-like of shape (n,)
        1 anomalous, 0 normal; both must occur.
    scores : array-like of shape (n,)
        Finite; higher is more anomalous.

    Returns
    -------
    float
        AUROC in [0, 1]; 0.5 is chance.

    Raises
    ------
    InputError
        If only one class occurs, a label is not 0 or 1, a score is not finite, or the lengths
        differ.
    """
    return float(sklearn.metrics.roc_auc_score(*_checked(labels, scores)))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute the average precision, with anomalous images as positives.

    Parameters and errors are as for `auroc`. The value is in [0, 1]; chance is the fraction of
    anomalous images.
    """
    return float(sklearn.metrics.average_precision_score(*_checked(labels, scores)))


def fpr_at_tpr(labels: ArrayLike, scores: ArrayLike, tpr: float = 0.95) -> float:
    """Compute the false-positive rate at a true-positive rate of at least `tpr`.

    Parameters
    ----------
    labels, scores : array-like of shape (n,)
        See `auroc`.
    tpr : float, default=0.95
        Required true-positive rate, in (0, 1].

    Returns
    -------
    float
        Fraction of normal images flagged, in [0, 1]; lower is better.

    Raises
    ------
    InputError
        As for `auroc`, or if `tpr` is outside (0, 1].
    """
    if not 0 < tpr <= 1:
        raise InputError(
            f"The 'tpr' parameter of fpr_at_tpr must be in (0, 1]. Got {tpr!r} instead."
        )
    labels, scores = _checked(labels, scores)
    false, true, _ = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    return float(false[np.argmax(true >= tpr)])


def auroc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute a percentile bootstrap interval of the AUROC, resampling within each class.

    It covers only the sampling of test images; the AUROC also varies with the training seed.

    Parameters
    ----------
    labels, scores : array-like of shape (n,)
        See `auroc`.
    confidence : float, default=0.95
        Coverage of the interval, in (0, 1).
    n_bootstrap : int, default=1000
        Number of resamples, at least 1.
    seed : int, default=0
        Seed of the resampling; the same seed gives the same interval.

    Returns
    -------
    tuple of float
        Lower and upper end, both in [0, 1].

    Raises
    ------
    InputError
        As for `auroc`, or if `confidence` or `n_bootstrap` is out of range.
    """
    if not 0 < confidence < 1:
        raise InputError(
            "The 'confidence' parameter of auroc_interval must be in (0, 1). "
            f"Got {confidence!r} instead."
        )
    if n_bootstrap < 1:
        raise InputError(
            "The 'n_bootstrap' parameter of auroc_interval must be at least 1. "
            f"Got {n_bootstrap!r} instead."
        )
    labels, scores = _checked(labels, scores)
    levels, level = np.unique(scores, return_inverse=True)
    normal, anomalous = level[labels == 0], level[labels == 1]
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(scores))
    values = np.concatenate(
        [
            _resampled_auroc(normal, anomalous, len(levels), min(rows, n_bootstrap - start), rng)
            for start in range(0, n_bootstrap, rows)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def roc_points(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the false- and true-positive rates at all thresholds, both rising from 0 to 1.

    Parameters and errors are as for `auroc`. Collinear points are dropped.
    """
    false, true, _ = sklearn.metrics.roc_curve(*_checked(labels, scores))
    return false, true


def precision_recall_points(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall at all thresholds, with recall falling from 1 to 0.

    Parameters and errors are as for `auroc`.
    """
    precision, recall, _ = sklearn.metrics.precision_recall_curve(
        *_checked(labels, scores), drop_intermediate=True
    )
    return precision, recall


def summary(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    """Compute all metrics of this module.

    Parameters and errors are as for `auroc`.

    Returns
    -------
    dict
        ``auroc``, ``auroc_ci95`` (two numbers), ``average_precision``, ``fpr95``, ``n_normal``
        and ``n_anomalous``.
    """
    labels, scores = _checked(labels, scores)
    return {
        "auroc": auroc(labels, scores),
        "auroc_ci95": list(auroc_interval(labels, scores)),
        "average_precision": average_precision(labels, scores),
        "fpr95": fpr_at_tpr(labels, scores),
        "n_normal": int(np.sum(labels == 0)),
        "n_anomalous": int(np.sum(labels == 1)),
    }


def _resampled_auroc(
    normal: NDArray[np.intp],
    anomalous: NDArray[np.intp],
    n_levels: int,
    n_rows: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the AUROCs of `n_rows` resamples; `normal` and `anomalous` are ranks of scores."""
    n_normal = _resampled_counts(normal, n_levels, n_rows, rng)
    n_anomalous = _resampled_counts(anomalous, n_levels, n_rows, rng)
    # Pairs won at a level: all normal images below it and half of those that tie.
    won = np.cumsum(n_normal, axis=1) - n_normal / 2
    pairs = len(normal) * len(anomalous)
    values: NDArray[np.float64] = np.einsum("rl,rl->r", n_anomalous, won) / pairs
    return values


def _resampled_counts(
    ranks: NDArray[np.intp], n_levels: int, n_rows: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the count of each rank in each resample (n_rows, n_levels)."""
    drawn = ranks[rng.integers(len(ranks), size=(n_rows, len(ranks)))]
    drawn += n_levels * np.arange(n_rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_rows * n_levels).reshape(n_rows, n_levels)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels and scores as valid arrays, or raise `InputError`."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise InputError(
            "The 'labels' and 'scores' parameters must be one-dimensional and equally long. "
            f"Got shapes {labels.shape} and {scores.shape} instead."
        )
    found = np.unique(labels).tolist()
    if not set(found) <= {0, 1}:
        raise InputError(
            "The 'labels' parameter must contain only 0 (normal) and 1 (anomalous). "
            f"Got {found[:5]} instead."
        )
    if len(found) < 2:
        raise InputError(
            "The 'labels' parameter must contain both normal (0) and anomalous (1) images. "
            f"Got {'only ' + str(found[0]) if found else 'none'} instead."
        )
    if not np.isfinite(scores).all():
        raise InputError(
            "The 'scores' parameter must be finite. "
            f"Got {int((~np.isfinite(scores)).sum())} scores that are not finite."
        )
    return labels.astype(np.int64), scores
