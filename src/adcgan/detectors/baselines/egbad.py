"""EGBAD: anomaly detection with a bidirectional GAN.

H. Zenati, C. S. Foo, B. Lecouat, G. Manek and V. R. Chandrasekhar, "Efficient GAN-Based Anomaly
Detection", 2018.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.baselines.ema import averaged, take_over
from adcgan.detectors.baselines.schedule import step_count
from adcgan.detectors.baselines.stacks import Down, channels_for, normal, signed, unsigned
from adcgan.detectors.heatmaps import residual_map
from adcgan.detectors.parameters import Rule, one_of, real, whole
from adcgan.losses import logistic_critic_loss, logistic_generator_loss
from adcgan.networks.blocks import scaled
from adcgan.networks.layers import Dropout
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

STD = 0.02
SLOPE = 0.1
DROPOUT = 0.5


class EGBAD(Detector):
    """Bidirectional GAN: one critic on images with their latents.

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
    ema_decay : float
        Decay of the averaged weights that score; 0 scores with the last weights.
    lam : float
        Weight of the features in the score; 1 − lam is that of the residual.
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
        "ema_decay": real(0, 1, below=True),
        "lam": real(0, 1),
        "precision": one_of(*PRECISIONS),
    }

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        latent_dim: int = 200,
        width: float = 1.0,
        batch_size: int = 100,
        epochs: int = 100,
        min_steps: int = 2500,
        lr: float = 1e-5,
        ema_decay: float = 0.999,
        lam: float = 0.1,
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
        self.ema_decay = ema_decay
        self.lam = lam
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
                "critic": Critic(channels, size, self.latent_dim, width),
            }
        )

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        pair = [*networks["encoder"].parameters(), *networks["generator"].parameters()]
        parameters = {"critic": list(networks["critic"].parameters()), "autoencoder": pair}
        optimizers = Optimizers(
            parameters, dict.fromkeys(parameters, self.lr), accelerator=accelerator
        )
        average = averaged(networks, self.ema_decay)
        steps = _Steps(networks, optimizers, self.latent_dim, average)
        count = step_count(n_train, self.batch_size, self.epochs, self.min_steps)
        return Recipe(
            networks=nn.ModuleDict({**networks, "average": average}),
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=self.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, SATURATED_CRITIC, STALLED_AUTOENCODER),
            finish=partial(take_over, networks, average),
        )

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        """Return ‖x − G(E(x))‖₁ and ‖f(x, E(x)) − f(G(E(x)), E(x))‖₁, images in [−1, 1]."""
        critic, x = cast(Critic, self.networks_["critic"]), signed(x)
        e_x = self.networks_["encoder"](x)
        x_hat = self.networks_["generator"](e_x)
        features = critic.features(x, e_x) - critic.features(x_hat, e_x)
        return {
            "residual": (x - x_hat).abs().flatten(1).sum(1),
            "features": features.abs().sum(1),
        }

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return (1 - self.lam) * components["residual"] + self.lam * components["features"]

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        return unsigned(self.networks_["generator"](self.networks_["encoder"](signed(x))))

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(n, self.latent_dim, generator=rng)
        return unsigned(generator(z.to(self._device())))

    def _map_batch(self, x: Tensor) -> Tensor:
        return residual_map(x, self._reconstruct_batch(x))


class Encoder(nn.Sequential):
    """E(x): a convolution at full size, halvings, a dense layer."""

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        first = scaled(32, width)
        hidden = channels_for(size, (64, 128), width)
        down = Down(first, size, hidden, kernel=3, std=STD, slope=SLOPE)
        super().__init__(
            normal(nn.Conv2d(channels, first, 3, padding=1), STD),
            down,
            normal(nn.Linear(down.features, latent_dim), STD),
        )


class Generator(nn.Module):
    """G(z): two dense layers to the smallest map, then doublings to an image in [−1, 1]."""

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
        """Return images (B, channels, size, size) in [−1, 1] made of latents (B, z)."""
        x: Tensor = self.layers(z)[..., : self.size, : self.size]
        return x.tanh()


class Critic(nn.Module):
    """D(x, z): judges an image with a latent."""

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
        """Return logits (B, 1); higher = more like a real image with its encoding."""
        logit: Tensor = self.logit(self.features(x, z))
        return logit


class _Steps:
    """One training step: the critic, then encoder and generator."""

    def __init__(
        self,
        networks: nn.ModuleDict,
        optimizers: Optimizers,
        latent_dim: int,
        average: AveragedModel,
    ) -> None:
        self.networks, self.average = networks, average
        self.encoder, self.generator = networks["encoder"], networks["generator"]
        self.critic = networks["critic"]
        self.latent_dim = latent_dim
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once."""
        x, z = signed(x), self._noise(x, rng)
        e_x, g_z = self.encoder(x), self.generator(z)
        on_real, on_fake = self.critic(x, e_x.detach()), self.critic(g_z.detach(), z)
        self.update("critic", {"adversarial": logistic_critic_loss(on_real, on_fake)})
        # The encoder's pairs are the critic's real ones, so its aim is that they pass as fake.
        losses = {
            "generator": logistic_generator_loss(self.critic(g_z, z)),
            "encoder": logistic_generator_loss(-self.critic(x, e_x)),
        }
        self.update("autoencoder", losses)
        self.average.update_parameters(self.networks)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction, and the generator's diversity."""
        x = signed(x)
        made = self.generator(self._noise(x, rng))
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        return figures | diversity_figures(x, made)
