"""ALAD: a bidirectional GAN with two more critics for cycle consistency.

H. Zenati, M. Romain, C. S. Foo, B. Lecouat and V. R. Chandrasekhar, "Adversarially Learned Anomaly
Detection", ICDM 2018.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.anomaly_map import residual_map
from adcgan.detectors.base import Detector
from adcgan.detectors.baselines.ema import Average, ema_decay_setting, take_over
from adcgan.detectors.baselines.stacks import Down, Up, channels_for, normal, signed, unsigned
from adcgan.detectors.model import Model
from adcgan.detectors.settings import (
    batch_size_setting,
    epochs_setting,
    latent_dim_setting,
    learning_rate_setting,
    min_steps_setting,
    precision_setting,
    width_setting,
)
from adcgan.losses import logistic_critic_loss, logistic_generator_loss
from adcgan.networks.blocks import scaled
from adcgan.networks.layers import Dropout
from adcgan.networks.spectral import SpectralNorms, spectral_norm
from adcgan.scoring import Components, Scored, Shape
from adcgan.training import (
    COLLAPSE,
    SATURATED_CRITIC,
    STALLED_AUTOENCODER,
    Optimizers,
    Phase,
    Recipe,
    diversity_figures,
    reconstruction_figures,
    step_count,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

STD = 0.01
CHANNELS = (128, 256, 512)
DROPOUT = 0.2


class ALAD(Detector):
    """Adversarially learned anomaly detection: critics on (x, z), (x, x) and (z, z)."""

    name: ClassVar[str] = "alad"
    capturable: ClassVar[bool] = True

    latent_dim: int = latent_dim_setting(100)
    width: float = width_setting()
    batch_size: int = batch_size_setting(32)
    epochs: int = epochs_setting(100)
    min_steps: int = min_steps_setting()
    lr: float = learning_rate_setting(2e-4)
    ema_decay: float = ema_decay_setting()
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> ALADModel:
        """Return E, G and the three critics for images of `shape` (C, H, W)."""
        return ALADModel(self, shape)


class ALADModel(Model):
    """E, G, D_xz, D_xx and D_zz."""

    def __init__(self, settings: ALAD, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, size, _ = shape
        z, hidden = settings.latent_dim, channels_for(size, CHANNELS, settings.width)
        # The order determines the random weights.
        generator = Up(channels, size, z, hidden[::-1], std=STD)
        self.encoder = Encoder(channels, size, z, hidden)
        self.generator = generator
        self.critic_xz = CriticXZ(channels, size, z, hidden, settings.width)
        self.critic_xx = CriticXX(channels, size, settings.width)
        self.critic_zz = CriticZZ(z)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return ‖f(x, x) − f(x, G(E(x)))‖₁, f the features of D_xx, images in [−1, 1]."""
        y = signed(x)
        y_hat = self.generator(self.encoder(y))
        distance = self.critic_xx.features(y, y) - self.critic_xx.features(y, y_hat)
        x_hat = unsigned(y_hat)
        return Scored({"features": distance.abs().sum(1)}, residual_map(x, x_hat), x_hat)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the feature distance."""
        return components["features"]

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z) (n, C, H, W) in [0, 1] for `n` latents drawn with `rng`."""
        z = torch.randn(n, self.settings.latent_dim, generator=rng)
        return unsigned(self.generator(z.to(self.device)))

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the recipe, with a single phase."""
        settings = self.settings
        critics = nn.ModuleList([self.critic_xz, self.critic_xx, self.critic_zz])
        parameters = {
            "critic": list(critics.parameters()),
            "autoencoder": [*self.encoder.parameters(), *self.generator.parameters()],
        }
        rates = dict.fromkeys(parameters, settings.lr)
        optimizers = Optimizers(parameters, rates, accelerator=accelerator)
        average = Average(self, settings.ema_decay)
        steps = _Steps(self, optimizers, average)
        count = step_count(n_train, settings.batch_size, settings.epochs, settings.min_steps)
        return Recipe(
            networks=nn.ModuleDict({"model": self, "average": average}),
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=settings.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, SATURATED_CRITIC, STALLED_AUTOENCODER),
            finish=partial(take_over, self, average),
        )


class Encoder(nn.Sequential):
    """E(x): spectrally normalised downsampling, then one plain convolution over the last map."""

    def __init__(self, channels: int, size: int, latent_dim: int, hidden: list[int]) -> None:
        down = Down(channels, size, hidden, std=STD, spectral=True)
        super().__init__(down, normal(nn.Linear(down.features, latent_dim), STD))


def _dense(in_features: int, out_features: int) -> nn.Sequential:
    """Return a spectrally normalised dense layer with LeakyReLU and dropout."""
    return nn.Sequential(
        spectral_norm(normal(nn.Linear(in_features, out_features), STD)),
        nn.LeakyReLU(0.2),
        Dropout(DROPOUT),
    )


class CriticXZ(nn.Module):
    """D_xz: judges a pair of image and latent."""

    def __init__(
        self, channels: int, size: int, latent_dim: int, hidden: list[int], width: float
    ) -> None:
        super().__init__()
        self.of_x = Down(channels, size, hidden, std=STD, norm="later", spectral=True)
        side, joint = scaled(512, width), scaled(1024, width)
        self.of_z = nn.Sequential(_dense(latent_dim, side), _dense(side, side))
        self.joint = _dense(self.of_x.features + side, joint)
        self.logit = normal(nn.Linear(joint, 1), STD)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return logits (B, 1) of images (B, C, H, W) with latents (B, z)."""
        logit: Tensor = self.logit(self.joint(torch.cat([self.of_x(x), self.of_z(z)], 1)))
        return logit


