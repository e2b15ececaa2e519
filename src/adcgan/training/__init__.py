"""Training: a step-based loop, guarded updates, checkpoints, run logs and health checks."""

from adcgan.training.device import (
    full_precision,
    make_accelerator,
    precision_of,
    random_state_kept,
    resolve_device,
)
from adcgan.training.health import (
    COLLAPSE,
    SATURATED_CRITIC,
    STALLED_AUTOENCODER,
    Check,
    HealthWatch,
    diversity_figures,
    reconstruction_figures,
)
from adcgan.training.loop import Phase, Recipe, Session, train
from adcgan.training.optimizers import Optimizers, frozen
from adcgan.training.runlog import RunLog, hardware, versions
from adcgan.training.schedule import step_count

__all__ = [
    "COLLAPSE",
    "SATURATED_CRITIC",
    "STALLED_AUTOENCODER",
    "Check",
    "HealthWatch",
    "Optimizers",
    "Phase",
    "Recipe",
    "RunLog",
    "Session",
    "diversity_figures",
    "frozen",
    "full_precision",
    "hardware",
    "make_accelerator",
    "precision_of",
    "random_state_kept",
    "reconstruction_figures",
    "resolve_device",
    "step_count",
    "train",
    "versions",
]
