"""From reconstructions to decisions: the normality score, p-values and thresholds.

Nothing here imports torch: the parts that take tensors use the tensors' own methods, so a service
without torch can combine and calibrate scores.
"""

from __future__ import annotations

from adcgan.scoring.calibration import (
    Threshold,
    conformal_p_values,
    contamination_threshold,
    images_needed,
    smallest_budget,
    threshold_for_budget,
)
from adcgan.scoring.normality import (
    COMPONENTS,
    discrimination_loss,
    encoded_loss,
    latent_loss,
    location_and_scale,
    normality_score,
    residual_loss,
    standardise,
    variants,
)

__all__ = [
    "COMPONENTS",
    "Threshold",
    "conformal_p_values",
    "contamination_threshold",
    "discrimination_loss",
    "encoded_loss",
    "images_needed",
    "latent_loss",
    "location_and_scale",
    "normality_score",
    "residual_loss",
    "smallest_budget",
    "standardise",
    "threshold_for_budget",
    "variants",
]
