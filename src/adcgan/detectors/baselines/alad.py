"""ALAD: a bidirectional GAN with two more critics that make it cycle-consistent.

H. Zenati, M. Romain, C. S. Foo, B. Lecouat and V. R. Chandrasekhar, "Adversarially Learned Anomaly
Detection", ICDM 2018.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.baselines.ema import averaged, take_over
from adcgan.detectors.baselines.schedule import step_count
from adcgan.detectors.baselines.stacks import Down, Up, channels_for, normal, signed, unsigned
from adcgan.detectors.heatmaps import residual_map
from adcgan.detectors.parameters import Rule, one_of, real, whole
from adcgan.losses import logistic_critic_loss, logistic_generator_loss
from adcgan.networks.blocks import scaled
from adcgan.networks.layers import Dropout, spectral_norm
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

STD = 0.01
CHANNELS = (128, 256, 512)
DROPOUT = 0.2


class ALAD(Detector):
    """Adversarially learned anomaly detection: critics on (x, z), (x, x) and (z, z).

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
        epochs: int = 100,
        min_steps: int = 2500,
        lr: float = 2e-4,
        ema_decay: float = 0.999,
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
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        channels, size, _ = shape
        hidden = channels_for(size, CHANNELS, width)
        up = Up(channels, size, self.latent_dim, hidden[::-1], std=STD)
        return nn.ModuleDict(
            {
                "encoder": Encoder(channels, size, self.latent_dim, hidden),
                "generator": up,
                "critic_xz": CriticXZ(channels, size, self.latent_dim, hidden, width),
                "critic_xx": CriticXX(channels, size, width),
                "critic_zz": CriticZZ(self.latent_dim),
            }
        )

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        groups = {
            "critic": ("critic_xz", "critic_xx", "critic_zz"),
            "autoencoder": ("encoder", "generator"),
        }
        parameters = {
            name: [p for part in parts for p in networks[part].parameters()]
            for name, parts in groups.items()
        }
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
        """Return the score ‖f(x, x) − f(x, G(E(x)))‖₁, f the features of D_xx."""
        critic, x = cast(CriticXX, self.networks_["critic_xx"]), signed(x)
        x_hat = self.networks_["generator"](self.networks_["encoder"](x))
        distance = (critic.features(x, x) - critic.features(x, x_hat)).abs().sum(1)
        return {"features": distance}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return components["features"]

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        return unsigned(self.networks_["generator"](self.networks_["encoder"](signed(x))))

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(n, self.latent_dim, generator=rng)
        return unsigned(generator(z.to(self._device())))

    def _map_batch(self, x: Tensor) -> Tensor:
        return residual_map(x, self._reconstruct_batch(x))


class Encoder(nn.Sequential):
    """E(x): spectrally normalised halvings, then one plain convolution over what is left."""

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
    """D_xz: judges an image with a latent."""

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
    """D_xx: judges an image above another, stacked along the height."""

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
        """Return the last layer's features (B, F) of two images (B, C, H, W) each."""
        features: Tensor = self.layers(torch.cat([x, other], 2))
        return features

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Return logits (B, 1); higher = more like an image with itself."""
        logit: Tensor = self.logit(self.features(x, other))
        return logit


class CriticZZ(nn.Module):
    """D_zz: judges a latent beside another, 2z → 64 → 32 → 1."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        logit = normal(nn.Linear(32, 1), STD)
        self.layers = nn.Sequential(_dense(2 * latent_dim, 64), _dense(64, 32), logit)

    def forward(self, z: Tensor, other: Tensor) -> Tensor:
        """Return logits (B, 1); higher = more like a latent with itself."""
        logit: Tensor = self.layers(torch.cat([z, other], 1))
        return logit


class _Steps:
    """One training step: the three critics, then encoder and generator."""

    def __init__(
        self,
        networks: nn.ModuleDict,
        optimizers: Optimizers,
        latent_dim: int,
        average: AveragedModel,
    ) -> None:
        self.networks, self.average = networks, average
        self.encoder, self.generator = networks["encoder"], networks["generator"]
        self.xz, self.xx = networks["critic_xz"], networks["critic_xx"]
        self.zz = networks["critic_zz"]
        self.latent_dim = latent_dim
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once."""
        x, z = signed(x), self._noise(x, rng)
        with parametrize.cached():
            e_x, g_z = self.encoder(x), self.generator(z)
            x_hat, z_hat = self.generator(e_x), self.encoder(g_z)
        self._critics(x, z, *(made.detach() for made in (e_x, g_z, x_hat, z_hat)))
        with parametrize.cached():
            # The encoder's pairs are the critic's real ones, so its aim is that they pass as fake.
            losses = {
                "generator": logistic_generator_loss(self.xz(g_z, z)),
                "encoder": logistic_generator_loss(-self.xz(x, e_x)),
                "image_cycle": logistic_generator_loss(self.xx(x, x_hat)),
                "latent_cycle": logistic_generator_loss(self.zz(z, z_hat)),
            }
        self.update("autoencoder", losses)
        self.average.update_parameters(self.networks)

    def _critics(
        self, x: Tensor, z: Tensor, e_x: Tensor, g_z: Tensor, x_hat: Tensor, z_hat: Tensor
    ) -> None:
        """Train D_xz, D_xx and D_zz; they share no weights, so one optimizer serves them."""
        with parametrize.cached():
            losses = {
                "adversarial": logistic_critic_loss(self.xz(x, e_x), self.xz(g_z, z)),
                "image_cycle": logistic_critic_loss(self.xx(x, x), self.xx(x, x_hat)),
                "latent_cycle": logistic_critic_loss(self.zz(z, z), self.zz(z, z_hat)),
            }
        self.update("critic", losses)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction, and the generator's diversity."""
        x = signed(x)
        made = self.generator(self._noise(x, rng))
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        return figures | diversity_figures(x, made)
