"""Loss functions: pure functions of tensors, one per equation of the paper."""

from __future__ import annotations

from adcgan.losses.adversarial import (
    logistic_critic_loss,
    logistic_generator_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
    wasserstein_gradient_penalty,
)
from adcgan.losses.contrastive import NEGATIVES, contrastive_loss
from adcgan.losses.latent import (
    LATENT_KINDS,
    latent_critic_loss,
    latent_encoder_loss,
    latent_scoring_inputs,
    latent_training_inputs,
)
from adcgan.losses.reconstruction import reconstruction_loss
from adcgan.losses.transformation import answer_losses, transformation_loss
from adcgan.losses.views import view_loss

__all__ = [
    "LATENT_KINDS",
    "NEGATIVES",
    "answer_losses",
    "contrastive_loss",
    "latent_critic_loss",
    "latent_encoder_loss",
    "latent_scoring_inputs",
    "latent_training_inputs",
    "logistic_critic_loss",
    "logistic_generator_loss",
    "reconstruction_loss",
    "relativistic_critic_loss",
    "relativistic_generator_loss",
    "transformation_loss",
    "view_loss",
    "wasserstein_gradient_penalty",
]
