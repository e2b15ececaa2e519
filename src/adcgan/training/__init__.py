"""Training: one step-based loop, guarded updates, checkpoints, the run's record, health."""

from adcgan.training.device import make_accelerator, resolve_device
from adcgan.training.health import Check, HealthWatch
from adcgan.training.loop import Phase, Recipe, Session, train
from adcgan.training.optimizers import Optimizers
from adcgan.training.runlog import RunLog, hardware, versions

__all__ = [
    "Check",
    "HealthWatch",
    "Optimizers",
    "Phase",
    "Recipe",
    "RunLog",
    "Session",
    "hardware",
    "make_accelerator",
    "resolve_device",
    "train",
    "versions",
]
