"""Whether scored images still come from the same source as the held-out normal ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adcgan.scoring.calibration import finite, one_dimensional

# A warning takes so many images, and a p-value below this.
FEWEST = 20
LEVEL = 0.001
# Beyond, the terms of Smirnov's series are 0 in float64 wherever the p-value is not near 1.
_TERMS = 100


@dataclass(frozen=True)
class Drift:
    """How the scores of some images differ from those of the held-out normal ones.

    Attributes
    ----------
    n : int
        Images with a score.
    share_above : float
        The share of them whose score is above the threshold, in [0, 1]; nan without images.
    statistic : float
        The two-sample Kolmogorov–Smirnov statistic, in [0, 1]: the largest difference of the
        empirical distribution functions; nan without images.
    p_value : float
        Of the statistic where both sets come from one distribution, in [0, 1]; nan without images.
    higher : bool
        Whether the scores are higher than the held-out ones where the functions differ most.
    """

    n: int
    share_above: float
    statistic: float
    p_value: float
    higher: bool

    @property
    def unlike(self) -> bool:
        """Whether to warn: at least 20 images, and a p-value below 0.001."""
        return self.n >= FEWEST and self.p_value < LEVEL

    def warning(self, images: str = "These images") -> str | None:
        """Return the warning there is, if any, in a line that begins with `images`."""
        if not self.unlike:
            return None
        found = (
            f"Kolmogorov-Smirnov distance {self.statistic:.2f}, p = {self.p_value:.1g}, over "
            f"{self.n:,} images, {self.share_above:.1%} of them above the threshold"
        )
        if self.higher:
            return (
                f"{images} are unlike those it learned from: their scores are higher than those "
                f"of held-out normal images ({found})."
            )
        return (
            f"{images} are unlike its held-out normal images: their scores are lower, as they "
            f"are for images that it learned from and for blank ones ({found})."
        )


def drift(scores: ArrayLike, calibration_scores: ArrayLike, threshold: float) -> Drift:
    """Compare the scores of new images with those of held-out normal ones.

    The two-sample Kolmogorov–Smirnov test (Smirnov 1939), as Rabanser, Günnemann and Lipton (2019,
    "Failing Loudly") use it on what a model says of images. Two samples, since the held-out scores
    are one too, and often a small one. Testing the conformal p-values of the new images for
    uniformity is the same, except that this test knows how few images they come from.

    The p-value is Smirnov's limit, which needs no SciPy and is hardly ever below the exact one: 2 Σ
    (−1)^(j−1) exp(−2 j² λ²) over j ≥ 1, with λ = statistic · √(n m / (n + m)). It is above 0.001
    whatever the scores where m is 3 or less.

    Parameters
    ----------
    scores : array of shape (n,)
        Scores of new images; nan marks an image without one, which is left out.
    calibration_scores : array of shape (m,)
        Scores of held-out normal images, m ≥ 1, finite, in any order.
    threshold : float
        An image is anomalous when its score is above it.

    Returns
    -------
    Drift

    Raises
    ------
    InputError
        If an array is not one-dimensional, or calibration scores are absent or not finite.
    """
    known = np.sort(finite("calibration_scores", calibration_scores))
    new = one_dimensional("scores", scores)
    new = np.sort(new[~np.isnan(new)])
    if not new.size:
        return Drift(0, np.nan, np.nan, np.nan, higher=False)
    points = np.concatenate([known, new])
    gaps = _below(known, points) - _below(new, points)
    widest = float(gaps[np.abs(gaps).argmax()])
    statistic = abs(widest)
    size = new.size * known.size / (new.size + known.size)
    return Drift(
        n=int(new.size),
        share_above=float((new > threshold).mean()),
        statistic=statistic,
        p_value=_smirnov(statistic * np.sqrt(size)),
        higher=widest > 0,
    )


def _below(ordered: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the empirical distribution function of ascending values at points."""
    return np.searchsorted(ordered, points, side="right") / ordered.size


def _smirnov(x: float) -> float:
    """Return the chance that Kolmogorov's distribution exceeds `x`, at least 0."""
    j = np.arange(1, _TERMS + 1)
    terms = (-1.0) ** (j - 1) * np.exp(-2 * (j * x) ** 2)
    return float(np.clip(2 * terms.sum(), 0, 1)) if x > 0 else 1.0
