"""p-values and thresholds from the scores of held-out normal images, or of the training set.

Scores are higher for more anomalous images. Calibration scores belong to normal images that were
not trained on; no test score is ever used here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adcgan.errors import InputError


@dataclass(frozen=True)
class Threshold:
    """Where normal ends: an image is anomalous if and only if its score is above `value`.

    Attributes
    ----------
    value : float
        In units of the score.
    fpr_in_force : float
        The false-positive budget that the threshold keeps: the one asked for where it is
        supported, else the smallest that the calibration images support.
    supported : bool
        Whether there are enough calibration images for the budget asked for.
    """

    value: float
    fpr_in_force: float
    supported: bool


def conformal_p_values(scores: ArrayLike, calibration_scores: ArrayLike) -> NDArray[np.float64]:
    """Conformal p-values of scores: how usual each is among normal images.

    p = (1 + #{calibration scores ≥ score}) / (m + 1). For a normal image that is exchangeable
    with the calibration images, P(p ≤ a) ≤ a for every a (Vovk, Gammerman and Shafer 2005); the
    probability is over the calibration images too.

    Parameters
    ----------
    scores : array of shape (n,)
        Scores; infinities are allowed. nan marks an image without a score.
    calibration_scores : array of shape (m,)
        Scores of held-out normal images, m ≥ 1, finite, in any order.

    Returns
    -------
    array of shape (n,), float64
        From 1 / (m + 1), the most anomalous, to 1; nan where the score is nan.

    Raises
    ------
    InputError
        If an array is not one-dimensional, or calibration scores are absent or not finite.
    """
    values = one_dimensional("scores", scores)
    ordered = np.sort(finite("calibration_scores", calibration_scores))
    at_least = ordered.size - np.searchsorted(ordered, values, side="left")
    p_values: NDArray[np.float64] = (1 + at_least) / (ordered.size + 1)
    p_values[np.isnan(values)] = np.nan
    return p_values


def smallest_budget(m: int) -> float:
    """Return the smallest false-positive budget that `m` calibration images support.

    Parameters
    ----------
    m : int
        Number of calibration images, at least 0.

    Returns
    -------
    float
        1 / (m + 1), the smallest p-value there is.

    Raises
    ------
    InputError
        If `m` is negative.
    """
    if m < 0:
        raise InputError(f"The 'm' parameter must be at least 0. Got {m!r} instead.")
    return 1 / (m + 1)


def images_needed(fpr: float) -> int:
    """Return how many calibration images a false-positive budget needs.

    Parameters
    ----------
    fpr : float
        The budget, between 0 and 1, both excluded.

    Returns
    -------
    int
        ⌈1 / fpr⌉ − 1, the least m with ``smallest_budget(m) <= fpr``: 99 for 0.01.

    Raises
    ------
    InputError
        If `fpr` is outside (0, 1).
    """
    _check_budget(fpr)
    least = math.ceil(1 / Fraction(fpr))
    # 1/49 as a float lies below the fraction 1/49; it must need 48 images, not 49, since the
    # p-value 1/49 is rounded in the same way.
    if 1 / (least - 1) <= fpr:
        least -= 1
    return least - 1


def threshold_for_budget(calibration_scores: ArrayLike, fpr: float) -> Threshold:
    """Return the threshold that flags normal images at a rate of at most `fpr`.

    ``score > value`` holds exactly where ``conformal_p_values(score) <= fpr_in_force``, ties and
    rounding included.

    Parameters
    ----------
    calibration_scores : array of shape (m,)
        Scores of held-out normal images, m ≥ 1, finite, in any order.
    fpr : float
        The false-positive budget, between 0 and 1, both excluded.

    Returns
    -------
    Threshold
        Where fewer than `images_needed` calibration scores are given, the budget cannot be kept
        with anything flagged: `value` is then the largest of them, `fpr_in_force` is
        1 / (m + 1), above `fpr`, and `supported` is False.

    Raises
    ------
    InputError
        If calibration scores are absent, not finite or not one-dimensional, or `fpr` is outside
        (0, 1).
    """
    _check_budget(fpr)
    ordered = np.sort(finite("calibration_scores", calibration_scores))
    m = ordered.size
    # Compared as conformal_p_values rounds them: ⌊fpr·(m + 1)⌋ is 28 for 0.29 and m = 99.
    within = int(np.searchsorted(np.arange(1, m + 1) / (m + 1), fpr, side="right"))
    if within == 0:
        return Threshold(float(ordered[-1]), smallest_budget(m), supported=False)
    # p ≤ fpr allows within − 1 calibration scores at or above the score, so it has to exceed the
    # one with that many above it in order.
    return Threshold(float(ordered[m - within]), float(fpr), supported=True)


def false_alarm_interval(
    calibration_scores: ArrayLike, threshold: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return where the false-alarm rate of a threshold lies, given these calibration images.

    A budget holds on average over the choice of calibration images. With the ones at hand, and a
    threshold at the k-th largest of their m scores, the share of new normal images above it has
    the distribution Beta(k, m + 1 − k), whatever the scores' own (continuous) distribution.

    Parameters
    ----------
    calibration_scores : array of shape (m,)
        Scores of held-out normal images, m ≥ 1, finite, in any order.
    threshold : float
        At most the largest of them, as `threshold_for_budget` returns it.
    confidence : float, default=0.95
        Chance that the rate lies inside, in (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper end, both in [0, 1].

    Raises
    ------
    InputError
        If calibration scores are absent, not finite or not one-dimensional.
    """
    # Imported here: scoring with an exported file does without SciPy.
    from scipy.special import betaincinv

    scores = finite("calibration_scores", calibration_scores)
    k = int((scores >= threshold).sum())
    assert k > 0
    tail = (1 - confidence) / 2
    low, high = (float(betaincinv(k, scores.size + 1 - k, share)) for share in (tail, 1 - tail))
    return low, high


def contamination_threshold(training_scores: ArrayLike, contamination: float) -> float:
    """Return PyOD's threshold: the (1 − contamination) quantile of the training scores.

    Parameters
    ----------
    training_scores : array of shape (n,)
        Scores of the training images, n ≥ 1, finite.
    contamination : float
        Share of the training images that is taken to be anomalous, above 0 and up to 0.5.

    Returns
    -------
    float
        In units of the score, interpolated linearly; an image is anomalous if its score is above.

    Raises
    ------
    InputError
        If training scores are absent, not finite or not one-dimensional, or `contamination` is
        outside (0, 0.5].
    """
    if not 0 < contamination <= 0.5:
        raise InputError(
            "The 'contamination' parameter must be above 0 and at most 0.5. "
            f"Got {contamination!r} instead."
        )
    return float(np.quantile(finite("training_scores", training_scores), 1 - contamination))


def one_dimensional(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return the values in float64, or refuse another number of dimensions."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(
            f"The {name!r} parameter must be a one-dimensional array. "
            f"Got shape {array.shape} instead."
        )
    return array


def finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return the values in float64, or refuse none at all and values that are not finite."""
    array = one_dimensional(name, values)
    n_finite = int(np.isfinite(array).sum())
    if array.size == 0 or n_finite < array.size:
        raise InputError(
            f"The {name!r} parameter must have at least one score and finite scores only. "
            f"Got {array.size} scores, {n_finite} of them finite, instead."
        )
    return array


def _check_budget(fpr: float) -> None:
    if not 0 < fpr < 1:
        raise InputError(
            f"The 'fpr' parameter must be between 0 and 1, both excluded. Got {fpr!r} instead."
        )
