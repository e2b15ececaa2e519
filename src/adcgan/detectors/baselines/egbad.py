"""EGBAD: anomaly detection with a bidirectional GAN.

H. Zenati, C. S. Foo, B. Lecouat, G. Manek and V. R. Chandrasekhar, "Efficient GAN-Based Anomaly
Detection", 2018.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.anomaly_map import residual_map
from adcgan.detectors.base import Detector
from adcgan.detectors.baselines.ema import Average, ema_decay_setting, take_over
from adcgan.detectors.baselines.stacks import Down, channels_for, normal, signed, unsigned
from adcgan.detectors.model import Model
from adcgan.detectors.settings import (
    batch_size_setting,
    epochs_setting,
    latent_dim_setting,
    learning_rate_setting,
    min_steps_setting,
    precision_setting,
    real,
    setting,
    width_setting,
)
from adcgan.losses import logistic_critic_loss, logistic_generator_loss
from adcgan.networks.blocks import scaled
from adcgan.networks.layers import Dropout
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

STD = 0.02
SLOPE = 0.1
DROPOUT = 0.5


class EGBAD(Detector):
    """Bidirectional GAN with one critic on pairs of images and latents."""

    name: ClassVar[str] = "egbad"
    capturable: ClassVar[bool] = True

    latent_dim: int = latent_dim_setting(200)
    width: float = width_setting()
    batch_size: int = batch_size_setting(100)
    epochs: int = epochs_setting(100)
    min_steps: int = min_steps_setting()
    lr: float = learning_rate_setting(1e-5)
    ema_decay: float = ema_decay_setting()
    lam: float = setting(
        0.1, real(0, 1), "Weight of the features in the score; the residual has weight 1 − lam."
    )
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> EGBADModel:
        """Return E, G and the critic for images of `shape` (C, H, W)."""
        return EGBADModel(self, shape)


class EGBADModel(Model):
    """E, G and D."""

    def __init__(self, settings: EGBAD, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, size, _ = shape
        z, scale = settings.latent_dim, settings.width
        self.encoder = Encoder(channels, size, z, scale)
        self.generator = Generator(channels, size, z, scale)
        self.critic = Critic(channels, size, z, scale)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return ‖x − G(E(x))‖₁ and ‖f(x, E(x)) − f(G(E(x)), E(x))‖₁, images in [−1, 1]."""
        y = signed(x)
        e_y = self.encoder(y)
        y_hat = self.generator(e_y)
        features = self.critic.features(y, e_y) - self.critic.features(y_hat, e_y)
        components = {
            "residual": (y - y_hat).abs().flatten(1).sum(1),
            "features": features.abs().sum(1),
        }
        x_hat = unsigned(y_hat)
        return Scored(components, residual_map(x, x_hat), x_hat)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return (1 − λ)·residual + λ·features."""
        lam = self.settings.lam
        return (1 - lam) * components["residual"] + lam * components["features"]

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z) (n, C, H, W) in [0, 1] for `n` latents drawn with `rng`."""
        z = torch.randn(n, self.settings.latent_dim, generator=rng)
        return unsigned(self.generator(z.to(self.device)))

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the recipe, with a single phase."""
        settings = self.settings
        parameters = {
            "critic": list(self.critic.parameters()),
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
    """E(x): a convolution at full size, a downsampling stack and a dense layer."""

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        first = scaled(32, width)
        hidden = channels_for(size, (64, 128), width)
        down = Down(first, size, hidden, kernel=3, std=STD, slope=SLOPE)
        super().__init__(
            normal(nn.Conv2d(channels, first, 3, padding=1), STD),
            nn.LeakyReLU(SLOPE),
            down,
            normal(nn.Linear(down.features, latent_dim), STD),
        )


class Generator(nn.Module):
    """G(z): two dense layers to the smallest map, then upsampling to an image in [−1, 1]."""

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        super().__init__()
        hidden = channels_for(size, (64, 128), width)[::-1]
        base, dense = -(-size // 2 ** len(hidden)), scaled(1024, width)
        entries = hidden[0] * base**2
        layers: list[nn.Module] = [
            *(normal(nn.Linear(latent_dim, dense), STD), nn.BatchNorm1d(dense), nn.ReLU()),
            *(normal(nn.Linear(dense, entries), STD), nn.BatchNorm1d(entries), nn.ReLU()),
            nn.Unflatten(1, (hidden[0], base, base)),
        ]
        for before, after in pairwise(hidden):
            layers.append(normal(nn.ConvTranspose2d(before, after, 4, 2, 1), STD))
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(normal(nn.ConvTranspose2d(hidden[-1], channels, 4, 2, 1), STD))
        self.layers = nn.Sequential(*layers)
        self.size = size

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, channels, size, size) in [−1, 1] for latents (B, z)."""
        x: Tensor = self.layers(z)[..., : self.size, : self.size]
        return x.tanh()


class Critic(nn.Module):
    """D(x, z): judges a pair of image and latent."""

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        super().__init__()
        hidden = channels_for(size, (64, 64), width)
        self.of_x = Down(
            channels, size, hidden, std=STD, norm="later", slope=SLOPE, dropout=DROPOUT
        )
        side, joint = scaled(512, width), scaled(1024, width)
        self.of_z = self._dense(latent_dim, side)
        self.joint = self._dense(self.of_x.features + side, joint)
        self.logit = normal(nn.Linear(joint, 1), STD)

    @staticmethod
    def _dense(in_features: int, out_features: int) -> nn.Sequential:
        layer = normal(nn.Linear(in_features, out_features), STD)
        return nn.Sequential(layer, nn.LeakyReLU(SLOPE), Dropout(DROPOUT))

    def features(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the last hidden layer (B, F) for images (B, C, H, W) with latents (B, z)."""
        features: Tensor = self.joint(torch.cat([self.of_x(x), self.of_z(z)], 1))
        return features

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return logits (B, 1); higher means more like a real image with its encoding."""
        logit: Tensor = self.logit(self.features(x, z))
        return logit


class _Steps:
    """One training step: the critic, then the encoder and the generator."""

    def __init__(self, model: EGBADModel, optimizers: Optimizers, average: Average) -> None:
        self.model, self.average = model, average
        self.encoder, self.generator, self.critic = model.encoder, model.generator, model.critic
        self.latent_dim = model.settings.latent_dim
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once."""
        x, z = signed(x), self._noise(x, rng)
        e_x, g_z = self.encoder(x), self.generator(z)
        on_real, on_fake = self.critic(x, e_x.detach()), self.critic(g_z.detach(), z)
        self.update("critic", {"adversarial": logistic_critic_loss(on_real, on_fake)})
        # The critic treats the encoder's pairs as real, so the encoder tries to make them look
        # fake.
        losses = {
            "generator": logistic_generator_loss(self.critic(g_z, z)),
            "encoder": logistic_generator_loss(-self.critic(x, e_x)),
        }
        self.update("autoencoder", losses)
        self.average.update(self.model)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction error and the generator's diversity."""
        x = signed(x)
        made = self.generator(self._noise(x, rng))
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        return figures | diversity_figures(x, made)