class CriticXX(nn.Module):
    """D_xx: judges two images stacked along the height."""

    def __init__(self, channels: int, size: int, width: float) -> None:
        super().__init__()
        hidden = [scaled(64, width), scaled(128, width)]
        self.layers = Down(
            channels, size, hidden, kernel=5, std=STD, norm="none", spectral=True, dropout=DROPOUT
        )
        # Two images high: the first halving leaves `size` rows, the second ⌈size / 2⌉.
        entries = self.layers.out_channels * -(-size // 2) * self.layers.side
        self.logit = normal(nn.Linear(entries, 1), STD)

    def features(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the last layer's features (B, F) of pairs of images, each (B, C, H, W)."""
        features: Tensor = self.layers(torch.cat([x, other], 2))
        return features

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Return logits (B, 1); higher means more like an image paired with itself."""
        logit: Tensor = self.logit(self.features(x, other))
        return logit


class CriticZZ(nn.Module):
    """D_zz: judges a pair of latents, 2z → 64 → 32 → 1."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        logit = normal(nn.Linear(32, 1), STD)
        self.layers = nn.Sequential(_dense(2 * latent_dim, 64), _dense(64, 32), logit)

    def forward(self, z: Tensor, other: Tensor) -> Tensor:
        """Return logits (B, 1); higher means more like a latent paired with itself."""
        logit: Tensor = self.layers(torch.cat([z, other], 1))
        return logit


class _Steps:
    """One training step: the three critics, then the encoder and the generator."""

    def __init__(self, model: ALADModel, optimizers: Optimizers, average: Average) -> None:
        self.model, self.average = model, average
        self.encoder, self.generator = model.encoder, model.generator
        self.xz, self.xx, self.zz = model.critic_xz, model.critic_xx, model.critic_zz
        self.encoder_norms = SpectralNorms(model.encoder)
        self.critic_norms = SpectralNorms(nn.ModuleList([self.xz, self.xx, self.zz]))
        self.latent_dim = model.settings.latent_dim
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once."""
        x, z = signed(x), self._noise(x, rng)
        with self.encoder_norms.shared():
            e_x, g_z = self.encoder(x), self.generator(z)
            x_hat, z_hat = self.generator(e_x), self.encoder(g_z)
        self._critics(x, z, *(made.detach() for made in (e_x, g_z, x_hat, z_hat)))
        with self.critic_norms.shared():
            # The critic treats the encoder's pairs as real, so the encoder tries to make them look
            # fake.
            losses = {
                "generator": logistic_generator_loss(self.xz(g_z, z)),
                "encoder": logistic_generator_loss(-self.xz(x, e_x)),
                "image_cycle": logistic_generator_loss(self.xx(x, x_hat)),
                "latent_cycle": logistic_generator_loss(self.zz(z, z_hat)),
            }
        self.update("autoencoder", losses)
        self.average.update(self.model)

    def _critics(
        self, x: Tensor, z: Tensor, e_x: Tensor, g_z: Tensor, x_hat: Tensor, z_hat: Tensor
    ) -> None:
        """Train D_xz, D_xx and D_zz. They share no weights, so one optimizer is enough."""
        with self.critic_norms.shared():
            losses = {
                "adversarial": logistic_critic_loss(self.xz(x, e_x), self.xz(g_z, z)),
                "image_cycle": logistic_critic_loss(self.xx(x, x), self.xx(x, x_hat)),
                "latent_cycle": logistic_critic_loss(self.zz(z, z), self.zz(z, z_hat)),
            }
        self.update("critic", losses)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction error and the generator's diversity."""
        x = signed(x)
        made = self.generator(self._noise(x, rng))
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        return figures | diversity_figures(x, made)
