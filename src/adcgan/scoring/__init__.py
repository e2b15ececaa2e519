"""From reconstructions to decisions: the normality score, p-values and thresholds.

Nothing here imports torch: the parts that take tensors use the tensors' own methods, so a service
without torch can score with an exported file, and combine and calibrate scores.
"""

from __future__ import annotations

from adcgan.scoring.assessment import Assessment
from adcgan.scoring.backend import Backend, Components, Scored, Shape, in_batches
from adcgan.scoring.calibration import (
    Threshold,
    conformal_p_values,
    contamination_threshold,
    false_alarm_interval,
    images_needed,
    smallest_budget,
    threshold_for_budget,
)
from adcgan.scoring.card import ModelCard
from adcgan.scoring.drift import Drift, drift
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
from adcgan.scoring.scorer import Scorer
from adcgan.scoring.verdict import Verdict

__all__ = [
    "COMPONENTS",
    "Assessment",
    "Backend",
    "Components",
    "Drift",
    "ModelCard",
    "Scored",
    "Scorer",
    "Shape",
    "Threshold",
    "Verdict",
    "conformal_p_values",
    "contamination_threshold",
    "discrimination_loss",
    "drift",
    "encoded_loss",
    "false_alarm_interval",
    "images_needed",
    "in_batches",
    "latent_loss",
    "location_and_scale",
    "normality_score",
    "residual_loss",
    "smallest_budget",
    "standardise",
    "threshold_for_budget",
    "variants",
]
