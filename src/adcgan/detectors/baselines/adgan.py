"""ADGAN: a Wasserstein GAN of normal images and a search over latents and generator weights.

L. Deecke, R. Vandermeulen, L. Ruff, S. Mandt and M. Kloft, "Image Anomaly Detection with
Generative Adversarial Networks", ECML PKDD 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.anomaly_map import residual_map
from adcgan.detectors.base import Detector
from adcgan.detectors.baselines.search import (
    SEARCHES,
    Starts,
    images_at_once,
    in_tiles,
    search_latents_and_weights,
    searching,
)
from adcgan.detectors.baselines.stacks import Down, Up, channels_for, normal, signed, unsigned
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
    whole,
    width_setting,
)
from adcgan.losses import wasserstein_gradient_penalty
from adcgan.scoring import Components, Scored, Shape
from adcgan.training import (
    COLLAPSE,
    Optimizers,
    Phase,
    Recipe,
    diversity_figures,
    step_count,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

CHANNELS = (64, 128, 256)
KERNEL = 3


class ADGAN(Detector):
    """WGAN-GP, scored by the error that remains after short searches over z and a copy of G."""

    name: ClassVar[str] = "adgan"
    capturable: ClassVar[bool] = True
    not_exported: ClassVar[str] = SEARCHES

    latent_dim: int = latent_dim_setting(256)
    width: float = width_setting()
    batch_size: int = batch_size_setting(128)
    epochs: int = epochs_setting(100)
    min_steps: int = min_steps_setting()
    lr: float = learning_rate_setting(1e-4, "both networks")
    critic_steps: int = setting(2, whole(1), "Critic updates per step.")
    penalty: float = setting(20.0, real(0), "Weight of the gradient penalty.")
    restarts: int = setting(8, whole(1), "Searches per image.")
    search_steps: int = setting(5, whole(1), "Gradient steps per search.")
    lr_latent: float = learning_rate_setting(0.25, "z in the search")
    lr_weights: float = learning_rate_setting(5e-5, "the copy of G in the search")
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> ADGANModel:
        """Return G, the critic and the starts of the search for images of `shape` (C, H, W)."""
        return ADGANModel(self, shape)


class ADGANModel(Model):
    """G and C, with searches per image."""

    def __init__(self, settings: ADGAN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, size, _ = shape
        z, hidden = settings.latent_dim, channels_for(size, CHANNELS, settings.width)
        self.generator = Up(channels, size, z, hidden[::-1], kernel=KERNEL)
        self.critic = Critic(channels, size, hidden)
        self.starts = Starts(settings.restarts, z, settings.random_state)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the component, the map and the best restart's image, in tiles."""
        together = images_at_once(self.generator, self.settings.restarts)
        return in_tiles(self._explained, x, together)

    def _explained(self, x: Tensor) -> Scored[Tensor]:
        """Return the final squared error, averaged over restarts, and the best restart's image."""
        settings = self.settings
        with searching():
            found = search_latents_and_weights(
                self.generator,
                signed(x),
                self.starts.latents,
                settings.search_steps,
                settings.lr_latent,
                settings.lr_weights,
            )
        best = unsigned(found.images[torch.arange(len(x)), found.last.argmin(1)])
        return Scored({"residual": found.last.mean(1)}, residual_map(x, best), best)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the residual."""
        return components["residual"]

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
        optimizers = Optimizers(parameters, rates, betas=(0.0, 0.9), accelerator=accelerator)
        steps = _Steps(self, optimizers)
        count = step_count(n_train, settings.batch_size, settings.epochs, settings.min_steps)
        return Recipe(
            networks=self,
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=settings.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE,),
        )


class Critic(nn.Module):
    """C(x): convolutions of stride 2 without batch normalisation, and a linear output."""

    def __init__(self, channels: int, size: int, hidden: list[int]) -> None:
        super().__init__()
        self.features = Down(channels, size, hidden, kernel=KERNEL, norm="none")
        self.output = normal(nn.Linear(self.features.features, 1), 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return C(x) (B,) of images (B, C, H, W); higher means more real."""
        output: Tensor = self.output(self.features(x))
        return output.squeeze(1)


class _Steps:
    """One training step: the critic `critic_steps` times, then the generator."""

    def __init__(self, model: ADGANModel, optimizers: Optimizers) -> None:
        self.settings = model.settings
        self.generator, self.critic = model.generator, model.critic
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.settings.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train the critic `critic_steps` times and the generator once."""
        x = signed(x)
        for _ in range(self.settings.critic_steps):
            fake = self.generator(self._noise(x, rng))
            self._critic_step(x, fake.detach(), rng)
        self.update("generator", {"adversarial": -self.critic(fake).mean()})

    def _critic_step(self, x: Tensor, fake: Tensor, rng: torch.Generator) -> None:
        """Train the critic on the Wasserstein distance and its gradient penalty."""
        mix = torch.rand(len(x), device=x.device, generator=rng)
        penalty = wasserstein_gradient_penalty(self.critic, x, fake, mix)
        self.update(
            "critic",
            {
                "adversarial": self.critic(fake).mean() - self.critic(x).mean(),
                "penalty": self.settings.penalty * penalty,
            },
        )

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the generator's diversity relative to held-out images."""
        return diversity_figures(signed(x), self.generator(self._noise(x, rng)))
