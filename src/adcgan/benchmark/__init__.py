"""How good a detector is: figures over labelled images, and the record that keeps them."""

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
