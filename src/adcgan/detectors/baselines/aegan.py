"""AE-GAN: an autoencoder and a GAN whose decoder and generator are the same network.

L. Rafiee and T. Fevens, "Unsupervised Anomaly Detection with a GAN Augmented Autoencoder", 2020:
the predecessor of AD-CGAN, without a contrastive loss and a latent critic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.anomaly_map import residual_map
from adcgan.detectors.base import Detector
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
from adcgan.losses import logistic_critic_loss, logistic_generator_loss, reconstruction_loss
from adcgan.networks.blocks import scaled
from adcgan.networks.layers import Conv2d, ConvTranspose2d
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

# Channels of the strided layers; the last ones are nearest the latent.
CHANNELS = (128, 256, 512)
KERNEL = 4


class AEGAN(Detector):
    """Autoencoder and GAN that share the weights of decoder and generator."""

    name: ClassVar[str] = "aegan"
    capturable: ClassVar[bool] = True

    latent_dim: int = latent_dim_setting(100)
    width: float = width_setting()
    batch_size: int = batch_size_setting(32)
    epochs: int = epochs_setting(25)
    min_steps: int = min_steps_setting()
    lr: float = learning_rate_setting(1e-4)
    weight_decay: float = setting(
        0.0,
        real(0),
        "L2 regularisation inside Adam, for the critic and for G's step against it. The authors' "
        "release uses 0.5.",
    )
    lam: float = setting(
        0.1,
        real(0, 1),
        "Weight of the critic's features in the score; the residual has weight 1 − lam.",
    )
    beta: float = setting(1.0, real(0), "Weight of the encodings in the score.")
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> AEGANModel:
        """Return E, G and the critic for images of `shape` (C, H, W)."""
        return AEGANModel(self, shape)


class AEGANModel(Model):
    """E, G and D. The autoencoder's decoder is G itself."""

    def __init__(self, settings: AEGAN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, size, _ = shape
        z, scale = settings.latent_dim, settings.width
        self.encoder = Encoder(channels, size, z, scale)
        self.generator = Generator(channels, size, z, scale)
        self.critic = Critic(channels, size, scale)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the means of |x − x̂|, |f(x) − f(x̂)| and |E(x) − E(x̂)|, where x̂ = G(E(x))."""
        e_x = self.encoder(x)
        x_hat = self.generator(e_x)
        features = self.critic.features(x) - self.critic.features(x_hat)
        components = {
            "residual": (x - x_hat).abs().flatten(1).mean(1),
            "features": features.abs().mean(1),
            "encoded": (e_x - self.encoder(x_hat)).abs().mean(1),
        }
        return Scored(components, residual_map(x, x_hat), x_hat)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return (1 − λ)·residual + λ·features + β·encoded."""
        lam, beta = self.settings.lam, self.settings.beta
        seen = (1 - lam) * components["residual"] + lam * components["features"]
        return seen + beta * components["encoded"]

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z) (n, C, H, W) in [0, 1] for `n` latents drawn with `rng`."""
        z = torch.randn(n, self.settings.latent_dim, generator=rng)
        x: Tensor = self.generator(z.to(self.device))
        return x

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the recipe, with a single phase."""
        settings = self.settings
        parameters = {
            "generator": list(self.generator.parameters()),
            "critic": list(self.critic.parameters()),
            "autoencoder": [*self.encoder.parameters(), *self.generator.parameters()],
        }
        rates = dict.fromkeys(parameters, settings.lr)
        optimizers = Optimizers(
            parameters,
            rates,
            betas=(0.9, 0.999),
            weight_decay=dict.fromkeys(("generator", "critic"), settings.weight_decay),
            accelerator=accelerator,
        )
        steps = _Steps(self, optimizers)
        count = step_count(n_train, settings.batch_size, settings.epochs, settings.min_steps)
        return Recipe(
            networks=self,
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=settings.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, SATURATED_CRITIC, STALLED_AUTOENCODER),
        )


