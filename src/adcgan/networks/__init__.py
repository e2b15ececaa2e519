"""The networks of AD-CGAN (Table 2): E, G, D_cgan and D_z, for images of 16 to 256 px."""

from adcgan.networks.blocks import MAXIMUM_SIZE, MINIMUM_SIZE, TABLE_SIZES
from adcgan.networks.critic import Critic, CriticFeatures
from adcgan.networks.encoder import Encoder, default_latent_dim
from adcgan.networks.generator import Generator
from adcgan.networks.latent import LatentCritic

__all__ = [
    "MAXIMUM_SIZE",
    "MINIMUM_SIZE",
    "TABLE_SIZES",
    "Critic",
    "CriticFeatures",
    "Encoder",
    "Generator",
    "LatentCritic",
    "default_latent_dim",
]
