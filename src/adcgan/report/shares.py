"""Which part of a score decides: each part's share in the difference that the score makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adcgan.benchmark import auroc


@dataclass(frozen=True)
class Share:
    """One part of a score, on labelled images.

    The score is a sum of weighted parts, s = Σ c_k (plus a constant that changes nothing).

    Attributes
    ----------
    name : str
        The part.
    alone : float
        AUROC of the part on its own, 0 to 1; never flipped.
    without : float or None
        AUROC of s − c_k, the score without the part; None where nothing is left.
    of_difference : float or None
        (mean of c_k over anomalous images − mean over normal ones), divided by the same difference
        of s. Over all parts these add up to 1; below 0 the part pulls the wrong way. None where
        the score of anomalous images is not higher on average, so that there is nothing to share.
    of_spread : float or None
        Covariance of c_k and s over the normal images, divided by the variance of s: what the
        part adds to the noise that the difference stands out from. Over all parts these add up
        to 1. None where all normal images score the same.
    """

    name: str
    alone: float
    without: float | None
    of_difference: float | None
    of_spread: float | None


def shares(
    components: Mapping[str, NDArray[np.float64]],
    contributions: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.int64],
) -> list[Share]:
    """Measure each part's share in a score.

    Parameters
    ----------
    components : mapping of str to ndarray of shape (n,)
        The parts, finite, as `Detector.score_components` returns them.
    contributions : mapping of str to ndarray of shape (n,)
        The weighted parts c_k, as `Detector.score_contributions` returns them.
    labels : ndarray of shape (n,), int
        1 anomalous, 0 normal; at least one of each.

    Returns
    -------
    list of Share
        In the order of `contributions`.
    """
    score = np.sum(list(contributions.values()), axis=0)
    normal = labels == 0
    difference = mean_difference(score, normal)
    # Rounding can give equal scores a variance of 1e-30, which must not divide.
    spread = float(np.var(score[normal])) if np.ptp(score[normal]) > 0 else 0.0
    found = []
    for name, part in contributions.items():
        found.append(
            Share(
                name=name,
                alone=auroc(labels, components[name]),
                without=auroc(labels, score - part) if len(contributions) > 1 else None,
                of_difference=mean_difference(part, normal) / difference
                if difference > 0
                else None,
                of_spread=_covariance(part[normal], score[normal]) / spread if spread else None,
            )
        )
    return found


def mean_difference(values: NDArray[np.float64], normal: NDArray[np.bool_]) -> float:
    """Return the mean of values (n,) over anomalous images minus that over `normal` ones (n,)."""
    return float(values[~normal].mean() - values[normal].mean())


def _covariance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the covariance, of the population, of two series (n,)."""
    return float(np.mean((one - one.mean()) * (other - other.mean())))
