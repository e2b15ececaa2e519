"""The threshold, and the decisions that follow from it, for every command and the service."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adcgan.scoring.calibration import conformal_p_values, images_needed, threshold_for_budget
from adcgan.scoring.drift import Drift, drift


@dataclass(frozen=True, eq=False)
class Verdict:
    """A threshold, and its decisions on scores.

    Attributes
    ----------
    threshold : float
        An image is anomalous when its score is above it.
    fpr : float or None
        The false-positive budget in force; None where `contamination` set the threshold.
    calibration_scores : ndarray of float64 (m,)
        Scores of the held-out normal images.
    warning : str or None
        Why the budget in force differs from the one asked for.
    """

    threshold: float
    fpr: float | None
    calibration_scores: NDArray[np.float64]
    warning: str | None = None

    @classmethod
    def for_budget(cls, calibration_scores: NDArray[np.float64], fpr: float) -> Verdict:
        """Return the verdict by a false-positive budget in (0, 1).

        Raises
        ------
        InputError
            `fpr` is outside (0, 1).
        """
        found = threshold_for_budget(calibration_scores, fpr)
        warning = None
        if not found.supported:
            warning = (
                f"A false-positive budget of {fpr:g} needs {images_needed(fpr):,} held-out normal "
                f"images. There are {len(calibration_scores):,}, so the budget in force is "
                f"{found.fpr_in_force:.3g}."
            )
        return cls(found.value, found.fpr_in_force, calibration_scores, warning)

    def anomalous(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return 1 for anomalous scores (n,), 0 for normal ones, -1 for nan."""
        decided = np.where(np.isnan(scores), -1, scores > self.threshold)
        return decided.astype(np.int64)

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the conformal p-values (n,) of scores, in (0, 1]; nan for nan."""
        return conformal_p_values(scores, self.calibration_scores)

    def drift(self, scores: NDArray[np.float64]) -> Drift:
        """Return how scores (n,) differ from the held-out images'; nan is left out."""
        return drift(scores, self.calibration_scores, self.threshold)
