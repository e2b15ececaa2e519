"""AnoGAN: a GAN of normal images and, for each new image, a search for the closest latent.

T. Schlegl, P. Seeböck, S. M. Waldstein, U. Schmidt-Erfurth and G. Langs, "Unsupervised Anomaly
Detection with Generative Adversarial Networks to Guide Marker Discovery", IPMI 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.anomaly_map import residual_map
from adcgan.detectors.base import Detector
from adcgan.detectors.baselines.search import SEARCHES, Starts, in_tiles, search_latents, searching
from adcgan.detectors.baselines.stacks import Down, Up, halvings, normal, signed, unsigned
from adcgan.detectors.model import Model, channels_last
from adcgan.detectors.settings import (
    batch_size_setting,
    epochs_setting,
    latent_dim_setting,
    learning_rate_setting,
    min_steps_setting,
    precision_setting,
    real,
    setting,
    whole,
    width_setting,
)
from adcgan.losses import logistic_critic_loss, logistic_generator_loss
from adcgan.networks.blocks import scaled
from adcgan.scoring import Components, Scored, Shape
from adcgan.training import (
    COLLAPSE,
    SATURATED_CRITIC,
    Optimizers,
    Phase,
    Recipe,
    diversity_figures,
    step_count,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

# DCGAN's rule (Radford et al. 2016): the first value next to the image, doubled at each halving up
# to the second. At 64 px this gives the published 64, 128, 256, 512.
LEAST_CHANNELS, MOST_CHANNELS = 64, 512


class AnoGAN(Detector):
    """DCGAN, scored by the error that remains after a search for the image's latent."""

    name: ClassVar[str] = "anogan"
    capturable: ClassVar[bool] = True
    not_exported: ClassVar[str] = SEARCHES

    latent_dim: int = latent_dim_setting(100)
    width: float = width_setting()
    batch_size: int = batch_size_setting(64)
    epochs: int = epochs_setting(20)
    min_steps: int = min_steps_setting()
    lr: float = learning_rate_setting(2e-4, "both networks")
    lam: float = setting(
        0.1,
        real(0, 1),
        "Weight of the features in the search and the score; the residual has weight 1 − lam.",
    )
    search_steps: int = setting(500, whole(1), "Gradient steps on z per image.")
    lr_search: float = learning_rate_setting(0.01, "z in the search")
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> AnoGANModel:
        """Return G, the critic and the start of the search for images of `shape` (C, H, W)."""
        return AnoGANModel(self, shape)


class AnoGANModel(Model):
    """G and D, with a search per image."""

    def __init__(self, settings: AnoGAN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, size, _ = shape
        doubled = [LEAST_CHANNELS * 2**level for level in range(halvings(size))]
        hidden = [scaled(min(count, MOST_CHANNELS), settings.width) for count in doubled]
        self.generator = Up(channels, size, settings.latent_dim, hidden[::-1])
        self.critic = Critic(channels, size, hidden)
        self.starts = Starts(1, settings.latent_dim, settings.random_state)
        # On CPUs, the search takes 1.4 times as long with channels first.
        channels_last(self)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the components, the map and G(z) for the z found for each image, in tiles."""
        return in_tiles(self._explained, x)

    def _explained(self, x: Tensor) -> Scored[Tensor]:
        """Return Σ|x − G(z)|, Σ|f(x) − f(G(z))| and G(z) for the z found, images in [−1, 1]."""
        y = signed(x)
        f_y = self.critic.features(y)
        y_hat = self.generator(self._search(y, f_y))
        residual, features = self._distances(y, f_y, y_hat)
        x_hat = unsigned(y_hat)
        components = {"residual": residual, "features": features}
        return Scored(components, residual_map(x, x_hat), x_hat)

    def _distances(self, y: Tensor, f_y: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Return Σ|y − ŷ| and Σ|f(y) − f(ŷ)|, each (B,)."""
        features = (f_y - self.critic.features(y_hat)).abs()
        return (y - y_hat).abs().flatten(1).sum(1), features.sum(1)

    def _search(self, y: Tensor, f_y: Tensor) -> Tensor:
        """Search for the latents (B, z) of images `y` with features `f_y`."""
        settings = self.settings
        start = self.starts.latents.repeat(len(y), 1)

        def loss(z: Tensor) -> Tensor:
            residual, features = self._distances(y, f_y, self.generator(z))
            return (1 - settings.lam) * residual + settings.lam * features

        with searching():
            return search_latents(loss, start, settings.search_steps, settings.lr_search)

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
            "generator": list(self.generator.parameters()),
            "critic": list(self.critic.parameters()),
        }
        rates = dict.fromkeys(parameters, settings.lr)
        optimizers = Optimizers(parameters, rates, accelerator=accelerator)
        steps = _Steps(self, optimizers)
        count = step_count(n_train, settings.batch_size, settings.epochs, settings.min_steps)
        return Recipe(
            networks=self,
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=settings.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, SATURATED_CRITIC),
        )


class Critic(nn.Module):
    """D(x): DCGAN's downsampling stack, whose last map is the features f, and a linear logit."""

    def __init__(self, channels: int, size: int, hidden: list[int]) -> None:
        super().__init__()
        self.features = Down(channels, size, hidden, norm="later")
        self.logit = normal(nn.Linear(self.features.features, 1), 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1) of images (B, C, H, W); higher means more real."""
        logit: Tensor = self.logit(self.features(x))
        return logit


class _Steps:
    """One training step: the critic, then the generator."""

    def __init__(self, model: AnoGANModel, optimizers: Optimizers) -> None:
        self.generator, self.critic = model.generator, model.critic
        self.latent_dim = model.settings.latent_dim
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train both networks once."""
        fake = self.generator(self._noise(x, rng))
        on_real, on_fake = self.critic(signed(x)), self.critic(fake.detach())
        self.update("critic", {"adversarial": logistic_critic_loss(on_real, on_fake)})
        self.update("generator", {"adversarial": logistic_generator_loss(self.critic(fake))})

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the generator's diversity relative to held-out images."""
        return diversity_figures(signed(x), self.generator(self._noise(x, rng)))
