"""ADGAN: a Wasserstein GAN of normal images, and a search over latent and generator weights.

L. Deecke, R. Vandermeulen, L. Ruff, S. Mandt and M. Kloft, "Image Anomaly Detection with
Generative Adversarial Networks", ECML PKDD 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.baselines.schedule import step_count
from adcgan.detectors.baselines.search import (
    Found,
    Starts,
    images_at_once,
    search_latents_and_weights,
    searching,
)
from adcgan.detectors.baselines.stacks import Down, Up, channels_for, normal, signed, unsigned
from adcgan.detectors.heatmaps import residual_map
from adcgan.detectors.parameters import Rule, one_of, real, whole
from adcgan.losses import wasserstein_gradient_penalty
from adcgan.training import COLLAPSE, Optimizers, Phase, Recipe, diversity_figures
from adcgan.training.device import PRECISIONS

if TYPE_CHECKING:
    from accelerate import Accelerator

CHANNELS = (64, 128, 256)
KERNEL = 3


class ADGAN(Detector):
    """WGAN-GP; the score is the error left after short searches over z and a copy of G.

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
        Adam's learning rate for both networks.
    critic_steps : int
        Critic updates a step.
    penalty : float
        Weight of the gradient penalty.
    restarts, search_steps : int
        Searches for each image, and gradient steps of each.
    lr_latent, lr_weights : float
        Adam's learning rates in the search, for z and for the copy of G.
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
        "critic_steps": whole(1),
        "penalty": real(0),
        "restarts": whole(1),
        "search_steps": whole(1),
        "lr_latent": real(0, above=True),
        "lr_weights": real(0, above=True),
        "precision": one_of(*PRECISIONS),
    }

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        latent_dim: int = 256,
        width: float = 1.0,
        batch_size: int = 128,
        epochs: int = 100,
        min_steps: int = 2500,
        lr: float = 1e-4,
        critic_steps: int = 2,
        penalty: float = 20.0,
        restarts: int = 8,
        search_steps: int = 5,
        lr_latent: float = 0.25,
        lr_weights: float = 5e-5,
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
        self.critic_steps = critic_steps
        self.penalty = penalty
        self.restarts = restarts
        self.search_steps = search_steps
        self.lr_latent = lr_latent
        self.lr_weights = lr_weights
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        channels, size, _ = shape
        hidden = channels_for(size, CHANNELS, width)
        return nn.ModuleDict(
            {
                "generator": Up(channels, size, self.latent_dim, hidden[::-1], kernel=KERNEL),
                "critic": Critic(channels, size, hidden),
                "starts": Starts(self.restarts, self.latent_dim, self.random_state),
            }
        )

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        parameters = {name: list(networks[name].parameters()) for name in ("generator", "critic")}
        rates = dict.fromkeys(parameters, self.lr)
        optimizers = Optimizers(parameters, rates, betas=(0.0, 0.9), accelerator=accelerator)
        steps = _Steps(self, networks, optimizers)
        count = step_count(n_train, self.batch_size, self.epochs, self.min_steps)
        return Recipe(
            networks=networks,
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=self.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE,),
        )

    def _search(self, x: Tensor) -> Found:
        """Return what the search finds for images (B, C, H, W) in [−1, 1]."""
        with searching():
            return search_latents_and_weights(
                self.networks_["generator"],
                x,
                cast(Starts, self.networks_["starts"]).latents,
                self.search_steps,
                self.lr_latent,
                self.lr_weights,
            )

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        """Return the mean over restarts of the final mean squared error, images in [−1, 1]."""
        return {"residual": self._search(signed(x)).last.mean(1)}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return components["residual"]

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        """Return what the best restart makes."""
        found = self._search(signed(x))
        return unsigned(found.images[torch.arange(len(x)), found.last.argmin(1)])

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(n, self.latent_dim, generator=rng)
        return unsigned(generator(z.to(self._device())))

    def _map_batch(self, x: Tensor) -> Tensor:
        return residual_map(x, self._reconstruct_batch(x))

    def _score_batch_size(self) -> int:
        """Return how many images are searched at once: each restart has a copy of G."""
        together = images_at_once(self.networks_["generator"], self.restarts)
        return min(super()._score_batch_size(), together)


class Critic(nn.Module):
    """C(x): convolutions of stride 2 without batch normalisation, and a linear output."""

    def __init__(self, channels: int, size: int, hidden: list[int]) -> None:
        super().__init__()
        self.features = Down(channels, size, hidden, kernel=KERNEL, norm="none")
        self.output = normal(nn.Linear(self.features.features, 1), 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return C(x) (B,) of images (B, C, H, W); higher = more like a real image."""
        output: Tensor = self.output(self.features(x))
        return output.squeeze(1)


class _Steps:
    """One training step: the critic some times, then the generator."""

    def __init__(self, detector: ADGAN, networks: nn.ModuleDict, optimizers: Optimizers) -> None:
        self.settings = detector
        self.generator, self.critic = networks["generator"], networks["critic"]
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
        """Return the generator's diversity beside held-out images."""
        return diversity_figures(signed(x), self.generator(self._noise(x, rng)))