def _sides(size: int) -> list[int]:
    """Return the sides of the maps after each 4×4 convolution of stride 2, from side `size`."""
    sides = [size]
    while sides[-1] >= KERNEL:
        sides.append((sides[-1] - KERNEL) // 2 + 1)
    return sides


def _channels(layers: int, width: float) -> list[int]:
    """Return the channels of the halvings from the image inwards; larger images start at 64."""
    widths = [64] * (layers - len(CHANNELS)) + list(CHANNELS)
    return [scaled(c, width) for c in widths[:layers]]


class Encoder(nn.Module):
    """E(x): 4×4 convolutions of stride 2, one convolution over the last map, LayerNorm.

    At 32 px the maps have sides 15, 6 and 2. The published last 4×4 convolution with padding 1 is
    the same function as the convolution over the 2×2 map used here.
    """

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        super().__init__()
        sides = _sides(size)
        layers: list[nn.Module] = []
        for out in _channels(len(sides) - 1, width):
            layers += [Conv2d(channels, out, KERNEL, 2), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
            channels = out
        layers.append(Conv2d(channels, latent_dim, sides[-1]))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return latents (B, z) of images (B, C, H, W) in [0, 1]."""
        z: Tensor = self.norm(self.layers(x).flatten(1))
        return z


class Generator(nn.Module):
    """G(z): the encoder's maps in reverse, followed by tanh mapped to [0, 1].

    Where a 4×4 kernel of stride 2 cannot produce the required side, the kernel is 5×5. At 32 px
    this is the same layer as in the publication.
    """

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        super().__init__()
        sides = _sides(size)
        hidden = _channels(len(sides) - 1, width)[::-1]
        layers: list[nn.Module] = [ConvTranspose2d(latent_dim, hidden[0], sides[-1])]
        side = sides[-1]
        for before, after, wanted in zip(
            hidden, [*hidden[1:], channels], sides[-2::-1], strict=True
        ):
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
            layers.append(ConvTranspose2d(before, after, wanted - 2 * (side - 1), 2))
            side = wanted
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] for latents (B, z)."""
        x: Tensor = self.layers(z[:, :, None, None])
        return (x.tanh() + 1) / 2


class Critic(nn.Module):
    """D(x): downsampling, a convolution of stride 3 that gives the features, a linear logit."""

    def __init__(self, channels: int, size: int, width: float) -> None:
        super().__init__()
        sides = _sides(size)
        hidden = _channels(len(sides) - 1, width)
        layers: list[nn.Module] = []
        for number, out in enumerate(hidden):
            last = number == len(hidden) - 1
            layers.append(Conv2d(channels, out, KERNEL, 3 if last else 2))
            layers += [nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
            channels = out
        self.layers = nn.Sequential(*layers, nn.Flatten())
        side = (sides[-2] - KERNEL) // 3 + 1
        self.logit = nn.Linear(channels * side**2, 1)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (B, F) of images (B, C, H, W) in [0, 1]."""
        features: Tensor = self.layers(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1); higher means more real."""
        logit: Tensor = self.logit(self.features(x))
        return logit


class _Steps:
    """One training step: the autoencoder, then the generator, then the critic."""

    def __init__(self, model: AEGANModel, optimizers: Optimizers) -> None:
        self.encoder, self.generator, self.critic = model.encoder, model.generator, model.critic
        self.latent_dim = model.settings.latent_dim
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once."""
        x_hat = self.generator(self.encoder(x))
        self.update("autoencoder", {"reconstruction": reconstruction_loss(x, x_hat)})
        fake = self.generator(self._noise(x, rng))
        self.update("generator", {"adversarial": logistic_generator_loss(self.critic(fake))})
        on_real, on_fake = self.critic(x), self.critic(fake.detach())
        self.update("critic", {"adversarial": logistic_critic_loss(on_real, on_fake)})

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction error and the generator's diversity."""
        made = self.generator(self._noise(x, rng))
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        return figures | diversity_figures(x, made)
