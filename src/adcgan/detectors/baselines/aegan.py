"""AE-GAN: an autoencoder and a GAN that share decoder and generator.

L. Rafiee and T. Fevens, "Unsupervised Anomaly Detection with a GAN Augmented Autoencoder", 2020:
the forerunner of AD-CGAN, without contrastive loss and latent critic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.baselines.schedule import step_count
from adcgan.detectors.heatmaps import residual_map
from adcgan.detectors.parameters import Rule, one_of, real, whole
from adcgan.losses import logistic_critic_loss, logistic_generator_loss, reconstruction_loss
from adcgan.networks.blocks import scaled
from adcgan.networks.layers import Conv2d, ConvTranspose2d
from adcgan.training import (
    COLLAPSE,
    SATURATED_CRITIC,
    STALLED_AUTOENCODER,
    Optimizers,
    Phase,
    Recipe,
    diversity_figures,
    reconstruction_figures,
)
from adcgan.training.device import PRECISIONS

if TYPE_CHECKING:
    from accelerate import Accelerator

# Channels of the layers that halve, the last ones of the list nearest the latent.
CHANNELS = (128, 256, 512)
KERNEL = 4


class AEGAN(Detector):
    """Autoencoder and GAN with one set of weights for decoder and generator.

    Parameters
    ----------
    image_size, resize, validation_fraction, fpr, contamination, device, random_state
        As for `ADCGAN`.
    latent_dim : int
        Size z of the latent.
    width : float
        Scale of every hidden width; 1 is the published network.
    batch_size, epochs, min_steps : int
        Images a step; passes over the images; the least number of steps, 0 for no least.
    lr : float
        Adam's learning rate for all networks.
    lam : float
        Weight of the critic's features in the score; 1 − lam is that of the residual.
    beta : float
        Weight of the encodings in the score.
    precision : {"auto", "float32", "bf16"}
        Of training; scores are float32 always.
    """

    rules: ClassVar[dict[str, Rule]] = {
        "latent_dim": whole(1),
        "width": real(0, 4, above=True),
        "batch_size": whole(2),
        "epochs": whole(1),
        "min_steps": whole(0),
        "lr": real(0, above=True),
        "lam": real(0, 1),
        "beta": real(0),
        "precision": one_of(*PRECISIONS),
    }

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        latent_dim: int = 100,
        width: float = 1.0,
        batch_size: int = 32,
        epochs: int = 25,
        min_steps: int = 2500,
        lr: float = 1e-4,
        lam: float = 0.1,
        beta: float = 1.0,
        validation_fraction: float = 0.1,
        fpr: float = 0.01,
        contamination: float | None = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.image_size = image_size
        self.resize = resize
        self.latent_dim = latent_dim
        self.width = width
        self.batch_size = batch_size
        self.epochs = epochs
        self.min_steps = min_steps
        self.lr = lr
        self.lam = lam
        self.beta = beta
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        channels, size, _ = shape
        return nn.ModuleDict(
            {
                "encoder": Encoder(channels, size, self.latent_dim, width),
                "generator": Generator(channels, size, self.latent_dim, width),
                "critic": Critic(channels, size, width),
            }
        )

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        parameters = {name: list(networks[name].parameters()) for name in ("generator", "critic")}
        parameters["autoencoder"] = [
            *networks["encoder"].parameters(),
            *networks["generator"].parameters(),
        ]
        rates = dict.fromkeys(parameters, self.lr)
        optimizers = Optimizers(parameters, rates, betas=(0.9, 0.999), accelerator=accelerator)
        steps = _Steps(networks, optimizers, self.latent_dim)
        count = step_count(n_train, self.batch_size, self.epochs, self.min_steps)
        return Recipe(
            networks=networks,
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=self.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, SATURATED_CRITIC, STALLED_AUTOENCODER),
        )

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        """Return the means of |x − x̂|, |f(x) − f(x̂)| and |E(x) − E(x̂)|, x̂ = G(E(x))."""
        encoder, critic = self.networks_["encoder"], cast(Critic, self.networks_["critic"])
        e_x = encoder(x)
        x_hat = self.networks_["generator"](e_x)
        return {
            "residual": (x - x_hat).abs().flatten(1).mean(1),
            "features": (critic.features(x) - critic.features(x_hat)).abs().mean(1),
            "encoded": (e_x - encoder(x_hat)).abs().mean(1),
        }

    def _combine(self, components: Components) -> NDArray[np.float64]:
        seen = (1 - self.lam) * components["residual"] + self.lam * components["features"]
        return seen + self.beta * components["encoded"]

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.networks_["generator"](self.networks_["encoder"](x))
        return x_hat

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(n, self.latent_dim, generator=rng)
        x: Tensor = generator(z.to(self._device()))
        return x

    def _map_batch(self, x: Tensor) -> Tensor:
        return residual_map(x, self._reconstruct_batch(x))


def _sides(size: int) -> list[int]:
    """Return the sides of the maps that 4×4 convolutions of stride 2 make of side `size`."""
    sides = [size]
    while sides[-1] >= KERNEL:
        sides.append((sides[-1] - KERNEL) // 2 + 1)
    return sides


def _channels(layers: int, width: float) -> list[int]:
    """Return the channels of the halvings from the image inwards; larger images start at 64."""
    widths = [64] * (layers - len(CHANNELS)) + list(CHANNELS)
    return [scaled(c, width) for c in widths[:layers]]


class Encoder(nn.Module):
    """E(x): 4×4 convolutions of stride 2, one over what is left, LayerNorm.

    At 32 px the maps have sides 15, 6 and 2, and the published last 4×4 convolution with padding 1
    is the same function as the one over the 2×2 map used here.
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
    """G(z): the encoder's maps in reverse, ended by tanh mapped to [0, 1].

    Where a side cannot be reached by a 4×4 kernel of stride 2, the kernel is 5×5, which at 32 px
    happens in the same layer as published.
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
        """Return images (B, C, H, W) in [0, 1] made of latents (B, z)."""
        x: Tensor = self.layers(z[:, :, None, None])
        return (x.tanh() + 1) / 2


class Critic(nn.Module):
    """D(x): halvings, a last convolution of stride 3 whose map is the features, a linear logit."""

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
        """Return logits (B, 1); higher = more like a real image."""
        logit: Tensor = self.logit(self.features(x))
        return logit


class _Steps:
    """One training step: the autoencoder, then the generator, then the critic."""

    def __init__(self, networks: nn.ModuleDict, optimizers: Optimizers, latent_dim: int) -> None:
        self.encoder, self.generator = networks["encoder"], networks["generator"]
        self.critic, self.latent_dim = networks["critic"], latent_dim
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
        """Return figures on held-out images: reconstruction, and the generator's diversity."""
        made = self.generator(self._noise(x, rng))
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        return figures | diversity_figures(x, made)
