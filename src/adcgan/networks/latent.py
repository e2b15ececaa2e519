"""The latent critic D_z, which judges pairs of latents or single latents."""

from __future__ import annotations

from torch import Tensor, nn

from adcgan.networks.layers import Linear
from adcgan.networks.spectral import spectral_norm


class LatentCritic(nn.Module):
    """D_z: three linear layers ("Linear 3" in Table 2), in → 64 → 32 → 1.

    `adcgan.losses.latent` builds its inputs: two concatenated latents or a single one.

    Parameters
    ----------
    in_features : int
        2z for pairs of latents, z for single latents.
    draws : Tensor (K, z)
        The model's fixed draws of z, with which L_FL (Eq. 5) compares every image.
    """

    draws: Tensor

    def __init__(self, in_features: int, draws: Tensor) -> None:
        super().__init__()
        self.register_buffer("draws", draws)
        self.layers = nn.Sequential(
            spectral_norm(Linear(in_features, 64)),
            nn.LeakyReLU(0.2),
            spectral_norm(Linear(64, 32)),
            nn.LeakyReLU(0.2),
            spectral_norm(Linear(32, 1)),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Return the logits (B,) of `latents` (B, in_features); higher means more real."""
        logit: Tensor = self.layers(latents)
        return logit.squeeze(1)
