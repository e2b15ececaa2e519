"""The networks of AD-CGAN (Table 2): E, G, D_cgan and D_z, for images of 16 to 256 px."""

from adcgan.networks.critic import Critic, CriticFeatures, SelfSupervisedCritic
from adcgan.networks.encoder import Encoder, default_latent_dim
from adcgan.networks.generator import Generator
from adcgan.networks.latent import LatentCritic
from adcgan.networks.spectral import SpectralNorms

__all__ = [
    "Critic",
    "CriticFeatures",
    "Encoder",
    "Generator",
    "LatentCritic",
    "SelfSupervisedCritic",
    "SpectralNorms",
    "default_latent_dim",
]
