"""Evaluation of detectors: metrics on labelled images, and the records that keep them."""

from __future__ import annotations

from adcgan.benchmark.evaluation import Evaluation, evaluate
from adcgan.benchmark.metrics import (
    auroc,
    auroc_interval,
    average_precision,
    fpr_at_tpr,
    precision_recall_points,
    roc_points,
    summary,
)

__all__ = [
    "Evaluation",
    "auroc",
    "auroc_interval",
    "average_precision",
    "evaluate",
    "fpr_at_tpr",
    "precision_recall_points",
    "roc_points",
    "summary",
]
