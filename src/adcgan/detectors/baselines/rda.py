"""Robust deep autoencoder: splits images into a part it can reconstruct and a sparse rest.

C. Zhou and R. C. Paffenroth, "Anomaly Detection with Robust Deep Autoencoders", KDD 2017.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.anomaly_map import residual_map
from adcgan.detectors.base import Detector
from adcgan.detectors.baselines.stacks import Down, Up, channels_for, signed
from adcgan.detectors.model import Model
from adcgan.detectors.settings import (
    batch_size_setting,
    latent_dim_setting,
    learning_rate_setting,
    min_steps_setting,
    precision_setting,
    real,
    setting,
    whole,
    width_setting,
)
from adcgan.losses import reconstruction_loss
from adcgan.scoring import Components, Scored, Shape
from adcgan.training import (
    STALLED_AUTOENCODER,
    Optimizers,
    Phase,
    Recipe,
    reconstruction_figures,
    step_count,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

CHANNELS = (32, 64, 128)


class RobustAutoencoder(Detector):
    """Autoencoder trained on L, where X = L + S and S can absorb whole images."""

    name: ClassVar[str] = "rda"
    capturable: ClassVar[bool] = True

    latent_dim: int = latent_dim_setting(32)
    width: float = width_setting()
    batch_size: int = batch_size_setting(64)
    epochs: int = setting(50, whole(1), "Passes over the images in all rounds together.")
    min_steps: int = min_steps_setting()
    rounds: int = setting(10, whole(1), "Rounds of training and shrinking.")
    lr: float = learning_rate_setting(1e-3)
    lam: float = setting(
        0.1,
        real(0, above=True),
        "Residual that an image may keep in L, as the root mean square over its pixels in [0, 1]; "
        "the excess goes to S. The weight λ of the ℓ2,1 norm is lam · √pixels.",
    )
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> RobustAutoencoderModel:
        """Return the autoencoder for images of `shape` (C, H, W)."""
        return RobustAutoencoderModel(self, shape)


class RobustAutoencoderModel(Model):
    """The autoencoder, scored by its residual."""

    def __init__(self, settings: RobustAutoencoder, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, size, _ = shape
        self.autoencoder = Autoencoder(channels, size, settings.latent_dim, settings.width)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return ‖x − D(E(x))‖₂ of images (B, C, H, W) in [0, 1]."""
        x_hat = self.autoencoder(x)
        residual = (x - x_hat).flatten(1).norm(dim=1)
        return Scored({"residual": residual}, residual_map(x, x_hat), x_hat)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the residual."""
        return components["residual"]

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return a phase for each round."""
        settings = self.settings
        optimizers = Optimizers(
            {"autoencoder": self.autoencoder.parameters()},
            {"autoencoder": settings.lr},
            betas=(0.9, 0.999),
            accelerator=accelerator,
        )
        steps = _Steps(self.autoencoder, optimizers, settings.lam)
        count = step_count(n_train, settings.batch_size, settings.epochs, settings.min_steps)
        starts = _round_starts(count, settings.rounds)
        return Recipe(
            networks=nn.ModuleDict({"model": self, "previous": steps.previous}),
            optimizers=optimizers,
            phases=[
                Phase(f"round {number + 1}", end - start, partial(steps.train, start))
                for number, (start, end) in enumerate(pairwise(starts))
            ],
            batch_size=settings.batch_size,
            probe=steps.probe,
            checks=(STALLED_AUTOENCODER,),
        )


class Autoencoder(nn.Module):
    """D(E(x)): downsamples images (B, C, H, W) in [0, 1] to a code and back."""

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        super().__init__()
        hidden = channels_for(size, CHANNELS, width)
        down = Down(channels, size, hidden)
        self.encoder = nn.Sequential(down, nn.Linear(down.features, latent_dim))
        self.decoder = Up(channels, size, latent_dim, hidden[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return reconstructions (B, C, H, W) in [0, 1]."""
        x_hat: Tensor = (self.decoder(self.encoder(signed(x))) + 1) / 2
        return x_hat


def shrink(rows: Tensor, threshold: float) -> Tensor:
    """Apply the proximal operator of threshold · ‖·‖₂,₁ over all but the first dimension.

    Every row (…) of `rows` (B, …) becomes max(0, 1 − threshold / ‖row‖₂) · row.
    """
    length = rows.flatten(1).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
    factor = (1 - threshold / length).clamp(min=0)
    shrunk: Tensor = factor.reshape(-1, *[1] * (rows.dim() - 1)) * rows
    return shrunk


def _round_starts(count: int, rounds: int) -> list[int]:
    """Return the first step of each of `rounds` rounds, and the number of steps `count`.

    The first round, which learns from whole images, takes half of the steps. A barely trained
    autoencoder would put every image into S, and L would be slow to recover.
    """
    first = count if rounds == 1 else count // 2
    later = [first + (count - first) * number // (rounds - 1) for number in range(1, rounds)]
    return [0, first, *later]


class _Steps:
    """Training on L = X − S, where S is shrunk from the residuals of the last round's weights."""

    def __init__(self, autoencoder: nn.Module, optimizers: Optimizers, lam: float) -> None:
        self.autoencoder, self.optimizers, self.lam = autoencoder, optimizers, lam
        self.previous = deepcopy(autoencoder).requires_grad_(False)

    def train(self, start: int, x: Tensor, rng: torch.Generator) -> None:
        """Take one training step on L in the round that starts at step `start`."""
        del rng
        if self.optimizers.step == start:
            self.previous.load_state_dict(self.autoencoder.state_dict())
        # In the first round S is 0, as the residuals of untrained weights mean nothing.
        low = x if start == 0 else x - self.sparse(x)
        loss = reconstruction_loss(low, self.autoencoder(low))
        self.optimizers.update("autoencoder", {"reconstruction": loss})

    def sparse(self, x: Tensor) -> Tensor:
        """Return S (B, C, H, W) for images `x`, which are the rows of the ℓ2,1 norm."""
        self.previous.eval()  # the loop puts all networks in training mode
        with torch.no_grad():
            residual = x - self.previous(x).float()
            return shrink(residual, self.lam * x[0].numel() ** 0.5)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the reconstruction error of held-out images."""
        del rng
        return reconstruction_figures(x, self.autoencoder(x))
